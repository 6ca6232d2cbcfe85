//! Parses JSON as Go does.
//!
//! The result is a small tree that keeps duplicate keys and their order, so that the last of several
//! identical keys takes effect.
//! Invariant: the parser limits the depth of the tree, so recursive functions on the tree are safe.

use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Number, Value};

/// One JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Array(Vec<Json>),
    /// The keys and values in the order of the text. Keys may occur several times.
    Object(Vec<(String, Json)>),
}

/// The maximum length of a quoted text in a message, in characters. Longer texts are shortened.
const LONGEST_QUOTE: usize = 64;

/// Returns `text` in quotes, shortened if it is long.
pub(super) fn quote(text: &str) -> String {
    match text.char_indices().nth(LONGEST_QUOTE) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Returns whether `key` is a spelling of `name`: `RANGESTART` and `range-start` both mean `rangeStart`.
pub(super) fn is_spelling_of(key: &str, name: &str) -> bool {
    let mut key = key.chars().peekable();
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            key.next_if_eq(&'-');
        }
        if !key.next().is_some_and(|k| k.eq_ignore_ascii_case(&c)) {
            return false;
        }
    }
    key.next().is_none()
}

impl Json {
    /// Parses one complete value. As in Go, bytes that are not UTF-8 become U+FFFD.
    pub(super) fn parse(bytes: &[u8]) -> Result<Json, serde_json::Error> {
        serde_json::from_str(&String::from_utf8_lossy(bytes))
    }

    /// Parses a text whose top-level lists may be very long. If the name of a list is in `names`, each of
    /// its items is passed to `take` as soon as it is parsed, to save memory, and the returned tree contains
    /// an empty list.
    pub(super) fn parse_apart(
        bytes: &[u8],
        names: &[&str],
        take: &mut Take<'_>,
    ) -> Result<Json, serde_json::Error> {
        let text = String::from_utf8_lossy(bytes);
        let mut parser = serde_json::Deserializer::from_str(&text);
        let json = Tree::Top(names, take).deserialize(&mut parser)?;
        parser.end()?;
        Ok(json)
    }

    /// Converts the value to a `serde_json::Value`. The order of the keys stays the same. If a key occurs
    /// several times, the last value takes effect.
    pub(super) fn value(&self) -> Value {
        match self {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => Value::Number(n.clone()),
            Json::String(s) => Value::String(s.clone()),
            Json::Array(items) => items.iter().map(Json::value).collect(),
            Json::Object(pairs) => pairs.iter().map(|(k, v)| (k.clone(), v.value())).collect(),
        }
    }

    /// Describes the type of the value, for messages such as "must be a string, not ...".
    pub(super) fn describe(&self) -> String {
        match self {
            Json::Null => "null".to_owned(),
            Json::Bool(b) => format!("boolean {b}"),
            Json::Number(n) => format!("number {n}"),
            Json::String(s) => format!("string {}", quote(s)),
            Json::Array(_) => "a list".to_owned(),
            Json::Object(_) => "an object".to_owned(),
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        Tree::Whole.deserialize(deserializer)
    }
}

/// A function that receives the items of the lists in [`Json::parse_apart`]. Its arguments are the key of the
/// list, as written, and an item with its index. `None` in place of an item marks the start of a list with
/// this key.
pub(super) type Take<'a> = dyn FnMut(&str, Option<(usize, Json)>) + 'a;

/// How a value is parsed.
enum Tree<'a, 't> {
    Whole,
    /// As an object at the top level. The items of each list with one of these names are passed to the
    /// function.
    Top(&'a [&'a str], &'a mut Take<'t>),
    /// As a list with this key. Its items are passed to the function.
    Apart(&'a str, &'a mut Take<'t>),
}

impl<'de> DeserializeSeed<'de> for Tree<'_, '_> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_, '_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Number::from_f64(value).map_or(Json::Null, Json::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        if let Tree::Apart(key, take) = self {
            let mut index = 0;
            while let Some(item) = seq.next_element()? {
                take(key, Some((index, item)));
                index += 1;
            }
        } else {
            while let Some(item) = seq.next_element()? {
                items.push(item);
            }
        }
        Ok(Json::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut pairs = Vec::new();
        let (names, mut take) = match self {
            Tree::Top(names, take) => (names, Some(take)),
            _ => (&[][..], None),
        };
        while let Some(key) = map.next_key::<String>()? {
            let value = match &mut take {
                Some(take) if names.iter().any(|name| is_spelling_of(&key, name)) => {
                    take(&key, None);
                    map.next_value_seed(Tree::Apart(&key, &mut **take))?
                }
                _ => map.next_value()?,
            };
            pairs.push((key, value));
        }
        Ok(Json::Object(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str) -> String {
        match Json::parse(json.as_bytes()) {
            Ok(json) => format!("{json:?}"),
            Err(e) => format!("error: {e}"),
        }
    }

    #[test]
    fn duplicates_and_order_are_kept() {
        assert_eq!(
            text(r#"{"b":false,"a":null,"b":[true]}"#),
            r#"Object([("b", Bool(false)), ("a", Null), ("b", Array([Bool(true)]))])"#
        );
    }

    #[test]
    fn hostile_text_is_an_error_and_no_panic() {
        for bad in [
            "",
            " ",
            "{",
            "[",
            "nul",
            "{\"a\"}",
            "{} {}",
            "{}x",
            "\"\\ud800\"",
            "1e999",
            "\u{feff}{}",
        ] {
            assert!(text(bad).starts_with("error: "), "{bad:?}");
        }
        for depth in [10_000, 1_000_000] {
            assert!(text(&"[".repeat(depth)).starts_with("error: recursion limit"));
            assert!(text(&r#"{"a":"#.repeat(depth)).starts_with("error: recursion limit"));
        }
    }

    #[test]
    fn spellings() {
        for key in ["rangeStart", "range-start", "RANGESTART", "Range-Start"] {
            assert!(is_spelling_of(key, "rangeStart"), "{key}");
        }
        for key in ["range_start", "range--start", "rangeStar", "rangeStarts", "-rangeStart", ""] {
            assert!(!is_spelling_of(key, "rangeStart"), "{key}");
        }
        assert!(
            is_spelling_of("IPV4-Subnet", "ipv4-subnet")
                && !is_spelling_of("ipv4subnet", "ipv4-subnet")
        );
    }

    #[test]
    fn bytes_that_are_no_utf8_are_replaced() {
        assert_eq!(Json::parse(b"\"a\xff\"").unwrap(), Json::String("a\u{fffd}".to_owned()));
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let long = "\u{e9}".repeat(1000);
        assert_eq!(quote(&long).chars().count(), LONGEST_QUOTE + 5);
        assert_eq!(quote("short"), "\"short\"");
    }
}
