//! The record of one call of a client.

use serde::{Deserialize, Serialize};

/// The request and its outcome. All processes use the same clock, so that their histories can be combined.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Event {
    pub container: String,
    pub ask: Ask,
    /// When the request was sent, in nanoseconds.
    pub asked: u128,
    /// When the request was answered, in nanoseconds.
    pub answered: u128,
    pub answer: Answer,
}

/// The verb.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Ask {
    Add,
    Check,
    Del,
    /// A node begins one more use of the shared pool. The container is the node.
    Join,
    /// A node ends one use of the shared pool.
    Leave,
    /// A row of the store's list at the end; not a call. For a pool, the row has an address without a
    /// container, or a node's number of uses.
    List,
}

/// The answer.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// ADD.
    Address(String),
    /// CHECK, DEL.
    Fine,
    /// LIST: the number of a node's uses of the pool.
    Uses(usize),
    /// The code of an error. Code 11 means that the call may have been carried out.
    Error(u64),
}
