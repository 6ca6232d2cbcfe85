//! Determines the history event for a change, and the counter for a command. This module has no influence on
//! the plan.

use super::change::Change;
use super::command::{Command, Outcome, Target};
use super::view::{Context, Plan};
use crate::error::{PoolRefusal, Refusal};
use crate::model::{Ending, Event, Face, Kind, Lease, Owner, SetName, Verb, What};

/// Returns the history event for a change; `None` if the change neither leases nor frees an address.
pub fn event(change: &Change, command: &Command, cx: &Context) -> Option<Event> {
    let (lease, what) = match change {
        Change::Put(lease) => (lease, beginning(command, lease)),
        Change::Free { lease, .. } => (lease, end(command, lease, cx.face)?),
        _ => return None,
    };
    Some(happened(lease, what, cx))
}

/// Makes the history event of something that happened to a lease during the request in `cx`.
pub fn happened(lease: &Lease, what: What, cx: &Context) -> Event {
    Event { trace: cx.trace.clone(), ..Event::of(lease, what, cx.face, cx.now) }
}

fn beginning(command: &Command, lease: &Lease) -> What {
    match command {
        Command::Import(_) | Command::AdoptPool(_) => What::Imported,
        Command::Add(add) if lease.owner != add.owner && lease.kind != Kind::Gateway => {
            What::TakenOver
        }
        _ if matches!(lease.owner, Owner::Reservation(_) | Owner::Named(_)) => What::Reserved,
        _ => What::Added,
    }
}

fn end(command: &Command, lease: &Lease, face: Face) -> Option<What> {
    Some(match command {
        Command::Add(add) if add.gone.contains(lease) => What::Lost,
        // These changes update an existing lease, so no address is leased or freed. An ADD adds the interface
        // name to the owner of an imported lease. A RESERVE adds a name to a reservation.
        Command::Add(_) | Command::Reserve(_) => return None,
        Command::Del(del) if del.undo => What::Undone,
        Command::Del(del) if face == Face::Cli => match del.target {
            Target::Unchanged(_) => What::Lost,
            _ => What::Released,
        },
        Command::Gc(_) => What::Collected,
        Command::Evict(evict) if evict.only_ended => What::BootEnded,
        Command::Evict(_) => What::NodeReleased,
        Command::ExportHostLocal(_) => What::Exported,
        Command::Unreserve(_) => What::Unreserved,
        Command::Sweep(_) => What::Swept,
        Command::ReleasePool(_) | Command::RequestPool(_) => What::PoolReleased,
        Command::ReleaseAddress(release) if release.only.is_some() => What::Undone,
        _ => What::Deleted,
    })
}

/// Returns the counter that counts a request, identified by set of leases, face, verb and outcome; `None` if
/// the request is not counted. Requests that change something are counted. Refused ADDs are counted only if
/// `count_refusals` is set, which means that counting needs no flush to disk.
pub fn counted(
    command: &Command,
    plan: &Plan,
    cx: &Context,
    count_refusals: bool,
) -> Option<(SetName, Face, Verb, Ending)> {
    let verb = verb(command)?;
    let refused = plan.outcome.is_err() && count_refusals && verb == Verb::Add;
    if plan.changes.is_empty() && !refused {
        return None;
    }
    let of_change = |change: &Change| match change {
        Change::Put(lease) | Change::Free { lease, .. } => Some(lease.set.clone()),
        Change::PutPool(pool) | Change::DropPool(pool) => Some(pool.set()),
        _ => None,
    };
    let set = command.set().cloned().or_else(|| plan.changes.iter().find_map(of_change));
    // A request for a pool that does not exist belongs to no set of leases, so it is counted under "docker".
    let set = set.unwrap_or_else(|| SetName("docker".to_owned()));
    Some((set, cx.face, verb, ending(&plan.outcome)))
}

/// Returns the verb under which a command is counted; `None` if the command is not counted.
pub fn verb(command: &Command) -> Option<Verb> {
    Some(match command {
        Command::Add(_) | Command::RequestAddress(_) => Verb::Add,
        Command::Del(_) | Command::ReleaseAddress(_) => Verb::Del,
        Command::Gc(_) | Command::Evict(_) | Command::Sweep(_) => Verb::Gc,
        Command::Reserve(_)
        | Command::ReserveContested(_)
        | Command::Unreserve(_)
        | Command::Drain(_) => Verb::Reserve,
        Command::Import(_)
        | Command::AdoptPool(_)
        | Command::ExportHostLocal(_)
        | Command::Restore(_) => Verb::Import,
        Command::RequestPool(_) | Command::ReleasePool(_) => Verb::Pool,
        Command::Check(_) | Command::Status(_) | Command::DefineNetwork(_) => return None,
    })
}

/// Returns the outcome under which a command is counted.
pub fn ending(outcome: &Result<Outcome, Refusal>) -> Ending {
    match outcome {
        Ok(_) => Ending::Ok,
        Err(Refusal::Exhausted { .. }) => Ending::Exhausted,
        Err(
            Refusal::Held { .. }
            | Refusal::Predecessor { .. }
            | Refusal::GatewayHeld { .. }
            | Refusal::Clash { .. },
        ) => Ending::Held,
        Err(Refusal::Pool(refusal)) => match **refusal {
            PoolRefusal::Exhausted(_) => Ending::Exhausted,
            PoolRefusal::Taken { .. } => Ending::Held,
            _ => Ending::Refused,
        },
        Err(_) => Ending::Refused,
    }
}
