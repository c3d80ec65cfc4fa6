//! Durations such as `1h30m`.

use super::Problem;

/// Seconds of a duration; a text that isn't one is a problem of its field.
pub(super) fn read(field: &'static str, text: &str, problems: &mut Vec<Problem>) -> u64 {
    seconds(text).unwrap_or_else(|| {
        let message = format!(
            "`{text}` is not a duration: write hours, minutes and seconds, such as 90s or 1h30m"
        );
        problems.push(Problem { field, message });
        0
    })
}

/// Seconds of a duration made of hours, minutes and seconds. None: it isn't one, or is zero.
fn seconds(text: &str) -> Option<u64> {
    let (mut total, mut digits) = (0_u64, String::new());
    for c in text.chars() {
        let unit = match c {
            '0'..='9' => {
                digits.push(c);
                continue;
            }
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        total = total.checked_add(digits.parse::<u64>().ok()?.checked_mul(unit)?)?;
        digits.clear();
    }
    (digits.is_empty() && total > 0).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_seconds() {
        for (text, expected) in [
            ("90s", Some(90)),
            ("5m", Some(300)),
            ("1h30m", Some(5400)),
            ("24h", Some(86400)),
            ("", None),
            ("5", None),
            ("0s", None),
            ("1d", None),
            ("m", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}
