//! Quantities such as `128Mi`.

/// Bytes of a quantity, rounded up. None: it isn't a quantity, or is zero.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, suffix) = text.split_at(end.unwrap_or(text.len()));
    let bytes = (number.parse::<f64>().ok()? * factor(suffix)?).ceil();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates, and the number is at least 1"
    )]
    (bytes >= 1.0).then_some(bytes as u64)
}

fn factor(suffix: &str) -> Option<f64> {
    let decimal = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let power = |of: &[&str], first| {
        let at = of.iter().position(|known| *known == suffix)?;
        Some(i32::try_from(at).ok()? + first)
    };
    if let Some(power) = power(&decimal, -3) {
        return Some(1000_f64.powi(power));
    }
    if let Some(power) = power(&binary, 1) {
        return Some(1024_f64.powi(power));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    Some(10_f64.powi(exponent.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_bytes() {
        for (text, expected) in [
            ("1024", Some(1024)),
            ("128Mi", Some(134_217_728)),
            ("0.5Gi", Some(536_870_912)),
            (".5Ki", Some(512)),
            ("2k", Some(2000)),
            ("1E", Some(1_000_000_000_000_000_000)),
            ("1e3", Some(1000)),
            ("1500m", Some(2)),
            ("", None),
            ("0", None),
            ("Mi", None),
            ("1.2.3", None),
            ("-1Ki", None),
            ("1 Mi", None),
            ("1MB", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }
}
