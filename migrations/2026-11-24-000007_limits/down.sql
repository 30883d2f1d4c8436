DROP TABLE limit_checks, session_activity;
ALTER TABLE sessions DROP CONSTRAINT what_started_first_started, DROP CONSTRAINT timeouts_are_lengths;
ALTER TABLE sessions DROP COLUMN first_started_at;
