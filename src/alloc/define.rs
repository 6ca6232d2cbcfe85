//! Definitions of networks, which a cluster keeps for all its nodes.
//!
//! Owns: the versions. Does not own: what a definition says (`config`).
//! Invariant: a version is followed by the next one only, and only in the hands of one who knew it; an
//! ADD leases under the very version that it knew, or not at all.

use super::change::Change;
use super::command::{DefineNetwork, Outcome};
use super::view::{Context, Plan, View};
use crate::error::{Refusal, StoreError};
use crate::model::NetworkDefinition;

/// Decides a DEFINE.
pub fn run(define: &DefineNetwork, view: &dyn View, cx: &Context) -> Result<Plan, StoreError> {
    Ok(match expect(define, view)? {
        Ok(()) => {
            let record = next(define, cx);
            let outcome = Ok(Outcome::Defined(record.version));
            Plan { changes: vec![Change::PutDefinition(record)], outcome }
        }
        Err(refusal) => Plan::refuse(refusal),
    })
}

/// What an ADD writes along with its lease: the definition, if it is the network's first.
pub fn first(
    define: &DefineNetwork,
    view: &dyn View,
    cx: &Context,
) -> Result<Result<Option<Change>, Refusal>, StoreError> {
    let first = || define.version.is_none().then(|| Change::PutDefinition(next(define, cx)));
    Ok(expect(define, view)?.map(|()| first()))
}

/// Whether the version that is kept is the one that the caller knew.
fn expect(define: &DefineNetwork, view: &dyn View) -> Result<Result<(), Refusal>, StoreError> {
    let kept = view.definition(&define.network)?.map(|record| record.version);
    Ok(if kept == define.version {
        Ok(())
    } else {
        let (network, expected) = (define.network.clone(), define.version);
        Err(Refusal::Redefined { network, expected, kept })
    })
}

fn next(define: &DefineNetwork, cx: &Context) -> NetworkDefinition {
    NetworkDefinition {
        network: define.network.clone(),
        version: define.version.unwrap_or(0) + 1,
        text: define.text.clone(),
        by: cx.node.name.clone(),
        time: cx.now,
    }
}
