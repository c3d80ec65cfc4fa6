//! Positions in a log.

use std::{fmt, str::FromStr};

/// Ten to the number of digits in each half of a position.
const HALF: u128 = 10_u128.pow(28);
const HALF_DIGITS: usize = 28;
/// The digits of the longest position: a Kinesis sequence number.
pub const MAX_DIGITS: usize = 2 * HALF_DIGITS;

/// A position between the records of a partition: every record before it is read or stored.
///
/// Stores keep it as text, in canonical decimal: of two positions the longer one is later, and of
/// two of the same length the greater text. In Kafka it is the next offset. In Kinesis it is the
/// sequence number of the last record, 56 digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The digits before the last 28.
    high: u128,
    /// The last 28 digits.
    low: u128,
}

/// A text that is not a position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a position: a decimal number of at most 56 digits")]
pub struct NotAPosition(String);

impl Position {
    /// The position before the first record that a partition ever had.
    pub const START: Self = Self { high: 0, low: 0 };

    /// The position before the record at a Kafka offset. Offsets are not negative.
    #[must_use]
    pub const fn offset(next: i64) -> Self {
        Self {
            high: 0,
            low: if next < 0 {
                0
            } else {
                next.unsigned_abs() as u128
            },
        }
    }

    /// The next Kafka offset. A position of another log is behind every offset.
    #[must_use]
    pub fn next_offset(self) -> i64 {
        match i64::try_from(self.low) {
            Ok(next) if self.high == 0 => next,
            _ => i64::MAX,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.high {
            0 => write!(f, "{}", self.low),
            high => write!(f, "{high}{:0HALF_DIGITS$}", self.low),
        }
    }
}

impl FromStr for Position {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        let not = || NotAPosition(text.chars().take(MAX_DIGITS + 1).collect());
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(not());
        }
        let digits = text.trim_start_matches('0');
        if digits.len() > MAX_DIGITS {
            return Err(not());
        }
        let (high, low) = digits.split_at(digits.len().saturating_sub(HALF_DIGITS));
        let number = |digits: &str| match digits {
            "" => Ok(0),
            digits => digits.parse::<u128>().map_err(|_| not()),
        };
        let (high, low) = (number(high)?, number(low)?);
        debug_assert!(low < HALF, "28 digits");
        Ok(Self { high, low })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_they_are_written_and_ordered_by_length_and_text() {
        let texts = [
            "0",
            "7",
            "10",
            "9223372036854775807",
            "9999999999999999999999999999",
            "10000000000000000000000000000",
            "49590338271490256608559692538361571095921575989136588898",
            "49590338271490256608559692538361571095921575989136588899",
        ];
        let positions = texts.map(|text| text.parse::<Position>().unwrap());
        assert_eq!(positions.map(|position| position.to_string()), texts);
        assert!(positions.is_sorted());
        assert_eq!("0007".parse(), Ok(Position::offset(7)));
    }

    #[test]
    fn offsets_are_positions() {
        for offset in [0, 1, i64::MAX] {
            assert_eq!(Position::offset(offset).next_offset(), offset);
            assert_eq!(Position::offset(offset).to_string(), offset.to_string());
        }
    }

    #[test]
    fn what_is_not_a_decimal_number_of_56_digits_is_no_position() {
        for text in ["", "-1", "+1", "1 ", "0x1", &"9".repeat(57)] {
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
    }
}
