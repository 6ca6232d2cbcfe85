//! Applies the changes of a plan to a sorted table of bytes.
//!
//! Invariant: the lease, the owner's index, the occupancy and the cooldown of an address agree before and
//! after each change. If a change contradicts one of them, the file is damaged and the plan is not committed.

use super::view::{KvMut, Tables};
use super::{Result, keys, occupancy, pools};
use crate::alloc::{Change, Cooling};
use crate::model::{Lease, SetName, Timestamp};
use crate::net::Addr;
use crate::store::codec;

/// Applies one change. Returns whether the change leased or freed an address, so that the caller can record
/// an event.
pub fn make<K: KvMut>(tables: &mut Tables<'_, K>, change: &Change, now: Timestamp) -> Result<bool> {
    match change {
        Change::Put(lease) => return put(tables, lease),
        Change::Free { lease, until } => {
            free(tables, lease, *until, now)?;
            return Ok(true);
        }
        // A lease file stores neither network definitions nor records of imports. Draining ranges are in the
        // policy file.
        Change::PutDefinition(_) | Change::Adopted(..) | Change::PutDraining(..) => {}
        Change::Thaw(set, cooling) => {
            end_cooling(tables, set, cooling)?;
            occupancy::free(tables, set, cooling.addr)?;
        }
        // Start the cooldown of a free address.
        Change::Cool(set, cooling) => {
            occupancy::take(tables, set, cooling.addr)?;
            keep_back(tables, set, cooling)?;
        }
        Change::Cursor(set, range, addr) => {
            let key = keys::at(keys::CURSOR, set, *range);
            tables.kv.put(&key, &codec::seal(&key, addr))?;
        }
        Change::Sticky(set, pod, range, addr) => {
            stick(tables, set, &keys::sticky(set, pod, *range), *addr)?;
        }
        Change::PutRanges(ranges) => {
            let key = keys::ranges(&ranges.network);
            tables.kv.put(&key, &codec::ranges(&key, ranges))?;
        }
        Change::PutPool(pool) => pools::put(tables, pool)?,
        Change::DropPool(pool) => pools::remove(tables, pool)?,
    }
    Ok(false)
}

/// Stores a pod's former address. Each address is stored only for the last pod that had it. So even if many
/// pods come and go, there are never more records than addresses.
fn stick<K: KvMut>(
    tables: &mut Tables<'_, K>,
    set: &SetName,
    key: &[u8],
    addr: Addr,
) -> Result<()> {
    if let Some(before) = tables.value(key)? {
        tables.kv.remove(&keys::at(keys::STUCK, set, before))?;
    }
    let stuck = keys::at(keys::STUCK, set, addr);
    if let Some(other) = tables.value::<Vec<u8>>(&stuck)? {
        tables.kv.remove(&other)?;
    }
    tables.kv.put(&stuck, &codec::seal(&stuck, &key))?;
    tables.kv.put(key, &codec::seal(key, &addr))
}

/// Writes a lease. Returns whether its address was free before.
fn put<K: KvMut>(tables: &mut Tables<'_, K>, lease: &Lease) -> Result<bool> {
    let (set, addr) = (&lease.set, lease.addr);
    let before = tables.lease(set, addr)?;
    let is_new = before.is_none();
    match before {
        // The same owner already leases this address, so the indexes stay unchanged.
        Some(before) if before.owner == lease.owner => {}
        Some(_) => return Err(tables.damaged("an address is leased to two owners")),
        None => {
            match tables.cooling_of(set, addr)? {
                Some(cooling) => end_cooling(tables, set, &cooling)?,
                None => occupancy::take(tables, set, addr)?,
            }
            let key = keys::owner(set, &lease.owner);
            let mut addrs = tables.addrs(&key)?;
            addrs.push(addr);
            addrs.sort_unstable();
            tables.kv.put(&key, &codec::seal(&key, &addrs))?;
        }
    }
    let key = keys::lease(set, addr);
    tables.kv.put(&key, &codec::lease(&key, lease))?;
    Ok(is_new)
}

fn free<K: KvMut>(
    tables: &mut Tables<'_, K>,
    lease: &Lease,
    until: Option<Timestamp>,
    now: Timestamp,
) -> Result<()> {
    let (set, addr) = (&lease.set, lease.addr);
    tables.kv.remove(&keys::lease(set, addr))?;
    let key = keys::owner(set, &lease.owner);
    let mut addrs = tables.addrs(&key)?;
    addrs.retain(|a| *a != addr);
    if addrs.is_empty() {
        tables.kv.remove(&key)?;
    } else {
        tables.kv.put(&key, &codec::seal(&key, &addrs))?;
    }
    let Some(until) = until else {
        return occupancy::free(tables, set, addr);
    };
    keep_back(tables, set, &Cooling { until, addr, freed: now })
}

fn keep_back<K: KvMut>(tables: &mut Tables<'_, K>, set: &SetName, cooling: &Cooling) -> Result<()> {
    let key = keys::at(keys::COOLING, set, cooling.addr);
    tables.kv.put(&key, &codec::cooling(&key, cooling))?;
    tables.kv.put(&keys::queued(set, cooling.until, cooling.addr), &[])
}

fn end_cooling<K: KvMut>(
    tables: &mut Tables<'_, K>,
    set: &SetName,
    cooling: &Cooling,
) -> Result<()> {
    tables.kv.remove(&keys::at(keys::COOLING, set, cooling.addr))?;
    tables.kv.remove(&keys::queued(set, cooling.until, cooling.addr))
}
