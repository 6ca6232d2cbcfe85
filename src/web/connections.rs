//! The connections of the page, and which of them ends so that others are served.
//!
//! Invariant: at most [`AT_ONCE`] connections are open, and the answers that are being sent hold at most
//! [`MOST_SENT`] bytes. Whoever has waited longest makes room, so idle clients and slow readers stall nobody.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

/// Connections at a time.
const AT_ONCE: usize = 64;

/// Bytes of answers that are being sent at a time.
const MOST_SENT: usize = 4 << 20;

/// Which connection, in the order in which they came.
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
    /// It has not sent a request yet.
    Idle,
    /// Its request is being answered.
    Asked,
    /// Its answer, of this many bytes, is being sent.
    Sending(usize),
}

impl Connections {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Id, Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection. If there are too many, the one that has been idle for longest ends, else the one
    /// that has been sending for longest, else the one that has waited for longest.
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

    /// The connection has sent its request.
    pub fn asked(&self, id: Id) {
        if let Some(connection) = self.all().get_mut(&id) {
            connection.phase = Phase::Asked;
        }
    }

    /// The connection's answer is about to be sent. Those that have been sending for longest end until there
    /// is room for it.
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

    /// The connection has ended.
    pub fn ended(&self, id: Id) {
        self.all().remove(&id);
    }
}

fn end(all: &mut BTreeMap<Id, Connection>, id: Id) {
    if let Some(connection) = all.remove(&id) {
        connection.task.abort();
    }
}
