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
    /// The details say what is wrong, where the message is host-local's and does not.
    stands_alone: bool,
    place: Option<String>,
    /// Further errors of the same configuration.
    more: Box<[ConfigError]>,
}

impl ConfigError {
    /// It is no JSON, or a value of the wrong JSON type.
    pub(super) fn decode(message: impl Into<String>) -> ConfigError {
        ConfigError { decode: true, ..ConfigError::invalid(message) }
    }

    /// It is JSON of the right shape, and makes no sense.
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

    /// The same error with what is really wrong, where the message keeps host-local's words.
    pub(super) fn meaning(self, text: impl Into<String>) -> ConfigError {
        ConfigError { details: Some(text.into()), stands_alone: true, ..self }
    }

    /// The first of the errors found in a configuration, with the others; `Ok` if none was found.
    pub(super) fn all<'a>(
        found: impl IntoIterator<Item = &'a ConfigError>,
    ) -> Result<(), ConfigError> {
        let mut found = found.into_iter().cloned().flat_map(ConfigError::each);
        let Some(first) = found.next() else { return Ok(()) };
        Err(ConfigError { more: found.collect(), ..first })
    }

    /// This error and the further ones of the same configuration, each by itself.
    pub fn each(mut self) -> Vec<ConfigError> {
        let more = std::mem::take(&mut self.more);
        std::iter::once(self).chain(more).collect()
    }

    /// What is wrong, for an operator: not in host-local's words where they are not true.
    pub fn plain(&self) -> String {
        match &self.details {
            Some(details) if self.stands_alone => details.clone(),
            Some(details) => format!("{}: {details}", self.message),
            None => self.message.clone(),
        }
    }

    /// The same errors, with where they happened in front.
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
