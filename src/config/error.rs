//! What is wrong with a configuration, and what is only odd.
//!
//! Owns: the texts around host-local's, and whether it is the JSON or its meaning that is wrong.
//! Does not own: CNI codes; a face makes 6 and 7 of the two kinds.
//! Invariant: a message stands alone: it names the place, the value and the way out.

use std::fmt;

/// Why a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConfigError {
    decode: bool,
    message: String,
    details: Option<String>,
    place: Option<String>,
}

impl ConfigError {
    /// It is no JSON, or a value of the wrong JSON type.
    pub(super) fn decode(message: impl Into<String>) -> ConfigError {
        ConfigError { decode: true, message: message.into(), details: None, place: None }
    }

    /// It is JSON of the right shape, and makes no sense.
    pub(super) fn invalid(message: impl Into<String>) -> ConfigError {
        ConfigError { decode: false, message: message.into(), details: None, place: None }
    }

    /// An error if a list is longer than `most`. Decisions take time with the square of its length.
    pub(super) fn bound(path: &str, what: &str, count: usize, most: usize) -> Result<(), Self> {
        if count <= most {
            return Ok(());
        }
        let text = format!("{path} holds {count} {what}; at most {most} are allowed");
        Err(ConfigError::invalid(text).at(path))
    }

    pub(super) fn with_details(self, details: impl Into<String>) -> ConfigError {
        ConfigError { details: Some(details.into()), ..self }
    }

    /// The same, told with where it happened in front.
    #[must_use]
    pub fn within(self, place: &str) -> ConfigError {
        ConfigError { message: format!("{place}: {}", self.message), ..self }
    }

    /// The same, with the way to the value that is to blame, as `ipam.ranges[0][1].subnet`. The first
    /// to say so knows best.
    #[must_use]
    pub(super) fn at(self, place: impl Into<String>) -> ConfigError {
        ConfigError { place: self.place.or_else(|| Some(place.into())), ..self }
    }

    /// The way to the value that is to blame, where one is.
    pub(super) fn place(&self) -> Option<&str> {
        self.place.as_deref()
    }

    /// Whether it failed to decode (CNI code 6); else it is invalid (CNI code 7).
    pub fn is_decode(&self) -> bool {
        self.decode
    }

    /// More than the message says: the value, where the message is a fixed text.
    pub fn details(&self) -> Option<String> {
        self.details.clone()
    }
}

/// What an operator should look at, though the configuration can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub(super) place: String,
    pub(super) text: String,
    /// Whether it is about a key that is close to a known one, and so has no effect.
    pub(super) typo: bool,
}

impl Warning {
    pub(super) fn new(place: impl Into<String>, text: impl Into<String>) -> Warning {
        Warning { place: place.into(), text: text.into(), typo: false }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
