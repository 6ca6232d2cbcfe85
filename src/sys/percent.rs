//! Percent-encoding of URLs and of names in a cluster's keys (RFC 3986, section 2.1).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Percent-encodes every byte that is not an unreserved character.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// Decodes a text; `None` if the text is malformed or the result is not valid UTF-8.
pub fn decode(text: &str) -> Option<String> {
    // The crate `percent_encoding` returns malformed escapes unchanged, so check all escapes first.
    let is_escape =
        |rest: &str| rest.len() > 1 && rest.bytes().take(2).all(|b| b.is_ascii_hexdigit());
    let valid = text.split('%').skip(1).all(is_escape);
    valid.then(|| percent_decode_str(text).decode_utf8().ok().map(String::from)).flatten()
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
        for text in ["%", "a%2", "%zz", "%+f", "%\u{e4}", "%FF", "%C3"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    #[test]
    fn unreserved_characters_stay() {
        assert_eq!(encode("aZ09-._~ /%\u{e4}"), "aZ09-._~%20%2F%25%C3%A4");
    }
}
