//! Records the addresses in use as bits. Finding the next free address takes only a few lookups, even in a
//! full or fragmented range.
//!
//! The bits form a tree of blocks with 512 bits each. On level 0, a set bit means that an address is in use.
//! On level n + 1, a set bit means that a block of level n is full. A block without any set bit is not
//! stored, so an empty /64 needs no space.
//! Invariant: a bit on a higher level is set if and only if all bits of its block on the level below are set.

use super::view::{Kv, KvMut, Tables};
use super::{Result, keys};
use crate::model::SetName;
use crate::net::{Addr, Family, Span};
use crate::store::codec;

/// log2 of the number of bits in a block.
const WIDTH: u32 = 9;
const SLOTS: usize = 1 << WIDTH;

/// The bits of one block.
pub type Bits = [u8; SLOTS / 8];

/// Returns the index of the block that contains the bit of item `at`, and the index of the bit in the block.
/// On level 0, an item is an address; on any other level, an item is a block of the level below.
fn place(at: u128) -> (u128, usize) {
    // The conversion is lossless, because the value is less than 512.
    (at >> WIDTH, (at % SLOTS as u128) as usize)
}

/// Returns whether the family needs another level above `level`.
fn has_above(family: Family, level: u8) -> bool {
    (u32::from(level) + 1) * WIDTH < u32::from(family.bits())
}

fn get(bits: &Bits, slot: usize) -> bool {
    bits[slot / 8] & (1 << (slot % 8)) != 0
}

fn first_clear(bits: &Bits, from: usize, to: usize) -> Option<usize> {
    let mut slot = from;
    while slot <= to {
        // Skip bytes in which all bits are set.
        if slot.is_multiple_of(8) && bits[slot / 8] == u8::MAX {
            slot += 8;
        } else if get(bits, slot) {
            slot += 1;
        } else {
            return Some(slot);
        }
    }
    None
}

fn load<K: Kv>(
    tables: &Tables<'_, K>,
    set: &SetName,
    family: Family,
    level: u8,
    index: u128,
) -> Result<Bits> {
    let key = keys::block(set, family, level, index);
    Ok(tables.read(&key, codec::read_bits)?.unwrap_or([0; SLOTS / 8]))
}

/// Returns the addresses that a block of level 0 marks as in use.
pub fn addresses(family: Family, index: u128, bits: &Bits) -> impl Iterator<Item = Addr> {
    let taken = (0..SLOTS).filter(move |slot| get(bits, *slot));
    taken.filter_map(move |slot| Addr::from_bits(family, (index << WIDTH) | slot as u128))
}

/// Returns whether the address is marked as in use.
pub fn taken<K: Kv>(tables: &Tables<'_, K>, set: &SetName, addr: Addr) -> Result<bool> {
    let (index, slot) = place(addr.bits());
    Ok(get(&load(tables, set, addr.family(), 0, index)?, slot))
}

/// Compares a block of level 0 with its leases and cooling addresses, and any other block with the blocks
/// below it. Also checks that the block's bit in the block above is set if and only if the block is full.
pub fn judge<K: Kv>(
    tables: &Tables<'_, K>,
    key: &[u8],
    value: &[u8],
) -> Result<Result<(), String>> {
    let Some((set, family, level, index)) = keys::read_block(key) else {
        return Ok(Err("the key has an unknown format".to_owned()));
    };
    let Ok(bits) = codec::read_bits(key, value) else {
        return Ok(Err("the record has a wrong checksum".to_owned()));
    };
    let mut expected = [0; SLOTS / 8];
    let mut set_bit = |slot: usize| expected[slot / 8] |= 1 << (slot % 8);
    if level == 0 {
        let at = |slot: usize| Addr::from_bits(family, (index << WIDTH) | slot as u128);
        let Some((first, last)) = at(0).zip(at(SLOTS - 1)) else {
            return Ok(Err(
                "the record covers addresses past the end of the address space".to_owned()
            ));
        };
        for kind in [keys::LEASE, keys::COOLING] {
            let (from, to) = (keys::at(kind, &set, first), keys::at(kind, &set, last));
            tables.kv.scan(&from, &keys::behind(&to), &mut |key, _| {
                if let Some((_, addr)) = keys::read_at(kind, key) {
                    set_bit(place(addr.bits()).1);
                }
                Ok(true)
            })?;
        }
    } else {
        for slot in 0..SLOTS {
            let below = (index << WIDTH) | slot as u128;
            if is_full(&load(tables, &set, family, level - 1, below)?) {
                set_bit(slot);
            }
        }
    }
    if bits != expected {
        return Ok(Err("the occupancy block does not match the leases".to_owned()));
    }
    if has_above(family, level) {
        let (above, slot) = place(index);
        if get(&load(tables, &set, family, level + 1, above)?, slot) != is_full(&bits) {
            return Ok(Err("the parent occupancy block does not match this block".to_owned()));
        }
    }
    Ok(Ok(()))
}

