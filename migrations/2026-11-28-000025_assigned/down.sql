DROP INDEX agents_by_end_of_cordon;
DROP INDEX sessions_assigned_by_pool;
