DROP TABLE audit;
DROP FUNCTION an_entry_stays();
