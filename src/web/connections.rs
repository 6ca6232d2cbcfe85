//! Tracks the open connections of the page's server, and chooses which to close when there are too many.
//!
//! Invariant: at most [`AT_ONCE`] connections are open, and the responses that are being sent have at most
//! [`MOST_SENT`] bytes in total. Beyond these limits the oldest idle or slow connection is closed, so such
//! clients cannot block others.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

/// The maximum number of open connections.
const AT_ONCE: usize = 64;

/// The maximum total size of the responses that are being sent, in bytes.
const MOST_SENT: usize = 4 << 20;

/// The number of a connection. Later connections have higher numbers.
pub type Id = u64;

/// The open connections.
#[derive(Default)]
pub struct Connections(Mutex<BTreeMap<Id, Connection>>);

struct Connection {
    task: AbortHandle,
    phase: Phase,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The client has not sent a complete request yet.
    Idle,
    /// The request is being processed.
    Asked,
    /// A response with this many bytes is being sent.
    Sending(usize),
}

impl Connections {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Id, Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection. If [`AT_ONCE`] connections are open, closes one first: the oldest idle connection,
    /// else the oldest that is receiving a response, else the oldest whose request is being processed.
    pub fn add(&self, id: Id, task: AbortHandle) {
        let mut all = self.all();
        if all.len() >= AT_ONCE {
            let rank = |c: &Connection| match c.phase {
                Phase::Idle => 0,
                Phase::Sending(_) => 1,
                Phase::Asked => 2,
            };
            let leaves = all.iter().min_by_key(|(other, c)| (rank(c), **other));
            if let Some(leaves) = leaves.map(|(other, _)| *other) {
                end(&mut all, leaves);
            }
        }
        all.insert(id, Connection { task, phase: Phase::Idle });
    }

    /// Records that the client has sent its request.
    pub fn asked(&self, id: Id) {
        if let Some(connection) = self.all().get_mut(&id) {
            connection.phase = Phase::Asked;
        }
    }

    /// Records that a response of `bytes` bytes is about to be sent. Closes the oldest connections that are
    /// receiving a response, until the total size of all responses is at most [`MOST_SENT`].
    pub fn sending(&self, id: Id, bytes: usize) {
        let mut all = self.all();
        let sent = |c: &Connection| if let Phase::Sending(bytes) = c.phase { bytes } else { 0 };
        while bytes + all.values().map(sent).sum::<usize>() > MOST_SENT {
            let Some(oldest) = all.iter().find(|(_, c)| sent(c) > 0).map(|(other, _)| *other)
            else {
                break;
            };
            end(&mut all, oldest);
        }
        if let Some(connection) = all.get_mut(&id) {
            connection.phase = Phase::Sending(bytes);
        }
    }

    /// Removes a connection that has ended.
    pub fn ended(&self, id: Id) {
        self.all().remove(&id);
    }
}

fn end(all: &mut BTreeMap<Id, Connection>, id: Id) {
    if let Some(connection) = all.remove(&id) {
        connection.task.abort();
    }
}
