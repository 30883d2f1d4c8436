//! Calls about the commands of sessions. Wherever a session is named, its id or its name will do.

use lessor_protocol::{Command, NewCommand, Page};
use reqwest::Method;

use crate::client::{Call, Client, Paging};
use crate::error::Error;

impl Client {
    /// Creates a command for a session's holder. With an idempotency key, trying again never makes
    /// a second one.
    ///
    /// # Errors
    /// See [`Error`]; `transition_not_allowed` for a session that has ended.
    pub async fn create_command(
        &self,
        session: &str,
        body: &NewCommand,
        idempotency_key: Option<&str>,
    ) -> Result<Command, Error> {
        let path = ["sessions", session, "commands"];
        let call = Call::new(Method::POST, &path).json(body)?;
        self.fetch(call.idempotency_key(idempotency_key)).await
    }

    /// A page of a session's commands, newest first.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_commands(
        &self,
        session: &str,
        paging: &Paging,
    ) -> Result<Page<Command>, Error> {
        let mut query = Vec::new();
        paging.query(&mut query);
        let path = ["sessions", session, "commands"];
        self.fetch(Call::new(Method::GET, &path).query(query)).await
    }

    /// One command, with its result once there is one.
    ///
    /// # Errors
    /// See [`Error`]; `command_not_found`.
    pub async fn get_command(&self, session: &str, command: &str) -> Result<Command, Error> {
        let path = ["sessions", session, "commands", command];
        self.fetch(Call::new(Method::GET, &path)).await
    }

    /// Cancels a command; an agent that is at it is told to stop.
    ///
    /// # Errors
    /// See [`Error`]; `transition_not_allowed` for one that is over.
    pub async fn cancel_command(&self, session: &str, command: &str) -> Result<Command, Error> {
        let path = ["sessions", session, "commands", command];
        self.fetch(Call::new(Method::DELETE, &path)).await
    }
}
