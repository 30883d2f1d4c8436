//! Logs and metrics: set up once for the process.
//!
//! Logs go to standard error: readable at a terminal, one JSON object a line elsewhere. Metrics are
//! gathered in the process and rendered when `/metrics` is asked for; there is no second listener.
//!
//! Invariant: both can be set up many times in one process, as tests do; the first time counts.
//!
//! What it does not do: tasks. The metrics' `run_upkeep` must be called every few seconds by
//! whoever owns background tasks, or timings pile up in memory while nobody scrapes.

use std::fmt;
use std::io::IsTerminal as _;
use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::http::{REQUEST_DURATION_SECONDS, REQUESTS_TOTAL};

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text at a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Text.
    Text,
    /// One JSON object a line.
    Json,
}

/// A log filter that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error(
    "LESSOR_LOG: `{filter}` is no filter such as `info` or `info,lessor::claims=debug`: {source}"
)]
pub struct BadFilter {
    filter: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Sends logs to standard error, from now on.
///
/// # Errors
/// When `filter` is not one of `tracing_subscriber`'s.
pub fn init_logs(format: LogFormat, filter: &str) -> Result<(), BadFilter> {
    let parsed = EnvFilter::try_new(filter).map_err(|source| BadFilter {
        filter: filter.to_owned(),
        source,
    })?;
    let at_terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr);
    let json = match format {
        LogFormat::Auto => !at_terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    // A second time in the same process fails, and the first one's choice stays.
    let _ = if json {
        builder
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .finish()
            .try_init()
    } else {
        builder.with_ansi(at_terminal).finish().try_init()
    };
    Ok(())
}

/// Buckets for what takes milliseconds when all is well, and for waits up to a claim's longest.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// Buckets for how much was done in one go: batches, rows, moves.
const SIZES: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 5000.0,
];

/// Gathers metrics from now on. What is returned renders them, and needs its `run_upkeep` called.
pub fn install_metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let recorder = builder().build_recorder();
            let handle = recorder.handle();
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!(
                    "metrics are gathered by somebody else in this process; /metrics stays empty"
                );
            }
            metrics::describe_counter!(
                REQUESTS_TOTAL,
                "Requests answered, by method, route and status (499: the client hung up)"
            );
            metrics::describe_histogram!(
                REQUEST_DURATION_SECONDS,
                "How long requests took that do not park"
            );
            handle
        })
        .clone()
}

/// Histograms in buckets, which can be summed over servers, as quantiles cannot.
fn builder() -> PrometheusBuilder {
    // Each step only fails on an empty list of buckets.
    let sized = PrometheusBuilder::new()
        .set_buckets(SECONDS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), SIZES)
        })
        .and_then(|builder| {
            builder.set_buckets_for_metric(Matcher::Suffix("_rows".to_owned()), SIZES)
        });
    sized.unwrap_or_default()
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_can_be_set_up_twice_but_not_with_nonsense() {
        assert!(init_logs(LogFormat::Json, "info,lessor::claims=debug").is_ok());
        assert!(init_logs(LogFormat::Auto, "warn").is_ok());
        let error = init_logs(LogFormat::Auto, "lessor=loud").expect_err("nonsense");
        assert!(error.to_string().contains("LESSOR_LOG"), "{error}");
    }

    #[test]
    fn metrics_are_installed_once_and_have_buckets() {
        let (first, second) = (install_metrics(), install_metrics());
        metrics::histogram!("lessor_telemetry_test_seconds").record(0.02);
        metrics::histogram!("lessor_telemetry_test_size").record(3.0);
        assert!(
            first
                .render()
                .contains("lessor_telemetry_test_seconds_bucket{le=\"0.025\"} 1"),
            "{}",
            first.render()
        );
        assert!(
            second
                .render()
                .contains("lessor_telemetry_test_size_bucket{le=\"5\"} 1"),
            "{}",
            second.render()
        );
    }
}
