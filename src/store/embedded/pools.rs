//! Pools over a sorted table of bytes.
//!
//! Maintains the records of pools, their index by address, and bits that mark which subnets of each length
//! are pools.
//! Invariant: the three agree, and no question reads all pools.

use super::view::{Kv, KvMut, Tables};
use super::{Result, keys, occupancy};
use crate::model::{Pool, PoolId};
use crate::net::{Addr, Span, Subnet};
use crate::store::codec;

/// The pool of this name.
pub fn get<K: Kv>(tables: &Tables<'_, K>, id: &PoolId) -> Result<Option<Pool>> {
    tables.value(&keys::pool(id))
}

/// Every pool, by name.
pub fn all<K: Kv>(tables: &Tables<'_, K>) -> Result<Vec<Pool>> {
    let mut found = Vec::new();
    tables.kv.each(&[keys::POOL], &mut |key, value| {
        found.push(tables.whole(codec::unseal::<Pool>(key, value))?);
        Ok(())
    })?;
    Ok(found)
}

/// The pool of an entry in the index by address.
fn named<K: Kv>(tables: &Tables<'_, K>, key: &[u8]) -> Result<Pool> {
    let bytes = tables.kv.get(key)?.unwrap_or_default();
    let id = tables.whole(codec::unseal(key, &bytes))?;
    get(tables, &id)?.ok_or_else(|| tables.damaged("an index that names a pool which is not there"))
}

/// A pool that shares an address with this subnet: a pool that begins in the subnet, or that encloses it.
pub fn overlapping<K: Kv>(
    tables: &Tables<'_, K>,
    space: &str,
    subnet: Subnet,
) -> Result<Option<Pool>> {
    // Pools that begin in the subnet, shorter prefixes first.
    let end = end_of(space, subnet);
    if let Some((key, _)) = tables.kv.first(&keys::places(space, subnet), &end)? {
        return named(tables, &key).map(Some);
    }
    // Enclosing pools. Every pool between an enclosing pool's first address and the subnet is itself enclosed
    // by that pool. So the nearest pool before the subnet limits how long the prefix of an enclosing pool can
    // be.
    let first = subnet.first();
    let start = Subnet::masked(first, 0).map(|all| keys::places(space, all)).unwrap_or_default();
    let mut len = subnet.len();
    while let Some(around) = Subnet::masked(first, len) {
        let end = keys::behind(&keys::places(space, around));
        let Some(key) = tables.kv.last(&start, &end)? else { return Ok(None) };
        let before = keys::read_place(space, &key)
            .ok_or_else(|| tables.damaged("a pool under a wrong key"))?;
        if before.contains(first) {
            return named(tables, &key).map(Some);
        }
        let differ = (before.first().bits() ^ first.bits()).leading_zeros();
        let unused = 128 - u32::from(first.family().bits());
        // Below 128, and decreasing with each iteration.
        let common = u8::try_from(differ.saturating_sub(unused)).unwrap_or(u8::MAX);
        len = match len.checked_sub(1) {
            Some(shorter) => shorter.min(common),
            None => return Ok(None),
        };
    }
    Ok(None)
}

/// The first key after all pools that begin in a subnet.
fn end_of(space: &str, subnet: Subnet) -> Vec<u8> {
    let bits = subnet.family().bits();
    let last = Subnet::masked(subnet.last(), bits).map(|last| keys::places(space, last));
    keys::behind(&last.unwrap_or_default())
}

/// The lowest prefix of `len` bits inside `within`, not before `from`, that is not a pool's subnet.
pub fn next_block<K: Kv>(
    tables: &Tables<'_, K>,
    space: &str,
    within: Subnet,
    len: u8,
    from: Addr,
) -> Result<Option<Subnet>> {
    let family = within.family();
    let Some(host) = family.bits().checked_sub(len) else { return Ok(None) };
    // Rounded up, because the block that contains `from` in its middle begins before `from`.
    let from = from.max(within.first());
    let first =
        Subnet::masked(from, len).map(|b| if b.first() == from { Some(b) } else { next(b) });
    let Some(first) = first.flatten() else { return Ok(None) };
    let index = |addr: Addr| Addr::from_bits(family, shift(addr.bits(), host));
    let span = index(first.first()).zip(index(within.last())).and_then(|(a, b)| Span::new(a, b));
    let Some(span) = span else { return Ok(None) };
    let Some(free) = occupancy::next_free(tables, &keys::grid(space, len), span)? else {
        return Ok(None);
    };
    let base = free.bits().checked_shl(host.into()).unwrap_or(0);
    Ok(Addr::from_bits(family, base).and_then(|base| Subnet::masked(base, len)))
}

/// The next subnet of the same length.
fn next(subnet: Subnet) -> Option<Subnet> {
    Subnet::masked(subnet.last().next()?, subnet.len())
}

fn shift(bits: u128, by: u8) -> u128 {
    bits.checked_shr(by.into()).unwrap_or(0)
}

/// The address whose bit represents a subnet.
fn bit(subnet: Subnet) -> Option<Addr> {
    let host = subnet.family().bits() - subnet.len();
    Addr::from_bits(subnet.family(), shift(subnet.first().bits(), host))
}

/// Writes a new pool, or an existing pool with changed users.
pub fn put<K: KvMut>(tables: &mut Tables<'_, K>, pool: &Pool) -> Result<()> {
    let key = keys::pool(&pool.id);
    match get(tables, &pool.id)? {
        Some(before) if (&before.space, before.subnet) == (&pool.space, pool.subnet) => {}
        Some(_) => return Err(tables.damaged("a pool whose subnet has changed")),
        None => {
            if !tables.kv.has(&keys::places(&pool.space, pool.subnet))?
                && let Some(bit) = bit(pool.subnet)
            {
                occupancy::take(tables, &keys::grid(&pool.space, pool.subnet.len()), bit)?;
            }
            let place = keys::place(&pool.space, pool.subnet, &pool.id);
            tables.kv.put(&place, &codec::seal(&place, &pool.id))?;
        }
    }
    tables.kv.put(&key, &codec::seal(&key, pool))
}

/// Removes a pool.
pub fn remove<K: KvMut>(tables: &mut Tables<'_, K>, pool: &Pool) -> Result<()> {
    tables.kv.remove(&keys::pool(&pool.id))?;
    tables.kv.remove(&keys::place(&pool.space, pool.subnet, &pool.id))?;
    if !tables.kv.has(&keys::places(&pool.space, pool.subnet))?
        && let Some(bit) = bit(pool.subnet)
    {
        occupancy::free(tables, &keys::grid(&pool.space, pool.subnet.len()), bit)?;
    }
    Ok(())
}
