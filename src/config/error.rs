//! Errors and warnings about a configuration.
//!
//! An error is either about the JSON syntax and types, or about the meaning of a value. The CNI plugin
//! reports these two kinds with the error codes 6 and 7.
//! Invariant: each message contains the value and its path, and says what to do.

use std::fmt;

/// The reason why a configuration is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConfigError {
    decode: bool,
    message: String,
    details: Option<String>,
    /// Whether the details explain the error well enough to replace the message. Some messages must equal
    /// host-local's, which do not explain the error.
    stands_alone: bool,
    place: Option<String>,
    /// The other errors in the same configuration.
    more: Box<[ConfigError]>,
}

impl ConfigError {
    /// Makes the error for invalid JSON, or for a value of the wrong JSON type.
    pub(super) fn decode(message: impl Into<String>) -> ConfigError {
        ConfigError { decode: true, ..ConfigError::invalid(message) }
    }

    /// Makes the error for an invalid value in valid JSON.
    pub(super) fn invalid(message: impl Into<String>) -> ConfigError {
        ConfigError {
            decode: false,
            message: message.into(),
            details: None,
            stands_alone: false,
            place: None,
            more: Box::default(),
        }
    }

    /// Fails if a list has more than `most` items, because some checks take time that grows with the square
    /// of the number of items.
    pub(super) fn bound(path: &str, what: &str, count: usize, most: usize) -> Result<(), Self> {
        if count <= most {
            return Ok(());
        }
        let text = format!("{path} has {count} {what}; at most {most} are allowed");
        Err(ConfigError::invalid(text).at(path))
    }

    pub(super) fn with_details(self, details: impl Into<String>) -> ConfigError {
        ConfigError { details: Some(details.into()), ..self }
    }

    /// Adds an explanation that operators see instead of the message. The message itself must equal
    /// host-local's.
    pub(super) fn meaning(self, text: impl Into<String>) -> ConfigError {
        ConfigError { details: Some(text.into()), stands_alone: true, ..self }
    }

    /// Combines the errors of a configuration: fails with the first error, which contains the other errors.
    /// Returns `Ok` if there is no error.
    pub(super) fn all<'a>(
        found: impl IntoIterator<Item = &'a ConfigError>,
    ) -> Result<(), ConfigError> {
        let mut found = found.into_iter().cloned().flat_map(ConfigError::each);
        let Some(first) = found.next() else { return Ok(()) };
        Err(ConfigError { more: found.collect(), ..first })
    }

    /// Splits this error into separate errors: itself, and the other errors in the same configuration.
    pub fn each(mut self) -> Vec<ConfigError> {
        let more = std::mem::take(&mut self.more);
        std::iter::once(self).chain(more).collect()
    }

    /// Returns the text for an operator: the message and the details. If the message equals host-local's and
    /// does not explain the error, returns only the explanation.
    pub fn plain(&self) -> String {
        match &self.details {
            Some(details) if self.stands_alone => details.clone(),
            Some(details) => format!("{}: {details}", self.message),
            None => self.message.clone(),
        }
    }

    /// Prefixes the messages of this error and of the errors that it contains with `place`, their location.
    #[must_use]
    pub fn within(self, place: &str) -> ConfigError {
        let prefix = |text: String| format!("{place}: {text}");
        let stands_alone = self.stands_alone;
        ConfigError {
            message: prefix(self.message),
            details: self.details.map(|text| if stands_alone { prefix(text) } else { text }),
            more: self.more.into_iter().map(|error| error.within(place)).collect(),
            ..self
        }
    }

    /// Adds the path of the invalid value, such as `ipam.ranges[0][1].subnet`. If a path is already set, it
    /// stays, because it is more precise.
    #[must_use]
    pub(super) fn at(self, place: impl Into<String>) -> ConfigError {
        ConfigError { place: self.place.or_else(|| Some(place.into())), ..self }
    }

    /// Returns the path of the invalid value, if it is known.
    pub(super) fn place(&self) -> Option<&str> {
        self.place.as_deref()
    }

    /// Returns whether the JSON could not be decoded (CNI code 6). Otherwise a value is invalid (CNI code 7).
    pub fn is_decode(&self) -> bool {
        self.decode
    }

    /// Returns details that the message does not contain, such as the value.
    pub fn details(&self) -> Option<String> {
        self.details.clone()
    }
}

/// A warning for the operator. The configuration can still be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub(super) place: String,
    pub(super) text: String,
    /// Whether the warning is about a key that is probably misspelled. Such a key has no effect.
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
