//! Errors and warnings about a configuration.
//!
//! Each error is either about the JSON itself or about its meaning. A face turns these kinds into codes 6 and
//! 7.
//! Invariant: a message is complete: it has the place, the value and the remedy.

use std::fmt;

/// Why a configuration is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConfigError {
    decode: bool,
    message: String,
    details: Option<String>,
    /// Whether the details explain the error, because the message has to be host-local's and is no
    /// explanation.
    stands_alone: bool,
    place: Option<String>,
    /// Further errors of the same configuration.
    more: Box<[ConfigError]>,
}

impl ConfigError {
    /// Invalid JSON, or a value of the wrong JSON type.
    pub(super) fn decode(message: impl Into<String>) -> ConfigError {
        ConfigError { decode: true, ..ConfigError::invalid(message) }
    }

    /// Valid JSON, but an invalid value.
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

    /// An error if a list is longer than `most`. Some decisions take time proportional to the square of the
    /// length.
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

    /// Adds the real meaning of the error, if the message has to be host-local's.
    pub(super) fn meaning(self, text: impl Into<String>) -> ConfigError {
        ConfigError { details: Some(text.into()), stands_alone: true, ..self }
    }

    /// The first of a configuration's errors, which contains the others; `Ok` if there is none.
    pub(super) fn all<'a>(
        found: impl IntoIterator<Item = &'a ConfigError>,
    ) -> Result<(), ConfigError> {
        let mut found = found.into_iter().cloned().flat_map(ConfigError::each);
        let Some(first) = found.next() else { return Ok(()) };
        Err(ConfigError { more: found.collect(), ..first })
    }

    /// This error and the further errors of the same configuration, separately.
    pub fn each(mut self) -> Vec<ConfigError> {
        let more = std::mem::take(&mut self.more);
        std::iter::once(self).chain(more).collect()
    }

    /// The error for an operator: with the real meaning instead of a misleading text of host-local.
    pub fn plain(&self) -> String {
        match &self.details {
            Some(details) if self.stands_alone => details.clone(),
            Some(details) => format!("{}: {details}", self.message),
            None => self.message.clone(),
        }
    }

    /// Prefixes the errors with the place where they occurred.
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

    /// The path of the invalid value, if known.
    pub(super) fn place(&self) -> Option<&str> {
        self.place.as_deref()
    }

    /// Whether decoding failed (CNI code 6). Otherwise the configuration is invalid (CNI code 7).
    pub fn is_decode(&self) -> bool {
        self.decode
    }

    /// Details beyond the message: the value, if the message is a fixed text.
    pub fn details(&self) -> Option<String> {
        self.details.clone()
    }
}

/// A warning for the operator. The configuration can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub(super) place: String,
    pub(super) text: String,
    /// Whether the warning is about a probable typo in a key. Such a key has no effect.
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
