//! Numbers: medians, percentiles, and ratios over rounds.

use serde::Serialize;

/// The median of some numbers with the least and the most of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of at least one number; of none it is not a number.
    pub fn of(numbers: &[f64]) -> Self {
        Self {
            median: percentile(numbers, 50.0),
            min: numbers.iter().copied().fold(f64::INFINITY, f64::min),
            max: numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

/// The `p`-th percentile by the nearest rank; of none it is not a number.
pub fn percentile(numbers: &[f64], p: f64) -> f64 {
    if numbers.is_empty() {
        return f64::NAN;
    }
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank in a slice"
    )]
    let rank = ((p / 100.0 * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len());
    sorted[rank - 1]
}

/// What a ratio, or a value, must reach.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "is", content = "value")]
pub enum Target {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
    /// Told for comparison only.
    None,
}

impl Target {
    /// Whether a value reaches it; none where there is nothing to reach.
    pub fn is_met(self, value: f64) -> Option<bool> {
        match self {
            Self::AtLeast(least) => Some(value >= least),
            Self::AtMost(most) => Some(value <= most),
            Self::None => None,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, ">= {least}"),
            Self::AtMost(most) => write!(f, "<= {most}"),
            Self::None => write!(f, "-"),
        }
    }
}

/// One line of the table: a figure of ours, that of the reference, and their ratio.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// What was measured, such as `256 in flight`.
    pub case: String,
    /// Of both figures: `/s`, `ms`, `MB`, …
    pub unit: &'static str,
    /// Ours, over the rounds.
    pub ours: Spread,
    /// What it is compared with; none where a value is judged by itself.
    pub reference: Option<(String, Spread)>,
    /// The ratio of each round, ours by the reference's; of a value by itself the value.
    pub ratio: Spread,
    /// What it must reach.
    pub target: Target,
    /// Whether its median does.
    pub met: Option<bool>,
    /// Why there are no figures, where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unmeasured: Option<String>,
}

impl Line {
    /// Ours beside a reference: one pair of figures for each round.
    pub fn ratio(
        case: impl Into<String>,
        unit: &'static str,
        reference: impl Into<String>,
        rounds: &[(f64, f64)],
        target: Target,
    ) -> Self {
        let (ours, theirs): (Vec<f64>, Vec<f64>) = rounds.iter().copied().unzip();
        let ratios: Vec<f64> = rounds.iter().map(|(ours, theirs)| ours / theirs).collect();
        let ratio = Spread::of(&ratios);
        Self {
            case: case.into(),
            unit,
            ours: Spread::of(&ours),
            reference: Some((reference.into(), Spread::of(&theirs))),
            ratio,
            target,
            met: target.is_met(ratio.median),
            unmeasured: None,
        }
    }

    /// A figure that is judged by itself.
    pub fn value(
        case: impl Into<String>,
        unit: &'static str,
        rounds: &[f64],
        target: Target,
    ) -> Self {
        let value = Spread::of(rounds);
        Self {
            case: case.into(),
            unit,
            ours: value,
            reference: None,
            ratio: value,
            target,
            met: target.is_met(value.median),
            unmeasured: None,
        }
    }

    /// What could not be measured, and why.
    pub fn unmeasured(case: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            unmeasured: Some(why.into()),
            ..Self::value(case, "", &[], Target::None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let numbers: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&numbers, 50.0), 50.0);
        assert_eq!(percentile(&numbers, 99.0), 99.0);
        assert_eq!(percentile(&numbers, 100.0), 100.0);
        assert_eq!(percentile(&[7.0], 99.0), 7.0);
        assert!(percentile(&[], 50.0).is_nan());
    }

    #[test]
    fn a_line_is_judged_by_the_median_of_its_ratios() {
        let rounds = [(10.0, 10.0), (30.0, 10.0), (20.0, 10.0)];
        let line = Line::ratio("x", "/s", "bare", &rounds, Target::AtLeast(2.0));
        assert_eq!(
            (line.ratio.median, line.ratio.min, line.ratio.max),
            (2.0, 1.0, 3.0)
        );
        assert_eq!(line.met, Some(true));
        let line = Line::ratio("x", "/s", "bare", &rounds, Target::AtLeast(2.1));
        assert_eq!(line.met, Some(false));
    }
}
