//! Records of pools and of their addresses that the requests of one `subletd` process have recently read or
//! written. A later request starts with these records, so it need not read them again.
//!
//! A record may be outdated. Invariant: if a request changes something, the commit compares the records of
//! the pool and of the address that it leases or frees. If a request changes nothing, it is decided again
//! without these records.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::keys;
use super::known::Known;
use super::server::Entries;
use super::view::Unresolved;
use crate::model::{PoolId, Timestamp};

/// How long a listing of addresses is used, in seconds. During this time, an address that another host has
/// freed may still count as leased.
const LISTING_AGE: u64 = 1;
/// The maximum number of recent records. If there are more, all records are discarded.
const MOST: usize = 4096;

/// The recent records of one `subletd` process. All clones of this value share the same records.
#[derive(Clone, Default)]
pub struct Recent {
    records: Arc<Mutex<Arc<Records>>>,
    /// The transactions of address requests that were reported as failed, although the server may have
    /// applied them.
    unresolved: Arc<Mutex<Vec<(PoolId, Unresolved)>>>,
}

/// Recent records, as they were at one moment.
#[derive(Clone, Default)]
pub struct Records {
    entries: Entries,
    /// The prefixes that were listed completely.
    listed: BTreeSet<String>,
    /// When the first of these prefixes was listed.
    since: Timestamp,
}

impl Recent {
    /// Returns the records that a request at the time `now` starts with.
    pub fn at(&self, now: Timestamp) -> Arc<Records> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if records.since.abs_diff(now) > LISTING_AGE && !records.listed.is_empty() {
            Arc::make_mut(&mut records).listed.clear();
        }
        records.clone()
    }

    /// Adds the records that a request has read or written. `before` contains the records that the request
    /// started with, and `known` contains those that are known at its end.
    pub fn learn(&self, before: &Records, known: &Known, now: Timestamp) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let records = Arc::make_mut(&mut records);
        let is_kept =
            |path: &String| [keys::POOL, keys::ADDRESS].iter().any(|kind| path.starts_with(kind));
        for (path, entry) in known.entries.iter().filter(|(path, _)| is_kept(path)) {
            if before.entries.get(path) != Some(entry) {
                records.entries.insert(path.clone(), entry.clone());
            }
        }
        // Remove addresses that are in `before` but not in `known`. Either a new listing did not contain
        // them, or the request was decided again without the recent records and did not need them.
        let is_gone =
            |path: &&String| path.starts_with(keys::ADDRESS) && !known.entries.contains_key(*path);
        for path in before.entries.keys().filter(is_gone) {
            records.entries.remove(path);
        }
        if records.listed.is_empty() {
            records.since = now;
        }
        records
            .listed
            .retain(|prefix| !before.listed.contains(prefix) || known.listed.contains(prefix));
        records.listed.extend(known.listed.iter().filter(|prefix| is_kept(prefix)).cloned());
        if records.entries.len() > MOST {
            *records = Records::default();
        }
    }

    /// Returns the transactions of address requests that were reported as failed, although the server may
    /// have applied them.
    pub fn unresolved(&self) -> MutexGuard<'_, Vec<(PoolId, Unresolved)>> {
        self.unresolved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Records {
    /// Adds the record of this pool, and the records of all addresses, to the known records of a request.
    /// Leaves out other pools, because a transaction compares all known pools.
    pub fn add_to(&self, known: &mut Known, pool: &PoolId) {
        let pool = keys::named(keys::POOL, &pool.0);
        let of_pool = |path: &String| *path == pool || path.starts_with(keys::ADDRESS);
        let entries = self.entries.iter().filter(|(path, _)| of_pool(path));
        known.entries.extend(entries.map(|(path, entry)| (path.clone(), entry.clone())));
        known.listed.extend(self.listed.iter().cloned());
    }

    /// Removes these records and listings from the known records of a request.
    pub fn remove_from(&self, known: &mut Known) {
        known.entries.retain(|path, entry| self.entries.get(path) != Some(entry));
        known.listed.retain(|prefix| !self.listed.contains(prefix));
    }
}
