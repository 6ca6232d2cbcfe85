//! Parses durations in Go's notation: `30s`, `1h2m`, `-1.5s`.
//!
//! This module implements the grammar of Go's `time.ParseDuration`. The caller decides what a negative
//! duration means.
//! Invariant: no input causes a panic or an overflow.

/// A description of the notation, for messages.
pub const SYNTAX: &str = "a duration such as 500ms, 30s or 1h30m";

const UNITS: [(&str, i128); 8] = [
    // Longer names come first, because "ms" begins with "m".
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Parses a duration that an operator wrote. A negative duration is an error.
pub fn positive(text: &str) -> Result<std::time::Duration, String> {
    let parsed = parse(text).and_then(|nanos| u64::try_from(nanos).ok());
    parsed.map(std::time::Duration::from_nanos).ok_or_else(|| format!("{text:?} is not {SYNTAX}"))
}

/// Returns the number of nanoseconds, if Go would accept the text.
pub fn parse(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let (name, unit) = UNITS.iter().find(|(name, _)| after.starts_with(name))?;
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(i128::from(whole) * unit + of_unit(fraction, *unit)?)?;
        rest = &after[name.len()..];
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// Returns the length of `0.fraction` units in nanoseconds, rounded down.
fn of_unit(fraction: &str, unit: i128) -> Option<i128> {
    // Ignore digits after the 18th: they are worth less than one nanosecond in every unit.
    let digits = fraction.get(..18).unwrap_or(fraction);
    let scale = 10_i128.pow(u32::try_from(digits.len()).ok()?);
    format!("0{digits}").parse::<i128>().ok().map(|part| part * unit / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_reads_them() {
        for (text, nanos) in [
            ("0", 0),
            ("-0", 0),
            ("0s", 0),
            ("5s", 5_000_000_000),
            ("100ms", 100_000_000),
            ("1h2m", 3_720_000_000_000),
            ("-1s", -1_000_000_000),
            ("+1s", 1_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5m", 30_000_000_000),
            ("1.s", 1_000_000_000),
            ("1.25h", 4_500_000_000_000),
            ("3us", 3_000),
            ("3\u{b5}s", 3_000),
            ("3\u{3bc}s", 3_000),
            ("1h1h", 7_200_000_000_000),
            ("0.000000001s", 1),
            ("0.0000000001s", 0),
            ("0.55ns", 0),
            ("1.9999us", 1_999),
            ("0.3333333333333333333333h", 1_199_999_999_999),
        ] {
            assert_eq!(parse(text), Some(nanos), "{text}");
        }
    }

    #[test]
    fn what_go_refuses() {
        for text in [
            "",
            " ",
            "5",
            "abc",
            "s",
            ".s",
            "-",
            "+",
            "1d",
            "1s ",
            " 1s",
            "1 s",
            "--1s",
            "1S",
            "1e3s",
            "9999999999h",
            "99999999999999999999999s",
            "1\u{e9}",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
