//! Moments and lengths of time for people.

use k8s_openapi::jiff::Timestamp;

/// The current time.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// Seconds from one moment to another; none if that is before.
#[must_use]
pub fn seconds_between(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.as_second() - from.as_second()).unwrap_or(0)
}

/// How long ago a moment was, as [`length`] writes it.
#[must_use]
pub fn age(then: Timestamp, now: Timestamp) -> String {
    length(seconds_between(then, now))
}

/// A length of time by its two largest units, as kubectl writes ages: `45s`, `5m12s`, `3h7m`,
/// `12d4h`.
#[must_use]
pub fn length(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

/// A time of an option, in UTC.
pub fn time(text: &str) -> Result<String, String> {
    let time: Timestamp = text
        .parse()
        .map_err(|_| "a time is such as 2026-01-31T00:00:00Z (RFC 3339)".to_owned())?;
    Ok(time.to_string())
}

/// Seconds of a length of time such as `1h30m`.
pub fn seconds(text: &str) -> Result<i64, String> {
    let invalid = || "a length of time is such as 90s, 5m or 2h".to_owned();
    let (mut total, mut rest) = (0_i64, text);
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .ok_or_else(invalid)?;
        let number: i64 = rest[..end].parse().map_err(|_| invalid())?;
        let unit = match rest.as_bytes().get(end) {
            Some(b's') => 1,
            Some(b'm') => 60,
            Some(b'h') => 3600,
            _ => return Err(invalid()),
        };
        let part = number.checked_mul(unit).ok_or_else(invalid)?;
        total = total.checked_add(part).ok_or_else(invalid)?;
        rest = &rest[end + 1..];
    }
    if total > 0 { Ok(total) } else { Err(invalid()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (312, "5m12s"),
            (3 * 3600 + 7 * 60 + 9, "3h7m"),
            (12 * 86_400 + 4 * 3600, "12d4h"),
        ] {
            assert_eq!(length(seconds), text);
        }
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(
            (age(at(10), at(15)), age(at(15), at(10))),
            ("5s".into(), "0s".into())
        );
    }

    #[test]
    fn lengths_of_time_are_read() {
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("1h30m"), Ok(5400));
        for text in ["", "5", "m", "0s", "5d", "-5m", "99999999999999999h"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
