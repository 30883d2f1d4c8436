DROP VIEW pool_silence;
ALTER TABLE pools
    DROP CONSTRAINT a_brake_counts_its_agents,
    DROP COLUMN brake_since,
    DROP COLUMN brake_silent_agents,
    DROP COLUMN brake_released_at;
