//! The values of a JSON tree, each with its path for messages.
//!
//! The case of keys is ignored, and keys may be written in kebab-case. If a key occurs several times, the
//! last value takes effect. `null` counts as absent.
//! Invariant: a value of the wrong type is always a decode error that contains the value's path.

use super::error::ConfigError;
use super::json::{Json, is_spelling_of, quote};

/// An object and its path.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields<'a> {
    path: String,
    pairs: &'a [(String, Json)],
}

/// A value and its path.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    path: String,
    json: &'a Json,
}

/// Returns the path of a key in the object at `path`.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn bad_text(path: &str, text: &str, takes: &str) -> ConfigError {
    ConfigError::invalid(format!("{path} is {}; {takes}", quote(text)))
}

impl<'a> Fields<'a> {
    /// Makes the top-level object of a configuration.
    pub(super) fn root(pairs: &'a [(String, Json)]) -> Fields<'a> {
        Fields { path: String::new(), pairs }
    }

    /// Returns the value of `name`, even if the value is `null`.
    pub(super) fn get_or_null(&self, name: &str) -> Option<Node<'a>> {
        let (key, json) = self.pairs.iter().rev().find(|(key, _)| is_spelling_of(key, name))?;
        Some(Node { path: self.join(key), json })
    }

    /// Returns the value of `name`; `None` if it is absent or `null`.
    pub(super) fn get(&self, name: &str) -> Option<Node<'a>> {
        self.get_or_null(name).filter(|node| !node.is_null())
    }

    /// Returns whether `name` is present, even if it is `null`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.pairs.iter().any(|(key, _)| is_spelling_of(key, name))
    }

    /// Returns the text of `name`. Empty text counts as absent.
    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, ConfigError> {
        let text = self.get(name).map(|node| node.text()).transpose()?;
        Ok(text.filter(|text| !text.is_empty()))
    }

    /// Returns the boolean value of `name`; false if it is absent.
    pub(super) fn flag(&self, name: &str) -> Result<bool, ConfigError> {
        self.get(name).map_or(Ok(false), |node| node.flag())
    }

    /// Returns the integer value of `name`.
    pub(super) fn integer(&self, name: &str) -> Result<Option<i64>, ConfigError> {
        self.get(name).map(|node| node.integer()).transpose()
    }

    /// Returns the object that is the value of `name`.
    pub(super) fn object(&self, name: &str) -> Result<Option<Fields<'a>>, ConfigError> {
        self.get(name).map(Node::fields).transpose()
    }

    /// Returns the items of the list `name`; an empty list if it is absent.
    pub(super) fn list(&self, name: &str) -> Result<Vec<Node<'a>>, ConfigError> {
        self.get(name).map_or(Ok(Vec::new()), |node| node.list())
    }

    /// Returns all keys and values, as written.
    pub(super) fn pairs(&self) -> &'a [(String, Json)] {
        self.pairs
    }

    /// Returns all keys, as written.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().map(|(key, _)| key.as_str())
    }

    /// Returns the path of this object.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Returns the path of a key in this object.
    pub(super) fn join(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Makes the error for an invalid text of `name`. `takes` describes the valid values.
    pub(super) fn bad_text(&self, name: &str, text: &str, takes: &str) -> ConfigError {
        bad_text(&self.join(name), text, takes).at(self.path_of(name))
    }

    /// Returns the path of `name` as written, or the path of this object if `name` is absent.
    pub(super) fn path_of(&self, name: &str) -> String {
        self.get_or_null(name).map_or_else(|| self.path.clone(), |node| node.path)
    }
}

impl<'a> Node<'a> {
    /// Makes a node from a path and the value at this path.
    pub(super) fn new(path: String, json: &'a Json) -> Node<'a> {
        Node { path, json }
    }

    /// Returns the JSON value.
    pub(super) fn json(&self) -> &'a Json {
        self.json
    }

    /// Returns the path of this value.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn is_null(&self) -> bool {
        *self.json == Json::Null
    }

    /// Returns whether the value is a list.
    pub(super) fn is_list(&self) -> bool {
        matches!(self.json, Json::Array(_))
    }

    /// Makes the error for an invalid text. `takes` describes the valid values.
    pub(super) fn bad_text(&self, text: &str, takes: &str) -> ConfigError {
        bad_text(&self.path, text, takes).at(&self.path)
    }

    /// Makes the error for a value of the wrong type. `wanted` describes the right type.
    pub(super) fn must_be(&self, wanted: &str) -> ConfigError {
        let text = format!("{} must be {wanted}, not {}", self.path, self.json.describe());
        ConfigError::decode(text).at(&self.path)
    }

    pub(super) fn text(&self) -> Result<&'a str, ConfigError> {
        match self.json {
            Json::String(text) => Ok(text),
            _ => Err(self.must_be("a string")),
        }
    }

    fn flag(&self) -> Result<bool, ConfigError> {
        match self.json {
            Json::Bool(flag) => Ok(*flag),
            _ => Err(self.must_be("true or false")),
        }
    }

    pub(super) fn integer(&self) -> Result<i64, ConfigError> {
        match self.json {
            Json::Number(number) => number.as_i64(),
            _ => None,
        }
        .ok_or_else(|| self.must_be("a whole number"))
    }

    pub(super) fn list(&self) -> Result<Vec<Node<'a>>, ConfigError> {
        match self.json {
            Json::Array(items) => Ok(items
                .iter()
                .enumerate()
                .map(|(i, json)| Node { path: format!("{}[{i}]", self.path), json })
                .collect()),
            _ => Err(self.must_be("a list")),
        }
    }

    pub(super) fn fields(self) -> Result<Fields<'a>, ConfigError> {
        match self.json {
            Json::Object(pairs) => Ok(Fields { path: self.path, pairs }),
            _ => Err(self.must_be("an object")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_wins_and_null_is_absent() {
        let json = Json::parse(br#"{"subnet":"a","SUBNET":"b","gateway":"x","Gateway":null}"#);
        let Ok(Json::Object(pairs)) = json else { panic!("an object") };
        let fields = Fields::root(&pairs);
        assert_eq!(fields.text("subnet").unwrap(), Some("b"));
        assert_eq!(fields.text("gateway").unwrap(), None);
        assert!(fields.has("gateway") && !fields.has("routes"));
    }
}
