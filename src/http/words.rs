//! Lists of words in a parameter, such as the states that a call waits for.

use std::str::FromStr;

use lessor_protocol::UnknownWord;

use crate::problem::Problem;

/// The words of one parameter, separated by commas.
///
/// # Errors
/// `validation_failed`, with the parameter's name as pointer: a word that is not one of the set.
pub fn words<T: FromStr<Err = UnknownWord>>(
    parameter: &str,
    text: &str,
) -> Result<Vec<T>, Problem> {
    let parse = |word: &str| {
        let parsed = word.trim().parse();
        parsed.map_err(|error: UnknownWord| Problem::invalid(parameter, error.to_string()))
    };
    text.split(',').map(parse).collect()
}
