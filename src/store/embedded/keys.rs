//! The keys of the embedded store's only table: their order and format.
//!
//! One table for everything keeps a small store in one leaf, and a commit on few pages.
//! Invariant: no key of one kind is a prefix of another kind's key, whatever text a name contains. The keys
//! of one set are ordered by address, by owner or by time, depending on the kind.

use crate::alloc::PodKey;
use crate::model::{NetworkName, Owner, PoolId, SetName, Timestamp};
use crate::net::{Addr, Family, Subnet};

/// A lease, by address.
pub const LEASE: u8 = b'L';
/// The addresses of an owner.
pub const OWNER: u8 = b'O';
/// An occupancy block of addresses.
pub const BLOCK: u8 = b'B';
/// The cursor of a range set.
pub const CURSOR: u8 = b'C';
/// A cooling address.
pub const COOLING: u8 = b'K';
/// A cooling address in the order of time.
pub const QUEUE: u8 = b'Q';
/// A pod's address.
pub const STICKY: u8 = b'S';
/// The key of the [`STICKY`] record for an address.
pub const STUCK: u8 = b'T';
/// A network's ranges.
pub const RANGES: u8 = b'D';
/// The copy of a reservation, by its last address.
pub const RESERVED: u8 = b'R';
/// A pool by its name.
pub const POOL: u8 = b'P';
/// A pool by its space, its subnet and its name.
pub const PLACE: u8 = b'N';
/// An occupancy block of subnets.
pub const GRID: u8 = b'G';
/// An event.
pub const EVENT: u8 = b'E';
/// The counters of a set.
pub const COUNT: u8 = b'X';
/// A fact about the file, each under a key of its own.
pub const FACT: u8 = b'M';

/// The schema version's key.
pub const SCHEMA: &[u8] = b"Mschema";

/// The key of the time at which a boot's file was created, in seconds.
pub const BEGUN: &[u8] = b"Mbegun";

/// The key of the machine that created a boot's file.
pub const MACHINE: &[u8] = b"Mmachine";

/// The key of the nonce of the policy that the reservations were copied from.
pub const POLICY: &[u8] = b"Mpolicy";

/// The prefix of the keys with the bounds of history.
pub const BOUNDS: &[u8] = b"Mhistory";

/// Appends text with an end that sorts before every continuation: 0 is written as 0 255, the end as 0 1.
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

/// An address in 17 bytes that sort like addresses.
pub fn addr(addr: Addr) -> [u8; 17] {
    let mut bytes = [0; 17];
    bytes[0] = family(addr.family());
    bytes[1..].copy_from_slice(&addr.bits().to_be_bytes());
    bytes
}

/// The address in 17 bytes.
pub fn read_addr(bytes: &[u8]) -> Option<Addr> {
    let (first, rest) = bytes.split_first()?;
    Addr::from_bits(read_family(*first)?, u128::from_be_bytes(rest.try_into().ok()?))
}

/// The key that begins with a kind and a name.
fn named(kind: u8, name: &str) -> Vec<u8> {
    let mut key = vec![kind];
    text(&mut key, name);
    key
}

/// The prefix of all keys of a kind that belong to a set.
pub fn of_set(kind: u8, set: &SetName) -> Vec<u8> {
    named(kind, &set.0)
}

/// The key of one kind that belongs to an address, or to the range set of this key.
pub fn at(kind: u8, set: &SetName, at: Addr) -> Vec<u8> {
    [&of_set(kind, set)[..], &addr(at)].concat()
}

/// The prefix of all keys of a kind that belong to a set and a family.
pub fn of_family(kind: u8, set: &SetName, of: Family) -> Vec<u8> {
    [&of_set(kind, set)[..], &[family(of)]].concat()
}

/// The set in a key, and what follows.
fn read_of_set(kind: u8, key: &[u8]) -> Option<(SetName, &[u8])> {
    let (set, rest) = read_text(key.strip_prefix(&[kind])?)?;
    Some((SetName(set), rest))
}

/// The set in a key.
pub fn read_set(kind: u8, key: &[u8]) -> Option<SetName> {
    read_of_set(kind, key).map(|(set, _)| set)
}

/// Set and address of a key of [`at`].
pub fn read_at(kind: u8, key: &[u8]) -> Option<(SetName, Addr)> {
    let (set, rest) = read_of_set(kind, key)?;
    Some((set, read_addr(rest)?))
}

/// The key of a lease.
pub fn lease(set: &SetName, addr: Addr) -> Vec<u8> {
    at(LEASE, set, addr)
}

/// The key of the addresses of an owner.
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
    }
    key
}

/// The prefix of the owner keys of all leases of a set that were made through a pool, sorted by address.
pub fn of_pool(set: &SetName, pool: &PoolId) -> Vec<u8> {
    let mut key = of_set(OWNER, set);
    key.push(b'p');
    text(&mut key, &pool.0);
    key
}

/// The prefix of the owner keys of all containers of a network in a set.
pub fn of_network(set: &SetName, network: &NetworkName) -> Vec<u8> {
    let mut key = of_set(OWNER, set);
    key.push(b'a');
    text(&mut key, network.as_str());
    key
}

