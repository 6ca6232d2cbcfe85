//! skeleton; the real one replaces it
mod lock;
pub use self::lock::{Lock, lock_file};
use crate::alloc::{Command, Context, Outcome};
use crate::error::{Error, StoreError};
use crate::model::{Lease, StoreSpec};
/// A durable set of leases.
pub trait Store {
    /// Carries out one command.
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error>;
    /// Calls `each` with every living lease, ordered by set and address. Changes nothing.
    fn list(&mut self, cx: &Context, each: &mut dyn FnMut(Lease)) -> Result<(), StoreError>;
}
/// Opens the store that a configuration names.
pub fn open(spec: &StoreSpec) -> Result<Box<dyn Store>, StoreError> {
    let _ = spec;
    Err(StoreError::Unsupported { engine: "none yet" })
}
