//! The record of one call of a client.

use serde::{Deserialize, Serialize};

/// The request and its outcome. Times are from the machine's only clock, so that histories of several
/// processes can be combined.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Event {
    pub container: String,
    pub ask: Ask,
    /// Nanoseconds.
    pub asked: u128,
    /// Nanoseconds.
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
    /// One more use of the shared pool by a node. The container is the node.
    Join,
    /// One use less.
    Leave,
    /// Not a call: a row of the store's list at the end. For a pool: an address without a container, and a
    /// node's uses.
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
    /// The code of an error. 11: the call may have been carried out.
    Error(u64),
}
