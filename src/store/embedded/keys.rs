//! The keys of the embedded store's only table: their format and order.
//!
//! Because all records are in one table, a small store fits into one leaf of the B-tree, and a commit changes
//! few pages. Invariant: no key of one kind is a prefix of a key of another kind, regardless of the
//! characters in a name. Depending on the kind, the keys of one set of leases are ordered by address, by
//! owner or by time.

use crate::alloc::PodKey;
use crate::model::{NetworkName, Owner, PoolId, SetName, Timestamp};
use crate::net::{Addr, Family, Subnet};

/// A lease. The key contains the address.
pub const LEASE: u8 = b'L';
/// An owner's index: the addresses that the owner has leased.
pub const OWNER: u8 = b'O';
/// An occupancy block of addresses (see `occupancy`).
pub const BLOCK: u8 = b'B';
/// The cursor of a range set: the address that was allocated last.
pub const CURSOR: u8 = b'C';
/// The cooldown of an address.
pub const COOLING: u8 = b'K';
/// The queue of cooling addresses: the addresses of [`COOLING`], ordered by the end of their cooldown.
pub const QUEUE: u8 = b'Q';
/// A pod's former address.
pub const STICKY: u8 = b'S';
/// The reverse index of [`STICKY`]: for each former address, the key of the pod's [`STICKY`] record.
pub const STUCK: u8 = b'T';
/// The ranges of a network.
pub const RANGES: u8 = b'D';
/// A copy of a reservation from the policy. The key contains the last address of the reservation.
pub const RESERVED: u8 = b'R';
/// A pool. The key contains its name.
pub const POOL: u8 = b'P';
/// The index of pools by address space and subnet. The key also contains the pool's name.
pub const PLACE: u8 = b'N';
/// An occupancy block of subnets, which marks the subnets of pools.
pub const GRID: u8 = b'G';
/// A history event.
pub const EVENT: u8 = b'E';
/// The counters of a set of leases.
pub const COUNT: u8 = b'X';
/// A single fact about the file. Each fact has its own key.
pub const FACT: u8 = b'M';

/// The key of the schema version.
pub const SCHEMA: &[u8] = b"Mschema";

/// The key of the time at which a boot file was created, in seconds.
pub const BEGUN: &[u8] = b"Mbegun";

/// The key of the ID of the machine that created a boot file.
pub const MACHINE: &[u8] = b"Mmachine";

/// The key of the nonce that the policy had when its reservations were copied into this file.
pub const POLICY: &[u8] = b"Mpolicy";

/// The prefix of the keys for the limits of each set's history.
pub const BOUNDS: &[u8] = b"Mhistory";

/// Appends text and an end mark. A 0 byte in the text is written as 0 255, and the end mark is 0 1, so the
/// end mark sorts before every continuation of the text.
fn text(key: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        key.push(byte);
        if byte == 0 {
            key.push(0xff);
        }
    }
    key.extend([0, 1]);
}

