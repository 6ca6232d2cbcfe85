//! Stores pools in a sorted table of bytes.
//!
//! There are three kinds of records: the pools, an index of the pools by address, and bits that mark which
//! subnets of each prefix length belong to pools. Invariant: the three kinds of records agree, and no lookup
//! reads all pools.

use super::view::{Kv, KvMut, Tables};
use super::{Result, keys, occupancy};
use crate::model::{Pool, PoolId};
use crate::net::{Addr, Span, Subnet};
use crate::store::codec;

/// Returns the pool with this name.
pub fn get<K: Kv>(tables: &Tables<'_, K>, id: &PoolId) -> Result<Option<Pool>> {
    tables.value(&keys::pool(id))
}

/// Returns all pools, ordered by name.
pub fn all<K: Kv>(tables: &Tables<'_, K>) -> Result<Vec<Pool>> {
    let mut found = Vec::new();
    tables.kv.each(&[keys::POOL], &mut |key, value| {
        found.push(tables.whole(codec::unseal::<Pool>(key, value))?);
        Ok(())
    })?;
    Ok(found)
}

/// Returns the pool that an entry in the index of pools by address refers to.
fn named<K: Kv>(tables: &Tables<'_, K>, key: &[u8]) -> Result<Pool> {
    let bytes = tables.kv.get(key)?.unwrap_or_default();
    let id = tables.whole(codec::unseal(key, &bytes))?;
    get(tables, &id)?
        .ok_or_else(|| tables.damaged("the pool index lists a pool that does not exist"))
}

/// Returns a pool that overlaps this subnet: a pool that begins inside the subnet, or a pool that encloses
/// it.
pub fn overlapping<K: Kv>(
    tables: &Tables<'_, K>,
    space: &str,
    subnet: Subnet,
) -> Result<Option<Pool>> {
    // First look for pools that begin inside the subnet. Shorter prefixes come first.
    let end = end_of(space, subnet);
    if let Some((key, _)) = tables.kv.first(&keys::places(space, subnet), &end)? {
        return named(tables, &key).map(Some);
    }
    // Then look for enclosing pools. Look at the nearest pool that begins before the subnet. If a pool P
    // encloses the subnet, that nearest pool is P or is enclosed by P. So P's prefix is at most as long as
    // the prefix that the nearest pool and the subnet have in common.
    let first = subnet.first();
    let start = Subnet::masked(first, 0).map(|all| keys::places(space, all)).unwrap_or_default();
    let mut len = subnet.len();
    while let Some(around) = Subnet::masked(first, len) {
        let end = keys::behind(&keys::places(space, around));
        let Some(key) = tables.kv.last(&start, &end)? else { return Ok(None) };
        let before = keys::read_place(space, &key)
            .ok_or_else(|| tables.damaged("a pool is stored under a wrong key"))?;
        if before.contains(first) {
            return named(tables, &key).map(Some);
        }
        let differ = (before.first().bits() ^ first.bits()).leading_zeros();
        let unused = 128 - u32::from(first.family().bits());
        // The value is below 128 and gets smaller with each iteration.
        let common = u8::try_from(differ.saturating_sub(unused)).unwrap_or(u8::MAX);
        len = match len.checked_sub(1) {
            Some(shorter) => shorter.min(common),
            None => return Ok(None),
        };
    }
    Ok(None)
}

/// Returns the first key after all pools that begin inside a subnet.
fn end_of(space: &str, subnet: Subnet) -> Vec<u8> {
    let bits = subnet.family().bits();
    let last = Subnet::masked(subnet.last(), bits).map(|last| keys::places(space, last));
    keys::behind(&last.unwrap_or_default())
}

/// Returns the lowest subnet with prefix length `len` inside `within` that starts at or after `from` and is
/// not the subnet of a pool.
pub fn next_block<K: Kv>(
    tables: &Tables<'_, K>,
    space: &str,
    within: Subnet,
    len: u8,
    from: Addr,
) -> Result<Option<Subnet>> {
    let family = within.family();
    let Some(host) = family.bits().checked_sub(len) else { return Ok(None) };
    // Round up, because the block that contains `from` may begin before `from`.
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

/// Returns the next subnet of the same prefix length.
fn next(subnet: Subnet) -> Option<Subnet> {
    Subnet::masked(subnet.last().next()?, subnet.len())
}

fn shift(bits: u128, by: u8) -> u128 {
    bits.checked_shr(by.into()).unwrap_or(0)
}

/// Returns the index of a subnet among all subnets of its prefix length, in the form of an address. In the
/// occupancy blocks of subnets, the bit of this address stands for the subnet.
fn bit(subnet: Subnet) -> Option<Addr> {
    let host = subnet.family().bits() - subnet.len();
    Addr::from_bits(subnet.family(), shift(subnet.first().bits(), host))
}

/// Writes a new pool, or an existing pool whose users have changed.
pub fn put<K: KvMut>(tables: &mut Tables<'_, K>, pool: &Pool) -> Result<()> {
    let key = keys::pool(&pool.id);
    match get(tables, &pool.id)? {
        Some(before) if (&before.space, before.subnet) == (&pool.space, pool.subnet) => {}
        Some(_) => return Err(tables.damaged("the subnet of a pool has changed")),
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

/// Removes a pool and its index entries.
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
