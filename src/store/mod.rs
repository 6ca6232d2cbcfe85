//! Lease stores: the contract, and the one place that opens them.
//!
//! Owns: the [`Store`] trait, [`open`]. Does not own: any decision, which is [`crate::alloc`]'s.
//! Invariant: a command is carried out whole or not at all, and everything a store answers was
//! true of one moment between call and answer.

mod backend;
mod boot;
#[cfg(test)]
mod boot_test;
#[cfg(test)]
mod cas_test;
mod changes;
mod codec;
#[cfg(test)]
mod contract;
mod convert;
#[cfg(test)]
mod edge_test;
mod embedded;
#[cfg(test)]
mod fake_cas;
mod files;
mod keys;
mod lock;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod model_test;
mod occupancy;
#[cfg(test)]
mod operator_test;
mod pages;
#[cfg(test)]
mod pool_cases;
mod pools;
mod queue;
mod redb;
mod view;

use crate::alloc::{Command, Context, Outcome};
use crate::error::{Error, StoreError};
use crate::model::{Lease, Pool, StoreSpec};

pub use self::convert::{Converted, in_place, is_converted};
pub use self::embedded::Embedded;
pub use self::lock::{Lock, lock_file, lock_to_read};

/// A durable set of leases.
///
/// Contract, proved by the suite in `store/contract.rs` for every store:
/// - `apply` runs [`crate::alloc::run`] over its own view and commits the plan's changes together
///   or not at all; it may run it several times before it commits.
/// - A refusal and an outcome that changed nothing rest on verified answers.
/// - When `apply` fails with a [`StoreError`], nothing was changed, or (a commit whose answer was
///   lost) the very change was made: repeating the command is always right.
/// - A DEL where there is no store yet is a success and makes none.
/// - The store holds no lock and no connection that others wait for between calls.
pub trait Store {
    /// Carries out one command.
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error>;

    /// Calls `each` with every living lease, ordered by set and address. Changes nothing.
    fn list(&mut self, cx: &Context, each: &mut dyn FnMut(Lease)) -> Result<(), StoreError>;

    /// All pools, by name. Changes nothing.
    fn pools(&mut self) -> Result<Vec<Pool>, StoreError>;
}

/// Opens the store that a configuration names. Touches nothing yet: an embedded store is opened
/// and left within each call.
pub fn open(spec: &StoreSpec) -> Result<Box<dyn Store>, StoreError> {
    match spec {
        StoreSpec::Embedded { path, persist, wait } => {
            Ok(Box::new(Embedded::new(path.clone(), *persist, *wait)))
        }
        StoreSpec::Remote { engine } => Err(StoreError::Unsupported { engine }),
    }
}
