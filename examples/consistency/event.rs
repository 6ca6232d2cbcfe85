//! One call of a client, as it is written down.

use serde::{Deserialize, Serialize};

/// What was asked for, and what came of it. Times are of the machine's one clock, so that histories
/// of several processes fit together.
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
    /// One use of a node more of the shared pool. The container is the node.
    Join,
    /// One use less.
    Leave,
    /// Not a call: what the store lists when everything is over. For a pool: an address without a container,
    /// and a node's uses.
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
    /// LIST: how often a node uses the pool.
    Uses(usize),
    /// An error's code. 11: it may or may not have been done.
    Error(u64),
}
