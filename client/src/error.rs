//! What a call can end with, other than its answer.

use std::time::Duration;

use lessor_protocol::{Problem, ProblemCode};

/// Why a call has no answer. Programs branch on [`Error::code`], people read the message.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The service refused, and said why.
    #[error("{}: {} ({})", problem.title, problem.detail, problem.code)]
    Problem {
        /// What it said.
        problem: Box<Problem>,
        /// The HTTP status.
        status: u16,
        /// When it asked to be called again.
        retry_after: Option<Duration>,
    },
    /// Something other than Lessor answered: a proxy, a load balancer, a wrong address.
    #[error("HTTP status {status} without a problem document: {body}")]
    Unexpected {
        /// The HTTP status.
        status: u16,
        /// When it asked to be called again.
        retry_after: Option<Duration>,
        /// The beginning of what it said.
        body: String,
    },
    /// No answer came: refused, cut, timed out. The call may have been carried out all the same.
    #[error("no answer: {}", causes(.0))]
    Transport(#[from] reqwest::Error),
    /// The answer could not be read as what this client expects.
    #[error("the answer to {call} could not be read: {source}")]
    Decode {
        /// The call.
        call: String,
        /// What was wrong with it.
        source: serde_json::Error,
    },
    /// The request could not be written as JSON.
    #[error("the request could not be written: {0}")]
    Encode(serde_json::Error),
    /// The address of the service is not one.
    #[error("`{url}` is not the address of a service: {reason}")]
    Address {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// The problem's code, if the service sent one that this crate knows.
    #[must_use]
    pub fn code(&self) -> Option<ProblemCode> {
        match self {
            Self::Problem { problem, .. } => problem.code.parse().ok(),
            _ => None,
        }
    }

    /// The HTTP status, if there was an answer.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Problem { status, .. } | Self::Unexpected { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the same call may succeed later: no answer, 429 and 5xx. A creating call should
    /// carry an idempotency key when it is tried again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Problem { status, .. } | Self::Unexpected { status, .. } => {
                *status == 429 || *status == 408 || *status >= 500
            }
            Self::Transport(error) => !error.is_builder(),
            Self::Decode { .. } | Self::Encode(_) | Self::Address { .. } => false,
        }
    }

    /// How long the service asked to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem { retry_after, .. } | Self::Unexpected { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }
}

/// reqwest's own message leaves the cause out, and the cause ("connection refused") is what helps.
fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
