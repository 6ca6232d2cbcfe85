//! Finds the line and column of a value in JSON text, from the path of the value
//! (`ipam.ranges[0][1].subnet`).
//!
//! Invariant: no text causes a panic, even if it is not JSON.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::fields::join;

/// A line and a column, both counted from 1. Columns are counted in characters, not in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// Converts offsets to positions in a single pass over the text. The offsets must be in ascending order.
pub(super) struct Cursor<'a> {
    text: &'a str,
    offset: usize,
    at: Position,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Cursor<'a> {
        Cursor { text, offset: 0, at: Position { line: 1, column: 1 } }
    }

    /// Returns the position of the byte at `offset`. Successive calls must have ascending offsets.
    pub(super) fn advance(&mut self, offset: usize) -> Position {
        for c in self.text.get(self.offset..offset).unwrap_or_default().chars() {
            if c == '\n' {
                self.at = Position { line: self.at.line + 1, column: 1 };
            } else {
                self.at.column += 1;
            }
        }
        self.offset = offset;
        self.at
    }
}

/// The offset of a value, and the offset of its key if it has one, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offsets {
    pub(super) key: usize,
    pub(super) value: usize,
}

/// Returns the offsets of those `places` that occur in the text; empty if the text is not JSON. If a key
/// occurs several times, returns the offsets of its last value, because only the last value takes effect.
pub(super) fn offsets(text: &str, places: &BTreeSet<&str>) -> HashMap<String, Offsets> {
    let mut walk = Walk { text, places, found: HashMap::new() };
    if let Ok(value) = serde_json::from_str(text) {
        walk.value(String::new(), None, value);
    }
    walk.found
}

struct Walk<'a> {
    text: &'a str,
    places: &'a BTreeSet<&'a str>,
    found: HashMap<String, Offsets>,
}

impl<'a> Walk<'a> {
    fn value(&mut self, path: String, key: Option<&'a RawValue>, value: &'a RawValue) {
        // Skip values that contain none of the searched paths. Each level of the tree is parsed again, so
        // large values would be slow.
        let next = self.places.range(&*path..).next();
        if !next.is_some_and(|place| place.starts_with(&path)) {
            return;
        }
        let offset = |raw: &RawValue| raw.get().as_ptr().addr() - self.text.as_ptr().addr();
        let spot = Offsets { key: offset(key.unwrap_or(value)), value: offset(value) };
        if let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(value.get()) {
            for (index, item) in items.into_iter().enumerate() {
                self.value(format!("{path}[{index}]"), None, item);
            }
        } else if let Ok(Members(members)) = serde_json::from_str(value.get()) {
            for (key, value) in members {
                let name: String = serde_json::from_str(key.get()).unwrap_or_default();
                self.value(join(&path, &name), Some(key), value);
            }
        }
        self.found.insert(path, spot);
    }
}

/// The keys and values of an object, as written in the text.
struct Members<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Members<'de>, D::Error> {
        from.deserialize_map(Members(Vec::new()))
    }
}

impl<'de> Visitor<'de> for Members<'de> {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Members<'de>, A::Error> {
        while let Some(member) = map.next_entry()? {
            self.0.push(member);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(text: &str, place: &str) -> Option<(Position, Position)> {
        let spot = *offsets(text, &BTreeSet::from([place])).get(place)?;
        let mut cursor = Cursor::new(text);
        Some((cursor.advance(spot.key), cursor.advance(spot.value)))
    }

    #[test]
    fn keys_and_values() {
        let text =
            "{\n  \"name\": \"n\",\n  \"ipam\": {\"r\\u0061nges\": [[{}, {\"subnet\" : 7}]]}\n}";
        let at = |line, column| Position { line, column };
        assert_eq!(positions(text, "name"), Some((at(2, 3), at(2, 11))));
        assert_eq!(positions(text, "ipam.ranges[0][1].subnet"), Some((at(3, 34), at(3, 45))));
        assert_eq!(positions(text, ""), Some((at(1, 1), at(1, 1))));
        assert_eq!(positions(text, "ipam.ranges[0][2]"), None);
    }

    #[test]
    fn the_last_of_two_counts_and_columns_are_characters() {
        let text = "{\"\u{e9}\u{e9}\": 1, \"\u{e9}\u{e9}\": 2}";
        let at = Position { line: 1, column: 17 };
        assert_eq!(positions(text, "\u{e9}\u{e9}").map(|p| p.1), Some(at));
    }

    #[test]
    fn what_is_no_json_ends_too() {
        for text in ["", "{", "[[", "{\"a", "{a:1}", "\"\\", "{\"a\":}", "]", "{]}"] {
            let _ = positions(text, "a");
        }
    }
}
