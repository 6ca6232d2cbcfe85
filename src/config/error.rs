//! What is wrong with a configuration.
//!
//! Owns: the texts around host-local's, and whether it is the JSON or its meaning that is wrong.
//! Does not own: CNI codes; a face makes 6 and 7 of the two kinds.
//! Invariant: a message stands alone: it names the place, the value and the way out.

use std::fmt;

/// Why a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    decode: bool,
    message: String,
    details: Option<String>,
}

impl ConfigError {
    /// It is no JSON, or a value of the wrong JSON type.
    pub(super) fn decode(message: impl Into<String>) -> ConfigError {
        ConfigError { decode: true, message: message.into(), details: None }
    }

    /// It is JSON of the right shape, and makes no sense.
    pub(super) fn invalid(message: impl Into<String>) -> ConfigError {
        ConfigError { decode: false, message: message.into(), details: None }
    }

    pub(super) fn with_details(self, details: impl Into<String>) -> ConfigError {
        ConfigError { details: Some(details.into()), ..self }
    }

    /// The same, told with where it happened in front.
    #[must_use]
    pub fn within(self, place: &str) -> ConfigError {
        ConfigError { message: format!("{place}: {}", self.message), ..self }
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

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}
