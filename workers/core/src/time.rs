//! ISO 8601 timestamps, parsed to microseconds since the epoch.

use std::ops::RangeInclusive;

/// The years 0001 to 9999 in UTC, seconds since the epoch.
const SECONDS: RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Parses `YYYY-MM-DD HH:MM:SS` or `YYYY-MM-DDTHH:MM:SS`, any number of fraction digits, then `Z`,
/// an offset (`+05:30`, `-0800`, `+02`) or nothing, which means UTC. Returns microseconds since
/// 1970-01-01T00:00:00Z.
///
/// Digits past microseconds are truncated. The date must exist in the proleptic Gregorian calendar,
/// and the moment must lie in the years 0001 to 9999, as written and in UTC. Leap seconds are
/// refused: microseconds since the epoch can't express them. Offsets range to ±23:59.
#[inline]
pub(crate) fn timestamp(text: &str) -> Option<i64> {
    let (fixed, rest) = text.as_bytes().split_first_chunk::<19>()?;
    if (fixed[4], fixed[7], fixed[13], fixed[16]) != (b'-', b'-', b':', b':')
        || !matches!(fixed[10], b' ' | b'T')
    {
        return None;
    }
    let year = number([fixed[0], fixed[1]])? * 100 + number([fixed[2], fixed[3]])?;
    let (month, day) = (number([fixed[5], fixed[6]])?, number([fixed[8], fixed[9]])?);
    let (hour, minute, second) = (
        number([fixed[11], fixed[12]])?,
        number([fixed[14], fixed[15]])?,
        number([fixed[17], fixed[18]])?,
    );
    if year == 0 || !(1..=12).contains(&month) || !(1..=days_in(year, month)).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (micros, rest) = fraction(rest)?;
    let seconds = days_since_epoch(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second
        - offset(rest)?;
    SECONDS
        .contains(&seconds)
        .then_some(seconds * 1_000_000 + micros)
}

/// Parses two ASCII digits.
#[inline]
fn number([tens, ones]: [u8; 2]) -> Option<i64> {
    (tens.is_ascii_digit() && ones.is_ascii_digit())
        .then(|| i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
}

/// Parses an optional fraction and returns its microseconds and the rest.
#[inline]
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some(text) = text.strip_prefix(b".") else {
        return Some((0, text));
    };
    let (digits, rest) = text.split_at(
        text.iter()
            .position(|b| !b.is_ascii_digit())
            .unwrap_or(text.len()),
    );
    let micros = (0..6).fold(0, |micros, at| {
        micros * 10 + digits.get(at).map_or(0, |digit| i64::from(digit - b'0'))
    });
    (!digits.is_empty()).then_some((micros, rest))
}

/// Parses a UTC offset, seconds east of UTC.
#[inline]
fn offset(text: &[u8]) -> Option<i64> {
    let (sign, hours, minutes) = match *text {
        [] | [b'Z'] => return Some(0),
        [sign, h1, h0] => (sign, number([h1, h0])?, 0),
        [sign, h1, h0, m1, m0] | [sign, h1, h0, b':', m1, m0] => {
            (sign, number([h1, h0])?, number([m1, m0])?)
        }
        _ => return None,
    };
    if hours > 23 || minutes > 59 {
        return None;
    }
    match sign {
        b'+' => Some(hours * 3_600 + minutes * 60),
        b'-' => Some(-(hours * 3_600 + minutes * 60)),
        _ => None,
    }
}

#[inline]
fn days_in(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970-01-01. Source: Howard Hinnant's `days_from_civil` (public domain), for years
/// from 0 on. Its years begin in March so that the leap day comes last.
#[inline]
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year
        - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_parsed() {
        for (text, micros) in [
            ("1970-01-01 00:00:00", Some(0)),
            ("2020-08-28 03:52:47", Some(1_598_586_767_000_000)),
            ("2020-08-28T03:52:47", Some(1_598_586_767_000_000)),
            ("2020-08-28T03:52:47Z", Some(1_598_586_767_000_000)),
            ("2020-08-28 03:52:47Z", Some(1_598_586_767_000_000)),
            ("2020-08-28 03:52:47.5", Some(1_598_586_767_500_000)),
            (
                "2020-08-28T03:52:47.123456789Z",
                Some(1_598_586_767_123_456),
            ),
            ("2020-08-28T09:22:47+05:30", Some(1_598_586_767_000_000)),
            ("2020-08-27T19:52:47-0800", Some(1_598_586_767_000_000)),
            ("2020-08-28T05:52:47.000001+02", Some(1_598_586_767_000_001)),
            ("1969-12-31T23:59:59.999999", Some(-1)),
            ("2000-02-29 00:00:00", Some(951_782_400_000_000)),
            ("2024-02-29 23:59:59", Some(1_709_251_199_000_000)),
            ("0001-01-01 00:00:00", Some(-62_135_596_800_000_000)),
            ("9999-12-31 23:59:59.999999", Some(253_402_300_799_999_999)),
            ("1969-12-31 23:59:59.9999999", Some(-1)),
            ("2020-01-01T00:00:00-00:00", Some(1_577_836_800_000_000)),
            // The first and last moments of the years 0001 to 9999 in UTC, whatever the offset.
            (
                "9999-12-31T22:59:59.999999-01:00",
                Some(253_402_300_799_999_999),
            ),
            ("9999-12-31T23:00:00-01:00", None),
            ("9999-12-31T23:59:59-0001", None),
            ("9999-12-31T23:59:59-23:59", None),
            ("0001-01-01T01:00:00+01:00", Some(-62_135_596_800_000_000)),
            ("0001-01-01T00:59:59.999999+01:00", None),
            ("0001-01-01 00:00:00+01", None),
            ("0001-01-01 00:00:00+23:59", None),
            ("2020-08-28", None),
            ("2020-08-28 03:52", None),
            ("2020-08-28 03:52:47.", None),
            ("2020-08-28 03:52:47,5", None),
            ("2020-08-28  03:52:47", None),
            ("2020-08-28t03:52:47", None),
            ("2020-08-28T03:52:47z", None),
            ("2020-08-28 03:52:47 +02:00", None),
            ("2020-08-28 03:52:47+2", None),
            ("2020-08-28 03:52:47+24:00", None),
            ("2020-08-28 03:52:47+02:60", None),
            ("2020-08-28 03:52:47~02:00", None),
            ("2020-08-28 03:52:47 UTC", None),
            ("2020-08-28 24:00:00", None),
            ("2020-08-28 03:60:00", None),
            ("2016-12-31 23:59:60", None),
            ("2021-02-29 00:00:00", None),
            ("1900-02-29 00:00:00", None),
            ("2020-02-30 00:00:00", None),
            ("2020-04-31 00:00:00", None),
            ("2020-13-01 00:00:00", None),
            ("2020-00-01 00:00:00", None),
            ("2020-01-00 00:00:00", None),
            ("0000-01-01 00:00:00", None),
            ("20-08-28 03:52:47", None),
            ("28/08/2020 03:52:47", None),
            ("+020-08-28 03:52:47", None),
            ("2020-08-28 03:52:4é", None),
            ("1598586767", None),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(timestamp(text), micros, "{text}");
        }
    }

    #[test]
    fn days_are_consecutive() {
        let mut day = days_since_epoch(1, 1, 1);
        for year in 1..=9999 {
            for month in 1..=12 {
                assert_eq!(days_since_epoch(year, month, 1), day, "{year}-{month}");
                day += days_in(year, month);
            }
        }
        assert_eq!(days_since_epoch(1970, 1, 1), 0);
    }
}
