DROP TYPE arg_event, arg_new_session, arg_session, arg_session_few, arg_agent, arg_ledger_opened, arg_ledger_changed,
    arg_leftover, arg_lost_hold;
