DROP TABLE imported_domains, imported_pools, imported_sessions, imports;
