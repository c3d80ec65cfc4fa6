//! Percentages such as `0.5%`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A ratio from 0 % to 100 % in steps of 0.0001 %, written as `5%` or `0.5%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Percentage {
    millionths: u32,
}

impl Percentage {
    /// This percentage of a number.
    #[must_use]
    pub fn of(self, whole: u64) -> f64 {
        whole as f64 * f64::from(self.millionths) / f64::from(MILLION)
    }
}

const MILLION: u32 = 1_000_000;
/// Number of decimals of a percentage.
const DECIMALS: usize = 4;

/// A text that is no percentage.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a percentage from 0% to 100%, such as 5% or 0.5%, of at most four decimals")]
pub struct InvalidPercentage(String);

impl FromStr for Percentage {
    type Err = InvalidPercentage;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        millionths(text)
            .filter(|millionths| *millionths <= MILLION)
            .map(|millionths| Self { millionths })
            .ok_or_else(|| InvalidPercentage(text.to_owned()))
    }
}

fn millionths(text: &str) -> Option<u32> {
    let number = text.strip_suffix('%')?;
    let (whole, decimals) = match number.split_once('.') {
        Some((whole, decimals)) => (whole, Some(decimals)),
        None => (number, None),
    };
    let is_number = |digits: &str, longest| {
        (1..=longest).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit())
    };
    if !is_number(whole, 3) || !decimals.is_none_or(|decimals| is_number(decimals, DECIMALS)) {
        return None;
    }
    format!("{whole}{:0<DECIMALS$}", decimals.unwrap_or_default())
        .parse()
        .ok()
}

impl fmt::Display for Percentage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.millionths / 10_000, self.millionths % 10_000);
        let decimals = format!(".{rest:0>DECIMALS$}");
        let decimals = decimals.trim_end_matches('0').trim_end_matches('.');
        write!(f, "{whole}{decimals}%")
    }
}

impl TryFrom<String> for Percentage {
    type Error = InvalidPercentage;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Percentage> for String {
    fn from(percentage: Percentage) -> Self {
        percentage.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_read_and_written() {
        for (text, written, of_a_thousand) in [
            ("0%", "0%", 0.0),
            ("5%", "5%", 50.0),
            ("0.5%", "0.5%", 5.0),
            ("12.50%", "12.5%", 125.0),
            ("0.0001%", "0.0001%", 0.001),
            ("100%", "100%", 1000.0),
            ("100.0000%", "100%", 1000.0),
        ] {
            let percentage: Percentage = text.parse().unwrap();
            assert_eq!(percentage.to_string(), written);
            assert!((percentage.of(1000) - of_a_thousand).abs() < 1e-9, "{text}");
        }
        for text in [
            "", "%", "5", "0.05", ".5%", "5.%", "-1%", "+1%", "101%", "100.1%", "0.00001%", "5 %",
            "1e1%", "5%%",
        ] {
            assert_eq!(
                text.parse::<Percentage>(),
                Err(InvalidPercentage(text.to_owned()))
            );
        }
    }
}
