//! The record of one call of a client, as a line of the history.

use serde::{Deserialize, Serialize};

/// A request and its outcome. All processes use the clock of the same machine, so the judge can combine their
/// histories.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Event {
    pub container: String,
    pub ask: Ask,
    /// The time at which the request was sent, in nanoseconds since 1970.
    pub asked: u128,
    /// The time at which the response arrived, in nanoseconds since 1970.
    pub answered: u128,
    pub answer: Answer,
}

/// The kind of a request.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Ask {
    Add,
    Check,
    Del,
    /// A node requests the shared pool. The event's field `container` contains the name of the node.
    Join,
    /// A node releases the shared pool once. The event's field `container` contains the name of the node.
    Leave,
    /// A row in the store's list after the run; this event is not a call. A row of a pool contains either an
    /// address without a container, or how often a node has requested the pool and not released it.
    List,
}

/// The outcome of a request.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// The address that an ADD returned.
    Address(String),
    /// A CHECK or DEL succeeded.
    Fine,
    /// In a row of the list, how often a node has requested the pool and not released it.
    Uses(usize),
    /// The code of an error. After code 11, it is unknown whether the call has taken effect.
    Error(u64),
}