fn is_full(bits: &Bits) -> bool {
    bits.iter().all(|byte| *byte == u8::MAX)
}

/// Returns the lowest address of the span that is not in use.
pub fn next_free<K: Kv>(tables: &Tables<'_, K>, set: &SetName, span: Span) -> Result<Option<Addr>> {
    let family = span.first.family();
    let found = search(tables, set, family, 0, span.first.bits(), span.last.bits())?;
    Ok(found.and_then(|bits| Addr::from_bits(family, bits)))
}

/// Returns the first item on a level, from `low` to `high`, whose bit is not set. On level 0, an item is an
/// address; on any other level, an item is a block of the level below.
fn search<K: Kv>(
    tables: &Tables<'_, K>,
    set: &SetName,
    family: Family,
    level: u8,
    low: u128,
    high: u128,
) -> Result<Option<u128>> {
    let ((first, from), (last, to)) = (place(low), place(high));
    let item = |index: u128, slot: usize| (index << WIDTH) | slot as u128;
    let bits = load(tables, set, family, level, first)?;
    let end = if first == last { to } else { SLOTS - 1 };
    if let Some(slot) = first_clear(&bits, from, end) {
        return Ok(Some(item(first, slot)));
    }
    if first == last {
        return Ok(None);
    }
    let Some(next) = search(tables, set, family, level + 1, first + 1, last)? else {
        return Ok(None);
    };
    let bits = load(tables, set, family, level, next)?;
    let end = if next == last { to } else { SLOTS - 1 };
    match first_clear(&bits, 0, end) {
        Some(slot) => Ok(Some(item(next, slot))),
        // The last block of the span may have free items that lie after the span.
        None if next == last => Ok(None),
        None => Err(tables.damaged("a full occupancy block is not marked as full")),
    }
}

/// Marks an address as in use.
pub fn take<K: KvMut>(tables: &mut Tables<'_, K>, set: &SetName, addr: Addr) -> Result<()> {
    mark(tables, set, addr, true)
}

/// Marks an address as free.
pub fn free<K: KvMut>(tables: &mut Tables<'_, K>, set: &SetName, addr: Addr) -> Result<()> {
    mark(tables, set, addr, false)
}

