//! What goes from one of the two files to the other.
//!
//! Owns: a set's home, and what a new boot's file is begun with. Does not own: when.
//! Invariant: a set leaves a file only if no living lease of it is there.

use std::ops::ControlFlow;
use std::path::Path;

use super::Place;
use super::database;
use super::database::Writer;
use super::lock::Lock;
use super::view::{Each, Kv, KvMut, Tables};
use super::{changes, keys};
use crate::alloc::{Addresses, Change, Context, Holder};
use crate::error::StoreError;
use crate::model::{BootId, Kind, SetName};

/// Takes a set's home away from a file that holds no living lease of it. An address is known in
/// one file only, so a set with leases in both could give one twice.
pub(super) fn leave(
    set: &SetName,
    place: &Place,
    lock: &Lock,
    persist: &'static str,
) -> Result<(), StoreError> {
    let home = keys::home(set);
    let mut living = None;
    let was_home = database::look(&place.path, Some(lock), |tables| {
        if tables.kv.get(&home)?.is_none() {
            return Ok(false);
        }
        tables.leases(Some(set), &mut |lease| {
            living = lease.kind.collectable().then_some(lease);
            living.is_none()
        })?;
        Ok(true)
    })?;
    if let Some(lease) = living {
        let (set, path) = (set.clone(), place.path.clone());
        return Err(StoreError::Moved { set, path, lease: Box::new(lease), persist });
    }
    if was_home == Some(true) {
        database::write(&place.path, place.flush, lock, |tables| {
            tables.kv.remove(&home).map(ControlFlow::Continue)
        })?;
    }
    Ok(())
}

/// [`super::Embedded::transact`] answers `None` only where `arrive` does.
pub(super) fn unsettled() -> StoreError {
    StoreError::Unavailable {
        doing: "settle which file keeps the leases of".to_owned(),
        place: "the network".to_owned(),
        source: "no file took it".into(),
    }
}

/// A table with nothing in it: a store that is not there yet.
pub(super) struct Nothing;

impl Kv for Nothing {
    fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    fn scan(&self, _: &[u8], _: &[u8], _: &mut Each<'_>) -> Result<(), StoreError> {
        Ok(())
    }

    fn last(&self, _: &[u8], _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }
}

/// Carries the leases of other machines over: whether they live is not ours to judge. Those of the
/// boot that has `ended` on this machine are dead, whoever made them.
pub(super) fn copy_others(
    from: &Path,
    ended: Option<&BootId>,
    to: &mut Tables<'_, Writer<'_, '_>>,
    cx: &Context,
) -> Result<bool, StoreError> {
    let mut others = Vec::new();
    database::look(from, None, |tables| {
        tables.leases(None, &mut |lease| {
            let theirs = lease.node.machine != cx.node.machine;
            if theirs && lease.kind != Kind::Reserved && lease.boot.as_ref() != ended {
                others.push(lease);
            }
            true
        })
    })?;
    for lease in &others {
        to.kv.put(&keys::home(&lease.set), &[])?;
        changes::make(to, &Change::Put(lease.clone()), cx.now)?;
    }
    Ok(!others.is_empty())
}

/// Copies what outlives a boot from the file that keeps it.
pub(super) fn copy_outliving(
    keep: &Path,
    to: &mut Tables<'_, Writer<'_, '_>>,
) -> Result<(), StoreError> {
    database::look(keep, None, |from| {
        for kind in keys::OUTLIVING {
            from.kv.scan(&[kind], &keys::behind(&[kind]), &mut |key, value| {
                to.kv.put(key, value)?;
                Ok(true)
            })?;
        }
        let all = keys::all_reserved();
        from.kv.scan(&all, &keys::behind(&all), &mut |key, _| {
            if let Some((set, addr)) = keys::read_reserved(key)
                && let Some(lease) = from.lease(&set, addr)?
                && to.holder(&set, addr)? == Holder::Free
            {
                changes::make(to, &Change::Put(lease), 0)?;
            }
            Ok(true)
        })
    })?;
    Ok(())
}