/// The key of an occupancy block. `index` counts the blocks of its level.
pub fn block(set: &SetName, of: Family, level: u8, index: u128) -> Vec<u8> {
    let kind = if set.0.starts_with(GRID_MARK) { GRID } else { BLOCK };
    [&of_family(kind, set, of)[..], &[level], &index.to_be_bytes()].concat()
}

/// Set, family, level and index of the key of an occupancy block of addresses.
pub fn read_block(key: &[u8]) -> Option<(SetName, Family, u8, u128)> {
    let (set, rest) = read_of_set(BLOCK, key)?;
    let ([family, level], index) = rest.split_first_chunk()?;
    Some((set, read_family(*family)?, *level, u128::from_be_bytes(index.try_into().ok()?)))
}

/// The key of a pool by its name.
pub fn pool(id: &PoolId) -> Vec<u8> {
    named(POOL, &id.0)
}

/// The key of a cooling address in the order of time. The family comes first, because a search is for one
/// family.
pub fn queued(set: &SetName, until: Timestamp, at: Addr) -> Vec<u8> {
    [&of_family(QUEUE, set, at.family())[..], &until.to_be_bytes(), &addr(at)].concat()
}

/// Set, time and address of a queue's key.
pub fn read_queued(key: &[u8]) -> Option<(SetName, Timestamp, Addr)> {
    let (set, rest) = read_of_set(QUEUE, key)?;
    let (until, addr) = rest.get(1..)?.split_first_chunk()?;
    Some((set, u64::from_be_bytes(*until), read_addr(addr)?))
}

/// The key of a pod's former address in a range set.
pub fn sticky(set: &SetName, pod: &PodKey, range: Addr) -> Vec<u8> {
    let mut key = of_set(STICKY, set);
    text(&mut key, &pod.namespace);
    text(&mut key, &pod.name);
    key.extend(addr(range));
    key
}

/// Set, pod and range of a [`sticky`] key.
pub fn read_sticky(key: &[u8]) -> Option<(SetName, PodKey, Addr)> {
    let (set, rest) = read_of_set(STICKY, key)?;
    let (namespace, rest) = read_text(rest)?;
    let (name, rest) = read_text(rest)?;
    Some((set, PodKey { namespace, name }, read_addr(rest)?))
}

/// The key of a network's ranges.
pub fn ranges(network: &NetworkName) -> Vec<u8> {
    named(RANGES, network.as_str())
}

/// The network whose ranges are under this key.
pub fn read_ranges(key: &[u8]) -> Option<NetworkName> {
    let (name, _) = read_text(key.strip_prefix(&[RANGES])?)?;
    NetworkName::new(name).ok()
}

/// The key of the bounds of a set's history.
pub fn history_bounds(set: &SetName) -> Vec<u8> {
    let mut key = BOUNDS.to_vec();
    text(&mut key, &set.0);
    key
}

/// The key of an event of a set. Numbers grow by one in each set. The time is in the key, so that old events
/// can be found without reading them.
pub fn event(set: &SetName, number: u64, time: Timestamp) -> Vec<u8> {
    [&of_set(EVENT, set)[..], &number.to_be_bytes(), &time.to_be_bytes()].concat()
}

/// No set of leases begins with this character.
const GRID_MARK: char = '\0';

/// The set that represents the subnets of one length in a space, so that occupancy blocks count them like
/// addresses.
pub fn grid(space: &str, len: u8) -> SetName {
    SetName(format!("{GRID_MARK}{len} {space}"))
}

/// The key of a pool by its space, its subnet and its name.
pub fn place(space: &str, subnet: Subnet, id: &PoolId) -> Vec<u8> {
    let mut key = places(space, subnet);
    text(&mut key, &id.0);
    key
}

/// The prefix of the keys of every pool of a subnet. They sort by address, a shorter prefix first.
pub fn places(space: &str, subnet: Subnet) -> Vec<u8> {
    let mut key = named(PLACE, space);
    key.extend(addr(subnet.first()));
    key.push(subnet.len());
    key
}

/// The subnet in the key of a place.
pub fn read_place(space: &str, key: &[u8]) -> Option<Subnet> {
    let (base, rest) = key.strip_prefix(&*named(PLACE, space))?.split_at_checked(17)?;
    Subnet::new(read_addr(base)?, *rest.first()?)
}

/// Set, number and time of an event's key.
pub fn read_event(key: &[u8]) -> Option<(SetName, u64, Timestamp)> {
    let (set, rest) = read_text(key.strip_prefix(&[EVENT])?)?;
    let (number, time) = rest.split_first_chunk::<8>()?;
    Some((SetName(set), u64::from_be_bytes(*number), u64::from_be_bytes(time.try_into().ok()?)))
}

/// The first key after all keys that begin with `prefix`.
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
        // A range may cross a /64.
        assert!(at("fd00::2") < at("fd00:0:0:1::1"));
        assert_eq!(read_addr(&at("fd00::1")), Some("fd00::1".parse().unwrap()));
    }
}
