DROP TABLE pool_turns, owner_turns, pool_owners;
DROP INDEX sessions_taking_place;
DROP INDEX sessions_start_queue;
CREATE INDEX sessions_start_queue ON sessions (agent_pool, queue_rank, queued_at) WHERE pool_work = 'start';
ALTER TABLE sessions DROP COLUMN takes_place, DROP COLUMN requires_key, DROP COLUMN owner_key;
