//! Percent-encoding, undone: of URLs, and of names in a cluster's keys (RFC 3986, section 2.1).
//!
//! Owns: what `%` and what follows it mean. Does not own: which bytes are written so.
//! Invariant: what is malformed is no text, never another text.

/// The text that was encoded; `None` if that is malformed, or not UTF-8.
pub fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first == b'%' {
            let hex = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_malformed_is_no_text() {
        for (text, decoded) in
            [("", ""), ("a.b~c", "a.b~c"), ("%2F%c3%A4x", "/\u{e4}x"), ("+", "+")]
        {
            assert_eq!(decode(text).as_deref(), Some(decoded), "{text}");
        }
        for text in ["%", "a%2", "%zz", "%\u{e4}", "%FF", "%C3"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
