//! What a command is in the eyes of history and counters.
//!
//! Owns: why an address came or went, told by the command that it came or went with. Decides nothing.

use super::change::Change;
use super::command::{Command, Outcome, Target};
use super::view::Context;
use crate::error::{PoolRefusal, Refusal};
use crate::model::{Ending, Event, Face, Kind, Lease, Owner, Verb, What};

/// What became of an address by a change, if somebody came to hold it or ceased to.
pub fn event(change: &Change, command: &Command, cx: &Context) -> Option<Event> {
    let (lease, what) = match change {
        Change::Put(lease) => (lease, given(command, lease)),
        Change::Free { lease, .. } => (lease, ended(command, cx.face)?),
        _ => return None,
    };
    Some(Event::of(lease, what, cx.face, cx.now))
}

fn given(command: &Command, lease: &Lease) -> What {
    match command {
        Command::Import(_) | Command::AdoptPool(_) => What::Imported,
        Command::Add(add) if lease.owner != add.owner && lease.kind != Kind::Gateway => {
            What::TakenOver
        }
        _ if matches!(lease.owner, Owner::Reservation(_)) => What::Reserved,
        _ => What::Added,
    }
}

fn ended(command: &Command, face: Face) -> Option<What> {
    Some(match command {
        // The container keeps it, under its full name.
        Command::Add(_) => return None,
        Command::Del(del) if del.undo => What::Undone,
        Command::Del(del) if face == Face::Cli => match del.target {
            Target::Unchanged(_) => What::Lost,
            _ => What::Released,
        },
        Command::Gc(_) => What::Collected,
        Command::Evict(evict) if evict.only_ended => What::BootEnded,
        Command::Evict(_) => What::NodeReleased,
        Command::Unreserve(_) => What::Unreserved,
        Command::Sweep(_) => What::Swept,
        Command::ReleasePool(_) => What::PoolReleased,
        Command::ReleaseAddress(release) if release.only.is_some() => What::Undone,
        _ => What::Deleted,
    })
}

/// What was asked for; `None`: nothing that is counted.
pub fn verb(command: &Command) -> Option<Verb> {
    Some(match command {
        Command::Add(_) | Command::RequestAddress(_) => Verb::Add,
        Command::Del(_) | Command::ReleaseAddress(_) => Verb::Del,
        Command::Gc(_) | Command::Evict(_) | Command::Sweep(_) => Verb::Gc,
        Command::Reserve(_) | Command::ReserveContested(_) | Command::Unreserve(_) => Verb::Reserve,
        Command::Import(_) | Command::AdoptPool(_) | Command::HandBack(_) | Command::Restore(_) => {
            Verb::Import
        }
        Command::RequestPool(_) | Command::ReleasePool(_) => Verb::Pool,
        Command::Check(_) | Command::Status(_) | Command::DefineNetwork(_) => return None,
    })
}

/// How it ended.
pub fn ending(outcome: &Result<Outcome, Refusal>) -> Ending {
    match outcome {
        Ok(_) => Ending::Ok,
        Err(Refusal::Exhausted { .. }) => Ending::Exhausted,
        Err(Refusal::Held { .. } | Refusal::GatewayHeld { .. } | Refusal::Clash { .. }) => {
            Ending::Held
        }
        Err(Refusal::Pool(refusal)) => match **refusal {
            PoolRefusal::Exhausted(_) => Ending::Exhausted,
            PoolRefusal::Taken { .. } => Ending::Held,
            _ => Ending::Refused,
        },
        Err(_) => Ending::Refused,
    }
}
