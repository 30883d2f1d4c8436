DROP TABLE rebalance_looks, rebalance_moves, rebalances;
ALTER TABLE pools DROP COLUMN rebalance_min_gain;
ALTER TABLE sessions DROP COLUMN reserved_for, DROP COLUMN reserved_until;
