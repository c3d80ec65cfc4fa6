//! Parsers for numbers written as text: integers, decimals, follower counts. Integer arithmetic is
//! checked: a result that does not fit is an error, never rounded.

use crate::RepairReason::{self, OutOfRange, Unreadable};

/// Parses `[+-]?\d+(\.0+)?`, without exponents. A value that does not fit into an `i64` is out of
/// range.
#[inline]
pub(crate) fn integer(text: &str) -> Result<i64, RepairReason> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (digits, rest) = split_digits(unsigned);
    let zeros = rest.strip_prefix('.');
    if digits.is_empty()
        || zeros.map_or(!rest.is_empty(), |zeros| {
            zeros.is_empty() || zeros.bytes().any(|b| b != b'0')
        })
    {
        return Err(Unreadable);
    }
    let sign = if text.starts_with('-') { -1 } else { 1 };
    fold_digits(0, digits, sign)
}

/// Parses an [`integer`] within `bounds`, both inclusive.
#[inline]
pub(crate) fn integer_within(
    text: &str,
    bounds: std::ops::RangeInclusive<i64>,
) -> Result<i64, RepairReason> {
    let number = integer(text)?;
    if bounds.contains(&number) {
        Ok(number)
    } else {
        Err(OutOfRange)
    }
}

/// Parses `[+-]?\d+(\.\d+)?([eE][+-]?\d+)?` within ±`bound`, inclusive.
#[inline]
pub(crate) fn decimal_within(text: &str, bound: f64) -> Result<f64, RepairReason> {
    // `f64::from_str` also accepts `inf`, `nan`, `.5` and `5.`: require a digit at the start and
    // after the point.
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let fraction = unsigned
        .split_once('.')
        .map_or("0", |(_, fraction)| fraction);
    if !unsigned.starts_with(is_digit) || !fraction.starts_with(is_digit) {
        return Err(Unreadable);
    }
    let number: f64 = text.parse().map_err(|_| Unreadable)?;
    if number.abs() <= bound {
        Ok(number)
    } else {
        Err(OutOfRange)
    }
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit()
}

/// Parses a follower count: `512`, `1,234`, `124k`, `1.2M`, `2B`. A fraction that is left after the
/// suffix is applied is truncated.
///
/// The text starts with a digit. If it has commas, they must separate groups of three digits. The
/// suffix, in either case, follows without a space. Negative counts, `-0` included, and counts that
/// do not fit into an `i64` are out of range.
#[inline]
pub(crate) fn follower_count(text: &str) -> Result<i64, RepairReason> {
    if let Some(positive) = text.strip_prefix('-') {
        return Err(count(positive).err().unwrap_or(OutOfRange));
    }
    count(text)
}

fn count(text: &str) -> Result<i64, RepairReason> {
    let (number, exponent) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (text.split_at(text.len() - 1).0, 3),
        Some(b'm' | b'M') => (text.split_at(text.len() - 1).0, 6),
        Some(b'b' | b'B') => (text.split_at(text.len() - 1).0, 9),
        _ => (text, 0),
    };
    let (whole, fraction) = match number.split_once('.') {
        None => (number, ""),
        Some((_, "")) => return Err(Unreadable),
        Some(parts) => parts,
    };
    if !is_grouped(whole) || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Unreadable);
    }
    let mut count = 0;
    for digits in whole.split(',') {
        count = fold_digits(count, digits, 1)?;
    }
    let kept = fraction.get(..exponent).unwrap_or(fraction);
    count = fold_digits(count, kept, 1)?;
    for _ in kept.len()..exponent {
        count = count.checked_mul(10).ok_or(OutOfRange)?;
    }
    Ok(count)
}

/// Whether `whole` is digits only, or one to three digits followed by comma-separated groups of
/// three.
fn is_grouped(whole: &str) -> bool {
    let mut groups = whole.split(',');
    let first = groups.next().unwrap_or_default();
    let are_digits = |group: &str| !group.is_empty() && group.bytes().all(|b| b.is_ascii_digit());
    are_digits(first)
        && (first.len() == whole.len()
            || (first.len() <= 3 && groups.all(|group| group.len() == 3 && are_digits(group))))
}

