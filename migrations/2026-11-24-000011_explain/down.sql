ALTER TABLE agents DROP COLUMN last_claim_at, DROP COLUMN last_claim_wait_seconds, DROP COLUMN last_claim_max_sessions;
