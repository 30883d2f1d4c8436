-- Explaining: what the database knows of an agent's polls. Parked polls are in the memory of servers,
-- so the renewing UPDATE notes when the newest claim came, and what it asked for. No index has these
-- columns: every renewal stays a HOT update.

ALTER TABLE agents
    ADD COLUMN last_claim_at           timestamptz,
    ADD COLUMN last_claim_wait_seconds double precision CHECK (last_claim_wait_seconds >= 0),
    ADD COLUMN last_claim_max_sessions integer CHECK (last_claim_max_sessions >= 0),
    ADD CONSTRAINT a_claim_is_noted_whole CHECK ((last_claim_at IS NULL) = (last_claim_wait_seconds IS NULL)
        AND (last_claim_at IS NULL) = (last_claim_max_sessions IS NULL));
COMMENT ON COLUMN agents.last_claim_at IS 'When the newest claim of this incarnation came; null: it has not claimed';
COMMENT ON COLUMN agents.last_claim_wait_seconds IS 'How long that claim waits at most';
COMMENT ON COLUMN agents.last_claim_max_sessions IS 'How many sessions it takes; 0: only work on what the agent holds';