/// Splits `text` after its leading ASCII digits.
#[inline]
fn split_digits(text: &str) -> (&str, &str) {
    let end = text
        .bytes()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Appends the decimal `digits` to `number`. With the `sign` −1 they are subtracted, not added, so
/// that `i64::MIN` can be parsed without overflow.
#[inline]
fn fold_digits(number: i64, digits: &str, sign: i64) -> Result<i64, RepairReason> {
    digits
        .bytes()
        .try_fold(number, |number, digit| {
            number
                .checked_mul(10)?
                .checked_add(sign * i64::from(digit - b'0'))
        })
        .ok_or(OutOfRange)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_may_have_a_zero_fraction_but_no_exponent() {
        for (text, number) in [
            ("7528", Ok(7528)),
            ("+7528", Ok(7528)),
            ("-7528", Ok(-7528)),
            ("7528.0", Ok(7528)),
            ("7528.000", Ok(7528)),
            ("007528", Ok(7528)),
            ("-0", Ok(0)),
            ("9223372036854775807", Ok(i64::MAX)),
            ("-9223372036854775808", Ok(i64::MIN)),
            ("00000000000000000000000001", Ok(1)),
            ("9223372036854775808", Err(OutOfRange)),
            ("-9223372036854775809", Err(OutOfRange)),
            ("99999999999999999999999", Err(OutOfRange)),
            ("7.528e3", Err(Unreadable)),
            ("7528e0", Err(Unreadable)),
            ("7528.", Err(Unreadable)),
            ("7528.5", Err(Unreadable)),
            ("7528.0.0", Err(Unreadable)),
            (".0", Err(Unreadable)),
            ("7 528", Err(Unreadable)),
            ("7,528", Err(Unreadable)),
            ("--1", Err(Unreadable)),
            ("+-1", Err(Unreadable)),
            ("- 1", Err(Unreadable)),
            ("0x10", Err(Unreadable)),
            ("٣", Err(Unreadable)),
            ("-", Err(Unreadable)),
            ("", Err(Unreadable)),
            ("true", Err(Unreadable)),
        ] {
            assert_eq!(integer(text), number, "{text}");
        }
    }

    #[test]
    fn bounds_are_inclusive() {
        for (text, number) in [
            ("0", Ok(0)),
            ("150", Ok(150)),
            ("151", Err(OutOfRange)),
            ("-1", Err(OutOfRange)),
        ] {
            assert_eq!(integer_within(text, 0..=150), number, "{text}");
        }
    }

    #[test]
    fn decimals_need_digits_on_both_sides_of_the_point() {
        for (text, number) in [
            ("-89.9787", Ok(-89.9787)),
            ("+12.5", Ok(12.5)),
            ("90", Ok(90.0)),
            ("-90.0", Ok(-90.0)),
            ("9e1", Ok(90.0)),
            ("0.9E+2", Ok(90.0)),
            ("900e-1", Ok(90.0)),
            ("007.5", Ok(7.5)),
            ("90.0000001", Err(OutOfRange)),
            ("-91", Err(OutOfRange)),
            ("1e999", Err(OutOfRange)),
            ("-1e999", Err(OutOfRange)),
            (".5", Err(Unreadable)),
            ("-.5", Err(Unreadable)),
            ("5.", Err(Unreadable)),
            ("5.e1", Err(Unreadable)),
            ("5..1", Err(Unreadable)),
            ("5.1.1", Err(Unreadable)),
            ("+-5", Err(Unreadable)),
            ("5e", Err(Unreadable)),
            ("5e+", Err(Unreadable)),
            ("5,5", Err(Unreadable)),
            ("52°N", Err(Unreadable)),
            ("NaN", Err(Unreadable)),
            ("inf", Err(Unreadable)),
            ("-Infinity", Err(Unreadable)),
            ("0x5", Err(Unreadable)),
            ("", Err(Unreadable)),
            ("-", Err(Unreadable)),
        ] {
            assert_eq!(decimal_within(text, 90.0), number, "{text}");
        }
    }

    #[test]
    fn follower_counts_are_exact() {
        for (text, number) in [
            ("124k", Ok(124_000)),
            ("124K", Ok(124_000)),
            ("1M", Ok(1_000_000)),
            ("1m", Ok(1_000_000)),
            ("2B", Ok(2_000_000_000)),
            ("2b", Ok(2_000_000_000)),
            ("1.2M", Ok(1_200_000)),
            ("512", Ok(512)),
            ("1,234", Ok(1_234)),
            ("1,234,567", Ok(1_234_567)),
            ("12,345.6k", Ok(12_345_600)),
            ("1.2345k", Ok(1_234)),
            ("1.9999", Ok(1)),
            ("0.0005k", Ok(0)),
            ("512.0", Ok(512)),
            ("0.1B", Ok(100_000_000)),
            ("1.123456789123B", Ok(1_123_456_789)),
            ("0", Ok(0)),
            ("0512", Ok(512)),
            ("9223372036854775807", Ok(i64::MAX)),
            ("9223372036.854775807B", Ok(i64::MAX)),
            ("9223372036854775.8079k", Ok(i64::MAX)),
            ("9223372036854775808", Err(OutOfRange)),
            ("9223372036.854775808B", Err(OutOfRange)),
            ("9223372037B", Err(OutOfRange)),
            ("99999999999999999999999999", Err(OutOfRange)),
            ("-5", Err(OutOfRange)),
            ("-1.5k", Err(OutOfRange)),
            ("-0", Err(OutOfRange)),
            ("-99999999999999999999", Err(OutOfRange)),
            ("-lots", Err(Unreadable)),
            ("--5", Err(Unreadable)),
            ("lots", Err(Unreadable)),
            ("k", Err(Unreadable)),
            (".5k", Err(Unreadable)),
            ("5.k", Err(Unreadable)),
            ("5.", Err(Unreadable)),
            ("1 k", Err(Unreadable)),
            ("1kk", Err(Unreadable)),
            ("1.2.3M", Err(Unreadable)),
            ("1T", Err(Unreadable)),
            ("+5", Err(Unreadable)),
            ("1e3", Err(Unreadable)),
            ("12,34", Err(Unreadable)),
            ("1234,567", Err(Unreadable)),
            ("1,2M", Err(Unreadable)),
            (",123", Err(Unreadable)),
            ("1,,234", Err(Unreadable)),
            ("1,234,", Err(Unreadable)),
            ("1.234,567", Err(Unreadable)),
            ("1k,234", Err(Unreadable)),
            ("٣k", Err(Unreadable)),
            ("5é", Err(Unreadable)),
            ("true", Err(Unreadable)),
        ] {
            assert_eq!(follower_count(text), number, "{text}");
        }
    }
}
