//! Plans CHECK and STATUS. Neither command changes the store.

use super::choose::is_draining;
use super::command::{Check, Outcome, Status};
use super::drain::without;
use super::view::{Context, Order, Plan, View, held};
use crate::error::{Error, Refusal};
use crate::net::Addr;

/// Returns the plan for a CHECK. A CHECK succeeds if the owner has a lease, each of the owner's addresses is
/// in prevResult, and each address of prevResult in this network's ranges is leased to the owner. (CNI 0.4.0
/// requires an error if a reserved address is missing.) Other addresses of prevResult are ignored. They may
/// come from other plugins, or from ranges that were removed from the configuration.
pub fn check(check: &Check, view: &dyn View) -> Result<Plan, Error> {
    let held = held(view, &check.set, &check.owner, &|_| Ok(true))?;
    if held.is_empty() {
        let owner = Box::new(check.owner.clone());
        return Err(Refusal::Missing { owner }.into());
    }
    let Some(expected) = &check.expected else {
        return Ok(Plan::only(Outcome::Checked));
    };
    if let Some(lease) = held.iter().find(|l| !expected.contains(&l.addr)) {
        let (lease, expected) = (Box::new(lease.clone()), expected.clone());
        return Err(Refusal::Different { lease, expected }.into());
    }
    let ours = |addr: &Addr| check.sets.iter().any(|set| set.range_of(*addr).is_some());
    let lost = |addr: &Addr| ours(addr) && held.iter().all(|l| l.addr != *addr);
    if let Some(&addr) = expected.iter().find(|addr| lost(addr)) {
        let owner = Box::new(check.owner.clone());
        return Err(Refusal::Lost { owner, addr }.into());
    }
    Ok(Plan::only(Outcome::Checked))
}

/// Returns the plan for a STATUS. A STATUS succeeds if every range set has a free address. An address that is
/// cooling down counts as free, unless the cooldown is strict.
pub fn status(status: &Status, view: &dyn View, cx: &Context) -> Result<Plan, Error> {
    let draining = view.draining(&status.set)?;
    for (index, set) in status.sets.iter().enumerate() {
        let spans = without(set.spans(), &draining);
        let mut free = false;
        for span in &spans {
            free = free || view.next_free(&status.set, *span, Order::Any)?.is_some();
        }
        if free {
            continue;
        }
        let first = view.first_cooling(&status.set, set.family(), &spans)?;
        if !first.is_some_and(|c| c.over(cx.now) || !status.strict) {
            let (ranges, cooling) = (set.to_string(), first.is_some());
            let network = status.network.clone();
            let draining = is_draining(set, &draining);
            return Err(Refusal::Exhausted { index, network, ranges, cooling, draining }.into());
        }
    }
    Ok(Plan::only(Outcome::Ready))
}
