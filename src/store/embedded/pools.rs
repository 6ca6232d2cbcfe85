//! Pools over a sorted table of bytes.
//!
//! Owns: the records of pools, their index by address, and which subnets of each length are pools,
//! as bits. Invariant: the three agree; no question reads all pools.

use super::view::{Kv, KvMut, Tables};
use super::{keys, occupancy};
use crate::error::StoreError;
use crate::model::{Pool, PoolId};
use crate::net::{Addr, Span, Subnet};
use crate::store::codec;

/// The pool of this name.
pub fn get<K: Kv>(tables: &Tables<'_, K>, id: &PoolId) -> Result<Option<Pool>, StoreError> {
    let key = keys::pool(id);
    let bytes = tables.kv.get(&key)?;
    bytes.map(|bytes| tables.whole(codec::unseal(&key, &bytes))).transpose()
}

/// Every pool, by name.
pub fn all<K: Kv>(tables: &Tables<'_, K>) -> Result<Vec<Pool>, StoreError> {
    let from = keys::pools();
    let mut found = Vec::new();
    tables.kv.scan(&from, &keys::behind(&from), &mut |key, value| {
        found.push(tables.whole(codec::unseal::<Pool>(key, value))?);
        Ok(true)
    })?;
    Ok(found)
}

/// The pool that an entry of the index by address names.
fn named<K: Kv>(tables: &Tables<'_, K>, key: &[u8]) -> Result<Pool, StoreError> {
    let bytes = tables.kv.get(key)?.unwrap_or_default();
    let id = tables.whole(codec::unseal(key, &bytes))?;
    get(tables, &id)?.ok_or_else(|| tables.damaged("an index that names a pool which is not there"))
}

/// A pool that shares an address with this subnet: one that begins in it, or one around it.
pub fn overlapping<K: Kv>(
    tables: &Tables<'_, K>,
    space: &str,
    subnet: Subnet,
) -> Result<Option<Pool>, StoreError> {
    let read = |key: &[u8]| {
        keys::read_place(space, key).ok_or_else(|| tables.damaged("a pool under a wrong key"))
    };
    // Those that begin in it, shorter prefixes first.
    let mut inside = None;
    let end = end_of(space, subnet);
    tables.kv.scan(&keys::places(space, subnet), &end, &mut |key, _| {
        inside = Some(key.to_vec());
        Ok(false)
    })?;
    if let Some(key) = inside {
        return named(tables, &key).map(Some);
    }
    // Those around it. What lies between one of them and its beginning is within it too, so the
    // nearest pool before the subnet tells how long a prefix around both can be at most.
    let first = subnet.first();
    let start = whole(first, 0).map(|all| keys::places(space, all)).unwrap_or_default();
    let mut len = subnet.len();
    while let Some(around) = whole(first, len) {
        let end = keys::behind(&keys::places(space, around));
        let Some(key) = tables.kv.last(&start, &end)? else { return Ok(None) };
        let before = read(&key)?;
        if before.contains(first) {
            return named(tables, &key).map(Some);
        }
        let differ = (before.first().bits() ^ first.bits()).leading_zeros();
        let unused = 128 - u32::from(first.family().bits());
        // Below 128, and less than before with each turn.
        let common = u8::try_from(differ.saturating_sub(unused)).unwrap_or(u8::MAX);
        len = match len.checked_sub(1) {
            Some(shorter) => shorter.min(common),
            None => return Ok(None),
        };
    }
    Ok(None)
}

/// The prefix of `len` bits around an address.
fn whole(addr: Addr, len: u8) -> Option<Subnet> {
    Subnet::masked(addr, len)
}

/// The first key behind all pools that begin in a subnet.
fn end_of(space: &str, subnet: Subnet) -> Vec<u8> {
    let bits = subnet.family().bits();
    let last = whole(subnet.last(), bits).map(|last| keys::places(space, last));
    keys::behind(&last.unwrap_or_default())
}

/// The lowest prefix of `len` bits inside `within`, not before `from`, that is no pool's subnet.
pub fn next_block<K: Kv>(
    tables: &Tables<'_, K>,
    space: &str,
    within: Subnet,
    len: u8,
    from: Addr,
) -> Result<Option<Subnet>, StoreError> {
    let family = within.family();
    let Some(host) = family.bits().checked_sub(len) else { return Ok(None) };
    // Rounded up: the block in whose midst `from` lies is before it.
    let from = from.max(within.first());
    let first = whole(from, len).map(|b| if b.first() == from { Some(b) } else { next(b) });
    let Some(first) = first.flatten() else { return Ok(None) };
    let index = |addr: Addr| Addr::from_bits(family, shift(addr.bits(), host));
    let span = index(first.first()).zip(index(within.last())).and_then(|(a, b)| Span::new(a, b));
    let Some(span) = span else { return Ok(None) };
    let Some(free) = occupancy::next_free(tables, &keys::grid(space, len), span)? else {
        return Ok(None);
    };
    let base = free.bits().checked_shl(host.into()).unwrap_or(0);
    Ok(Addr::from_bits(family, base).and_then(|base| whole(base, len)))
}

/// The subnet behind one of the same length.
fn next(subnet: Subnet) -> Option<Subnet> {
    whole(subnet.last().next()?, subnet.len())
}

fn shift(bits: u128, by: u8) -> u128 {
    bits.checked_shr(by.into()).unwrap_or(0)
}

/// Where a subnet has its bit.
fn bit(subnet: Subnet) -> Option<Addr> {
    let host = subnet.family().bits() - subnet.len();
    Addr::from_bits(subnet.family(), shift(subnet.first().bits(), host))
}

/// Whether a subnet has a pool.
fn is_pool<K: Kv>(tables: &Tables<'_, K>, space: &str, subnet: Subnet) -> Result<bool, StoreError> {
    let key = keys::places(space, subnet);
    let mut found = false;
    tables.kv.scan(&key, &keys::behind(&key), &mut |_, _| {
        found = true;
        Ok(false)
    })?;
    Ok(found)
}

/// Writes a pool: a new one, or the same with other users.
pub fn put<K: KvMut>(tables: &mut Tables<'_, K>, pool: &Pool) -> Result<(), StoreError> {
    let key = keys::pool(&pool.id);
    match get(tables, &pool.id)? {
        Some(before) if (&before.space, before.subnet) == (&pool.space, pool.subnet) => {}
        Some(_) => return Err(tables.damaged("a pool whose subnet has changed")),
        None => {
            if !is_pool(tables, &pool.space, pool.subnet)?
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

/// Forgets a pool.
pub fn remove<K: KvMut>(tables: &mut Tables<'_, K>, pool: &Pool) -> Result<(), StoreError> {
    tables.kv.remove(&keys::pool(&pool.id))?;
    tables.kv.remove(&keys::place(&pool.space, pool.subnet, &pool.id))?;
    if !is_pool(tables, &pool.space, pool.subnet)?
        && let Some(bit) = bit(pool.subnet)
    {
        occupancy::free(tables, &keys::grid(&pool.space, pool.subnet.len()), bit)?;
    }
    Ok(())
}
