//! The record of one call by a client, which is one line of the history.

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
    /// Not a call, but a row of the store's list after the run. For a pool, a row contains either an address
    /// without a container, or the number of a node's requests for the pool that it has not yet released.
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
    /// In a row of the list, the number of a node's requests for the pool that it has not yet released.
    Uses(usize),
    /// The code of an error. After code 11, it is unknown whether the call has taken effect.
    Error(u64),
}
