//! Filters by label, as lists of pools, agents and sessions have them.

use lessor_protocol::Labels;

use super::Checks;
use crate::problem::Problem;

/// The labels of a filter, `label=key:value` given once or more. The first colon divides; all of
/// them must hold.
///
/// # Errors
/// `validation_failed`, pointer `label`: no colon, too many or too long, or one key with two values.
pub fn label_filter(parameters: &[String]) -> Result<Labels, Problem> {
    let mut labels = Labels::new();
    for parameter in parameters {
        let (key, value) = parameter
            .split_once(':')
            .ok_or_else(|| Problem::invalid("label", "must be `key:value`"))?;
        let before = labels.insert(key.to_owned(), value.to_owned());
        if before.is_some_and(|before| before != value) {
            return Err(Problem::invalid(
                "label",
                "must not ask one key for two values",
            ));
        }
    }
    let mut checks = Checks::new();
    checks.labels("label", &labels);
    checks.finish().map_err(|mut problem| {
        for error in &mut problem.errors {
            // The parameter is what can be pointed at, not a place in it.
            "label".clone_into(&mut error.pointer);
        }
        problem
    })?;
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_filters() {
        let filter = |parameters: &[&str]| {
            label_filter(
                &parameters
                    .iter()
                    .map(|&text| text.to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        let found = filter(&["a:b:c", "d:", "a:b:c"]).expect("labels");
        assert_eq!(
            found,
            Labels::from([("a".into(), "b:c".into()), ("d".into(), String::new())])
        );
        for bad in [vec!["a"], vec!["a:b", "a:c"], vec![":b"]] {
            assert_eq!(
                filter(&bad).expect_err("refused").errors[0].pointer,
                "label",
                "{bad:?}"
            );
        }
    }
}

#[cfg(test)]
mod fuzz {
    use super::*;

    #[test]
    fn fuzz_label_filters() {
        lessor_fuzz::run(
            &[b"a:b", b"k:v\nteam:red:blue"],
            &[":", "\n", "a:c"],
            |input| {
                let text = String::from_utf8_lossy(input);
                let parameters: Vec<String> = text.lines().map(str::to_owned).collect();
                match label_filter(&parameters) {
                    Ok(labels) => {
                        let written: Vec<String> = labels
                            .iter()
                            .map(|(key, value)| format!("{key}:{value}"))
                            .collect();
                        assert_eq!(label_filter(&written).ok().as_ref(), Some(&labels));
                        assert!(
                            labels
                                .keys()
                                .all(|key| !key.is_empty() && !key.contains(':'))
                        );
                    }
                    Err(problem) => assert!(problem.errors.iter().all(|e| e.pointer == "label")),
                }
            },
        );
    }
}
