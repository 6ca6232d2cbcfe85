//! The line and column of a value in JSON text, from its path (`ipam.ranges[0][1].subnet`).
//!
//! Invariant: any text, JSON or not, is read once to its end, without a panic.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use super::fields::join;

/// Line and column, both from 1; a column is a character.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// Turns ascending offsets into positions, in one walk over the text.
pub(super) struct Cursor<'a> {
    text: &'a str,
    offset: usize,
    at: Position,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Cursor<'a> {
        Cursor { text, offset: 0, at: Position { line: 1, column: 1 } }
    }

    /// The position of this byte, which is not before the last one asked for.
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

/// Offsets in bytes: of a value's key, if it has one, and of the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offsets {
    pub(super) key: usize,
    pub(super) value: usize,
}

/// The offsets of those of `places` that are in the text. Of a key that is given twice it is the last,
/// as that is the one that counts.
pub(super) fn offsets(text: &str, places: &HashSet<&str>) -> HashMap<String, Offsets> {
    let mut walk = Walk { text, at: 0, path: String::new(), places, found: HashMap::new() };
    walk.value(None);
    walk.found
}

struct Walk<'a> {
    text: &'a str,
    at: usize,
    path: String,
    places: &'a HashSet<&'a str>,
    found: HashMap<String, Offsets>,
}

impl Walk<'_> {
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at).is_some_and(|b| b" \t\r\n,:".contains(b)) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn value(&mut self, key: Option<usize>) {
        let first = self.peek();
        if self.places.contains(&*self.path) {
            let spot = Offsets { key: key.unwrap_or(self.at), value: self.at };
            self.found.insert(self.path.clone(), spot);
        }
        match first {
            Some(b'{') => self.members(b'}'),
            Some(b'[') => self.members(b']'),
            Some(b'"') => {
                self.string();
            }
            Some(_) => {
                // A number or a word.
                let rest = &self.text.as_bytes()[self.at..];
                self.at +=
                    rest.iter().position(|b| b" \t\r\n,]}".contains(b)).unwrap_or(rest.len());
            }
            None => {}
        }
    }

    fn members(&mut self, close: u8) {
        self.at += 1;
        let outer = self.path.len();
        let mut index = 0;
        while let Some(byte) = self.peek() {
            let start = self.at;
            if byte == close {
                self.at += 1;
                break;
            }
            if close == b'}' {
                let key = self.string();
                self.path = join(&self.path, &key);
                self.value(Some(start));
            } else {
                let _ = write!(self.path, "[{index}]");
                self.value(None);
            }
            self.path.truncate(outer);
            index += 1;
            if self.at == start {
                // Not JSON; whatever it is, go on.
                self.at += 1;
            }
        }
    }

    /// The text of the string that begins here.
    fn string(&mut self) -> String {
        let start = self.at;
        let bytes = self.text.as_bytes();
        if bytes.get(start) != Some(&b'"') {
            return String::new();
        }
        self.at += 1;
        while let Some(byte) = bytes.get(self.at) {
            self.at += if *byte == b'\\' { 2 } else { 1 };
            if *byte == b'"' {
                break;
            }
        }
        self.at = self.at.min(bytes.len());
        let quoted = self.text.get(start..self.at).unwrap_or_default();
        serde_json::from_str(quoted).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(text: &str, place: &str) -> Option<(Position, Position)> {
        let spot = *offsets(text, &HashSet::from([place])).get(place)?;
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
