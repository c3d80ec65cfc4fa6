//! Percentages such as `5%`.

use pinpipe_config::Percentage;

use super::Problem;

/// Reads a field's percentage. One that can't be read is a problem of the field.
pub(super) fn read(
    field: &'static str,
    text: Option<&str>,
    problems: &mut Vec<Problem>,
) -> Option<Percentage> {
    text?
        .parse()
        .map_err(|error: pinpipe_config::InvalidPercentage| {
            problems.push(Problem {
                field,
                message: error.to_string(),
            });
        })
        .ok()
}