fn mark<K: KvMut>(
    tables: &mut Tables<'_, K>,
    set: &SetName,
    addr: Addr,
    taken: bool,
) -> Result<()> {
    let family = addr.family();
    let mut at = addr.bits();
    for level in 0.. {
        let (index, slot) = place(at);
        let mut bits = load(tables, set, family, level, index)?;
        if get(&bits, slot) == taken {
            return Err(tables.damaged("the occupancy index does not match the leases"));
        }
        let was_full = is_full(&bits);
        bits[slot / 8] ^= 1 << (slot % 8);
        let key = keys::block(set, family, level, index);
        if bits.iter().all(|b| *b == 0) {
            tables.kv.remove(&key)?;
        } else {
            tables.kv.put(&key, &codec::bits(&key, &bits))?;
        }
        if is_full(&bits) == was_full || !has_above(family, level) {
            break;
        }
        at = index;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::store::embedded::view::Each;

    #[derive(Default)]
    struct Map(BTreeMap<Vec<u8>, Vec<u8>>, std::cell::Cell<usize>);

    impl Kv for Map {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
            self.1.set(self.1.get() + 1);
            Ok(self.0.get(key).cloned())
        }

        fn scan(&self, _: &[u8], _: &[u8], _: &mut Each<'_>) -> Result<()> {
            unreachable!("occupancy needs no scan")
        }

        fn last(&self, _: &[u8], _: &[u8]) -> Result<Option<Vec<u8>>> {
            unreachable!("occupancy needs no order")
        }
    }

    impl KvMut for Map {
        fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
            self.0.insert(key.to_vec(), value.to_vec());
            Ok(())
        }

        fn remove(&mut self, key: &[u8]) -> Result<()> {
            self.0.remove(key);
            Ok(())
        }
    }

    fn tables() -> Tables<'static, Map> {
        Tables::new(Map::default(), Path::new("test"))
    }

    fn net() -> SetName {
        SetName("net".into())
    }

    fn at(family: Family, bits: u128) -> Addr {
        Addr::from_bits(family, bits).unwrap()
    }

    /// Marks the addresses `first..=last` except `hole` as in use. Returns the number of lookups that it
    /// takes to find the free address.
    fn look_ups(family: Family, first: u128, last: u128, hole: u128) -> usize {
        let mut tables = tables();
        for bits in (first..=last).filter(|b| *b != hole) {
            take(&mut tables, &net(), at(family, bits)).unwrap();
        }
        let span = Span::new(at(family, first), at(family, last)).unwrap();
        tables.kv.1.set(0);
        assert_eq!(next_free(&tables, &net(), span).unwrap(), Some(at(family, hole)));
        let looks = tables.kv.1.get();
        take(&mut tables, &net(), at(family, hole)).unwrap();
        assert_eq!(next_free(&tables, &net(), span).unwrap(), None);
        free(&mut tables, &net(), at(family, hole)).unwrap();
        assert_eq!(next_free(&tables, &net(), span).unwrap(), Some(at(family, hole)));
        looks
    }

    #[test]
    fn one_free_address_is_found_by_a_few_look_ups_wherever_it_is() {
        let base = 10 << 24;
        for hole in [base + 1, base + 511, base + 512, base + 40_000, base + 65_534] {
            assert!(look_ups(Family::V4, base + 1, base + 65_534, hole) <= 6);
        }
        let end = u128::MAX;
        assert!(look_ups(Family::V6, end - 2000, end, end) <= 6);
        let end = u128::from(u32::MAX);
        assert!(look_ups(Family::V4, end - 2000, end, end) <= 6);
    }

    #[test]
    fn an_empty_family_costs_one_look_up() {
        let tables = tables();
        let all = Span::new(at(Family::V6, 0), at(Family::V6, u128::MAX)).unwrap();
        assert_eq!(next_free(&tables, &net(), all).unwrap(), Some(at(Family::V6, 0)));
        assert_eq!(tables.kv.1.get(), 1);
    }

    #[test]
    fn taking_twice_and_freeing_twice_is_damage() {
        let mut tables = tables();
        let addr = at(Family::V4, 7);
        assert!(free(&mut tables, &net(), addr).is_err());
        take(&mut tables, &net(), addr).unwrap();
        assert!(take(&mut tables, &net(), addr).is_err());
        free(&mut tables, &net(), addr).unwrap();
        assert!(tables.kv.0.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

        /// The test marks and frees whole runs of addresses, so that blocks of level 0 become full and empty
        /// again.
        #[test]
        fn the_tree_is_a_set(
            base in prop::sample::select(vec![0, 511, 1 << 18, (1 << 18) - 700, u128::from(u32::MAX) - 4000]),
            runs in prop::collection::vec((0..3500_u128, 1..1300_u128), 1..12),
            looks in prop::collection::vec((0..4000_u128, 0..4000_u128), 1..40),
        ) {
            let mut tables = tables();
            let mut model = BTreeSet::new();
            for (from, len) in runs {
                for bits in base + from..=(base + from + len).min(base + 4000) {
                    let addr = at(Family::V4, bits);
                    if model.insert(addr) {
                        take(&mut tables, &net(), addr).unwrap();
                    } else {
                        model.remove(&addr);
                        free(&mut tables, &net(), addr).unwrap();
                    }
                }
            }
            for (a, b) in looks {
                let (a, b) = (a.min(b), a.max(b));
                let span = Span::new(at(Family::V4, base + a), at(Family::V4, base + b)).unwrap();
                let want = (base + a..=base + b).map(|n| at(Family::V4, n)).find(|x| !model.contains(x));
                prop_assert_eq!(next_free(&tables, &net(), span).unwrap(), want);
            }
        }
    }
}
