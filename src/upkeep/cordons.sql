-- upkeep::cordons
-- Agents whose cordon is over, the first that was over first.
SELECT name FROM agents WHERE cordon_until <= now() AND scheduling <> 'draining' ORDER BY cordon_until LIMIT 100