fn read_text(key: &[u8]) -> Option<(String, &[u8])> {
    let mut bytes = Vec::new();
    let mut rest = key;
    loop {
        match rest {
            [0, 1, tail @ ..] => return Some((String::from_utf8(bytes).ok()?, tail)),
            [0, 0xff, tail @ ..] => {
                bytes.push(0);
                rest = tail;
            }
            [0, ..] | [] => return None,
            [byte, tail @ ..] => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
}

fn family(family: Family) -> u8 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}

fn read_family(byte: u8) -> Option<Family> {
    [Family::V4, Family::V6].into_iter().find(|of| family(*of) == byte)
}

/// Encodes an address as 17 bytes, which sort in address order.
pub fn addr(addr: Addr) -> [u8; 17] {
    let mut bytes = [0; 17];
    bytes[0] = family(addr.family());
    bytes[1..].copy_from_slice(&addr.bits().to_be_bytes());
    bytes
}

/// Decodes an address from 17 bytes.
pub fn read_addr(bytes: &[u8]) -> Option<Addr> {
    let (first, rest) = bytes.split_first()?;
    Addr::from_bits(read_family(*first)?, u128::from_be_bytes(rest.try_into().ok()?))
}

/// Makes a key that consists of a kind and a name.
fn named(kind: u8, name: &str) -> Vec<u8> {
    let mut key = vec![kind];
    text(&mut key, name);
    key
}

/// Returns the prefix of all keys of a kind that belong to one set of leases.
pub fn of_set(kind: u8, set: &SetName) -> Vec<u8> {
    named(kind, &set.0)
}

/// Makes a key of a kind from a set of leases and an address. (For [`CURSOR`], the address identifies a range
/// set: it is the first address of the set's first range.)
pub fn at(kind: u8, set: &SetName, at: Addr) -> Vec<u8> {
    [&of_set(kind, set)[..], &addr(at)].concat()
}

/// Returns the prefix of all keys of a kind that belong to one set of leases and one address family.
pub fn of_family(kind: u8, set: &SetName, of: Family) -> Vec<u8> {
    [&of_set(kind, set)[..], &[family(of)]].concat()
}

/// Returns the set of leases in a key, and the rest of the key.
fn read_of_set(kind: u8, key: &[u8]) -> Option<(SetName, &[u8])> {
    let (set, rest) = read_text(key.strip_prefix(&[kind])?)?;
    Some((SetName(set), rest))
}

/// Decodes the name of the lease set in a key.
pub fn read_set(kind: u8, key: &[u8]) -> Option<SetName> {
    read_of_set(kind, key).map(|(set, _)| set)
}

/// Decodes a key that [`at`] made: the name of the lease set, and the address. `None` if the key does not
/// have this format.
pub fn read_at(kind: u8, key: &[u8]) -> Option<(SetName, Addr)> {
    let (set, rest) = read_of_set(kind, key)?;
    Some((set, read_addr(rest)?))
}

/// Makes the key of a lease.
pub fn lease(set: &SetName, addr: Addr) -> Vec<u8> {
    at(LEASE, set, addr)
}

/// Makes the key of an owner's index.
pub fn owner(set: &SetName, owner: &Owner) -> Vec<u8> {
    let mut key = of_set(OWNER, set);
    match owner {
        Owner::Attachment(a) => {
            key = of_network(set, &a.network);
            text(&mut key, a.container.as_str());
            text(&mut key, a.ifname.as_ref().map_or("", |i| i.as_str()));
        }
        Owner::Id(id) => {
            key.push(b'i');
            text(&mut key, id);
        }
        Owner::Gateway(at) => {
            key.push(b'g');
            key.extend(addr(*at));
        }
        Owner::Reservation(at) => {
            key.push(b'r');
            key.extend(addr(*at));
        }
        Owner::Pool(pool, at) => {
            key = of_pool(set, pool);
            key.extend(addr(*at));
        }
        // Reservations for a name are only in the policy file, so no record has this key.
        Owner::Named(name) => {
            key.push(b'n');
            text(&mut key, name.as_str());
        }
    }
    key
}

/// Returns the prefix of the owner keys of all leases that belong to one pool. These keys are sorted by
/// address.
pub fn of_pool(set: &SetName, pool: &PoolId) -> Vec<u8> {
    let mut key = of_set(OWNER, set);
    key.push(b'p');
    text(&mut key, &pool.0);
    key
}

/// Returns the prefix of the owner keys of all containers of one network in a set of leases.
pub fn of_network(set: &SetName, network: &NetworkName) -> Vec<u8> {
    let mut key = of_set(OWNER, set);
    key.push(b'a');
    text(&mut key, network.as_str());
    key
}

/// Makes the key of an occupancy block. `index` is the number of the block within its level.
pub fn block(set: &SetName, of: Family, level: u8, index: u128) -> Vec<u8> {
    let kind = if set.0.starts_with(GRID_MARK) { GRID } else { BLOCK };
    [&of_family(kind, set, of)[..], &[level], &index.to_be_bytes()].concat()
}

/// Returns the set of leases, family, level and index in the key of an occupancy block of addresses.
pub fn read_block(key: &[u8]) -> Option<(SetName, Family, u8, u128)> {
    let (set, rest) = read_of_set(BLOCK, key)?;
    let ([family, level], index) = rest.split_first_chunk()?;
    Some((set, read_family(*family)?, *level, u128::from_be_bytes(index.try_into().ok()?)))
}

/// Makes the key of a pool.
pub fn pool(id: &PoolId) -> Vec<u8> {
    named(POOL, &id.0)
}

/// Makes the key of a cooling address in the queue. The family comes before the time, because each search
/// covers only one family.
pub fn queued(set: &SetName, until: Timestamp, at: Addr) -> Vec<u8> {
    [&of_family(QUEUE, set, at.family())[..], &until.to_be_bytes(), &addr(at)].concat()
}

/// Returns the set of leases, time and address in a key of the queue.
pub fn read_queued(key: &[u8]) -> Option<(SetName, Timestamp, Addr)> {
    let (set, rest) = read_of_set(QUEUE, key)?;
    let (until, addr) = rest.get(1..)?.split_first_chunk()?;
    Some((set, u64::from_be_bytes(*until), read_addr(addr)?))
}

/// Makes the key of a pod's former address in a range set.
pub fn sticky(set: &SetName, pod: &PodKey, range: Addr) -> Vec<u8> {
    let mut key = of_set(STICKY, set);
    text(&mut key, &pod.namespace);
    text(&mut key, &pod.name);
    key.extend(addr(range));
    key
}

/// Returns the set of leases, pod and range in a key that [`sticky`] made.
pub fn read_sticky(key: &[u8]) -> Option<(SetName, PodKey, Addr)> {
    let (set, rest) = read_of_set(STICKY, key)?;
    let (namespace, rest) = read_text(rest)?;
    let (name, rest) = read_text(rest)?;
    Some((set, PodKey { namespace, name }, read_addr(rest)?))
}

/// Makes the key of a network's ranges.
pub fn ranges(network: &NetworkName) -> Vec<u8> {
    named(RANGES, network.as_str())
}

/// Returns the network in a key that [`ranges`] made.
pub fn read_ranges(key: &[u8]) -> Option<NetworkName> {
    let (name, _) = read_text(key.strip_prefix(&[RANGES])?)?;
    NetworkName::new(name).ok()
}

/// Makes the key of the limits of a set's history.
pub fn history_bounds(set: &SetName) -> Vec<u8> {
    let mut key = BOUNDS.to_vec();
    text(&mut key, &set.0);
    key
}

/// Makes the key of an event. Within a set of leases, events are numbered consecutively. The key contains the
/// time, so that old events can be found without reading their records.
pub fn event(set: &SetName, number: u64, time: Timestamp) -> Vec<u8> {
    [&of_set(EVENT, set)[..], &number.to_be_bytes(), &time.to_be_bytes()].concat()
}

/// The first character of the names of the special sets that [`grid`] returns. No name of another set begins
/// with this character.
const GRID_MARK: char = '\0';

/// Returns the name of a special set that represents all subnets with one prefix length in an address space.
/// In its occupancy blocks, each bit stands for a subnet instead of an address.
pub fn grid(space: &str, len: u8) -> SetName {
    SetName(format!("{GRID_MARK}{len} {space}"))
}

/// Makes the key of a pool in the index by address space and subnet.
pub fn place(space: &str, subnet: Subnet, id: &PoolId) -> Vec<u8> {
    let mut key = places(space, subnet);
    text(&mut key, &id.0);
    key
}

/// Returns the prefix of the keys of all pools with this subnet. These keys sort by the subnet's first
/// address, then by prefix length, shorter prefixes first.
pub fn places(space: &str, subnet: Subnet) -> Vec<u8> {
    let mut key = named(PLACE, space);
    key.extend(addr(subnet.first()));
    key.push(subnet.len());
    key
}

/// Returns the subnet in a key that [`place`] made.
pub fn read_place(space: &str, key: &[u8]) -> Option<Subnet> {
    let (base, rest) = key.strip_prefix(&*named(PLACE, space))?.split_at_checked(17)?;
    Subnet::new(read_addr(base)?, *rest.first()?)
}

/// Returns the set of leases, number and time in the key of an event.
pub fn read_event(key: &[u8]) -> Option<(SetName, u64, Timestamp)> {
    let (set, rest) = read_text(key.strip_prefix(&[EVENT])?)?;
    let (number, time) = rest.split_first_chunk::<8>()?;
    Some((SetName(set), u64::from_be_bytes(*number), u64::from_be_bytes(time.try_into().ok()?)))
}

/// Returns the first key after all keys that begin with `prefix`.
pub fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_zeros_do_not_run_into_each_other() {
        let a = lease(&SetName("a".into()), "10.0.0.1".parse().unwrap());
        let b = lease(&SetName("a\0".into()), "10.0.0.1".parse().unwrap());
        assert!(!b.starts_with(&of_set(LEASE, &SetName("a".into()))));
        assert_eq!(read_at(LEASE, &a).unwrap().0, SetName("a".into()));
        assert_eq!(read_at(LEASE, &b).unwrap().0, SetName("a\0".into()));
        assert!(a < b);
    }

    #[test]
    fn behind_ends_a_prefix() {
        assert_eq!(behind(&[1, 2]), [1, 3]);
        assert_eq!(behind(&[1, 0xff]), [2]);
    }

    #[test]
    fn keys_sort_as_addresses() {
        let at = |t: &str| addr(t.parse().unwrap());
        assert!(at("9.255.255.255") < at("10.0.0.0"));
        assert!(at("255.255.255.255") < at("::"));
        // Addresses compare as 128-bit numbers, so a range may span several /64 prefixes.
        assert!(at("fd00::2") < at("fd00:0:0:1::1"));
        assert_eq!(read_addr(&at("fd00::1")), Some("fd00::1".parse().unwrap()));
    }
}
