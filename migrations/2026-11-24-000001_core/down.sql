DROP TABLE fences, pulse, idempotency_keys, events, lease_ledger, leftovers, lost_holds, sessions,
    resource_domains, agent_instances, agents, pools;
DROP SEQUENCE incarnations;
