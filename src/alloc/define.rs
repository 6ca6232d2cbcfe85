//! Network definitions, which a cluster stores for all its nodes.
//!
//! A definition can be replaced only by a caller that passes its current version. The new definition gets the
//! next version. An ADD leases an address only if the version that the ADD used is still current.

use super::change::Change;
use super::command::{DefineNetwork, Outcome};
use super::view::{Context, Plan, View};
use crate::error::{Error, Refusal};
use crate::model::NetworkDefinition;

/// Returns the plan for a [`DefineNetwork`] command.
pub fn run(define: &DefineNetwork, view: &dyn View, cx: &Context) -> Result<Plan, Error> {
    expect(define, view)?;
    let definition = next(define, cx);
    let outcome = Outcome::Defined(definition.version);
    Ok(Plan::new(vec![Change::PutDefinition(definition)], outcome))
}

/// Returns the change with which an ADD stores the network's definition, together with its lease; `None` if
/// the network already has a definition.
pub fn first(
    define: &DefineNetwork,
    view: &dyn View,
    cx: &Context,
) -> Result<Option<Change>, Error> {
    expect(define, view)?;
    Ok(define.version.is_none().then(|| Change::PutDefinition(next(define, cx))))
}

/// Refuses the command if the stored version is not the version that the caller passed.
fn expect(define: &DefineNetwork, view: &dyn View) -> Result<(), Error> {
    let kept = view.definition(&define.network)?.map(|stored| stored.version);
    if kept == define.version {
        return Ok(());
    }
    let (network, expected) = (define.network.clone(), define.version);
    Err(Refusal::Redefined { network, expected, kept }.into())
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
