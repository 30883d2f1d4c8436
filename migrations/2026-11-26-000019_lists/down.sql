DROP TRIGGER labels_of_a_session_that_goes ON sessions;
DROP TRIGGER labels_that_change ON sessions;
DROP TRIGGER labels_of_a_new_session ON sessions;
DROP FUNCTION keep_session_labels;
DROP TABLE session_labels;
DROP INDEX sessions_by_creation;
DROP INDEX sessions_by_domain;
DROP INDEX sessions_by_desired_state;
DROP INDEX sessions_by_state;
