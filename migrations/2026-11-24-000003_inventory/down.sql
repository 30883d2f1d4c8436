DROP TABLE absent_resources, quarantined_resources;
DROP INDEX sessions_by_resource;
DROP INDEX leftovers_gone, leftovers_by_session, leftovers_by_resource, leftovers_to_delete;
DELETE FROM leftovers WHERE gone_at IS NOT NULL;
ALTER TABLE leftovers DROP COLUMN gone_at;
ALTER TABLE leftovers ALTER COLUMN created_at SET DEFAULT now();
CREATE INDEX leftovers_by_domain ON leftovers (pool, resource_domain);
ALTER TABLE agents DROP COLUMN inventory_taken_at;
