//! The allocator: a pure function of a [`Command`], a [`View`] of the store and a [`Context`], which returns
//! a [`Plan`].
//!
//! The allocator decides which address is leased, who may have the address, and what a repeated or impossible
//! request means. It stores nothing: the store carries out the plan. The time, the boot ID and random numbers
//! come from the context. Invariant: running a command again on the same view and context returns the same
//! plan. The plan of a refused command changes nothing.

mod add;
mod address;
mod change;
mod check;
mod choose;
mod command;
mod define;
mod drain;
mod events;
mod free;
mod import;
mod pool;
mod record;
mod reserve;
mod restore;
mod takeover;
mod view;

pub use change::{Change, Cooling, NetworkRanges, PodKey};
pub use command::*;
pub use drain::{Draining, after as draining_after, without as without_draining};
pub use events::{counted, ending, event, happened, verb};
pub use record::Record;
pub use view::{Addresses, Context, Holder, Order, Plan, View};

use crate::error::{Error, StoreError};

/// Returns the plan for a command. A refusal is also a plan; only a failure of the store is an error.
pub fn run(command: &Command, view: &dyn View, cx: &Context) -> Result<Plan, StoreError> {
    match decide(command, view, cx) {
        Ok(plan) => Ok(plan),
        Err(Error::Refused(refusal)) => Ok(Plan::refuse(refusal)),
        Err(Error::Store(error)) => Err(error),
    }
}

fn decide(command: &Command, view: &dyn View, cx: &Context) -> Result<Plan, Error> {
    match command {
        Command::Add(add) => add::run(add, view, cx),
        Command::Del(del) => free::del(del, view, cx),
        Command::Check(check) => check::check(check, view),
        Command::Status(status) => check::status(status, view, cx),
        Command::Gc(gc) => free::gc(gc, view, cx),
        Command::Evict(evict) => free::evict(evict, view, cx),
        Command::Reserve(reserve) => reserve::reserve(reserve, false, view, cx),
        Command::ReserveContested(reserve) => reserve::reserve(reserve, true, view, cx),
        Command::Unreserve(unreserve) => reserve::unreserve(unreserve, view),
        Command::Drain(drain) => Ok(drain::drain(drain, view, cx)?),
        Command::Import(import) => import::run(import, view, cx),
        Command::ExportHostLocal(hand) => import::export_host_local(hand, view),
        Command::RequestPool(request) => pool::request(request, view, cx),
        Command::ReleasePool(release) => pool::release(release, view, cx),
        Command::RequestAddress(request) => address::request(request, view, cx),
        Command::ReleaseAddress(release) => address::release(release, view),
        Command::Sweep(sweep) => pool::sweep(sweep, view, cx),
        Command::AdoptPool(adopt) => pool::adopt(adopt, view, cx),
        Command::Restore(restore) => restore::run(restore, view),
        Command::DefineNetwork(define) => define::run(define, view, cx),
    }
}
