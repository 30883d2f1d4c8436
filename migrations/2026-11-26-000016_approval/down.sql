DROP TABLE agent_approvals;
ALTER TABLE pools DROP COLUMN approval;
