//! The record of one call of a client.

use serde::{Deserialize, Serialize};

/// A request and its outcome. All processes use the same clock, so their histories can be combined.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Event {
    pub container: String,
    pub ask: Ask,
    /// When the request was sent, in nanoseconds.
    pub asked: u128,
    /// When the response arrived, in nanoseconds.
    pub answered: u128,
    pub answer: Answer,
}

/// What was requested.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Ask {
    Add,
    Check,
    Del,
    /// A node begins an additional use of the shared pool. The event's container field contains the name of
    /// the node.
    Join,
    /// A node ends one use of the shared pool.
    Leave,
    /// A row in the list of the store at the end; this is not a call. For a pool, the row contains either an
    /// address without a container, or the number of a node's uses.
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
    /// In a list, how often a node uses the pool.
    Uses(usize),
    /// The code of an error. Code 11 means that the call may have taken effect.
    Error(u64),
}
