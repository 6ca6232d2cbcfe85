//! Keys of the embedded store's one table.
//!
//! Owns: their order and form. One table for everything keeps a small store in one leaf and a
//! commit on few pages.
//! Invariant: no key of one kind is the beginning of another's, whatever text a name holds; keys of
//! one set sort by address, by owner, by time, as the kind says.

use crate::alloc::PodKey;
use crate::model::{NetworkName, Owner, PoolId, SetName, Timestamp};
use crate::net::{Addr, Family, Subnet};

const LEASE: u8 = b'L';
const OWNER: u8 = b'O';
const BLOCK: u8 = b'B';
const CURSOR: u8 = b'C';
const COOLING: u8 = b'K';
const QUEUE: u8 = b'Q';
const STICKY: u8 = b'S';
const STUCK: u8 = b'T';
const RANGES: u8 = b'D';
const RESERVED: u8 = b'R';
const POOL: u8 = b'P';
const PLACE: u8 = b'N';
const GRID: u8 = b'G';
const EVENT: u8 = b'E';
const COUNT: u8 = b'X';

/// The schema version's key.
pub const SCHEMA: &[u8] = b"Mschema";

/// The key of when a boot's file was made, in seconds.
pub const BEGUN: &[u8] = b"Mbegun";

/// The key of the machine that made a boot's file.
pub const MACHINE: &[u8] = b"Mmachine";

/// The key of the nonce of the policy that the reservations were copied from.
pub const POLICY: &[u8] = b"Mpolicy";

/// The key of how much of what happened is kept.
pub const BOUNDS: &[u8] = b"Mhistory";

/// Text with an end that sorts before every continuation: 0 is written as 0 255, the end is 0 1.
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

/// An address in 17 bytes that sort as addresses do.
pub fn addr(addr: Addr) -> [u8; 17] {
    let mut bytes = [0; 17];
    bytes[0] = family(addr.family());
    bytes[1..].copy_from_slice(&addr.bits().to_be_bytes());
    bytes
}

/// The address in these bytes.
pub fn read_addr(bytes: &[u8]) -> Option<Addr> {
    let (first, rest) = bytes.split_first()?;
    let bits = u128::from_be_bytes(rest.try_into().ok()?);
    let family = match first {
        4 => Family::V4,
        6 => Family::V6,
        _ => return None,
    };
    Addr::from_bits(family, bits)
}

fn of_set(kind: u8, set: &SetName) -> Vec<u8> {
    let mut key = vec![kind];
    text(&mut key, &set.0);
    key
}

fn with(mut key: Vec<u8>, bytes: &[u8]) -> Vec<u8> {
    key.extend(bytes);
    key
}

/// One lease.
pub fn lease(set: &SetName, at: Addr) -> Vec<u8> {
    with(of_set(LEASE, set), &addr(at))
}

/// Every lease of a set, or (`None`) of all sets.
pub fn leases(set: Option<&SetName>) -> Vec<u8> {
    set.map_or_else(|| vec![LEASE], |set| of_set(LEASE, set))
}

/// Set and address of a lease's key.
pub fn read_lease(key: &[u8]) -> Option<(SetName, Addr)> {
    read_of_set(LEASE, key)
}

/// What an owner holds.
pub fn owner(set: &SetName, owner: &Owner) -> Vec<u8> {
    let mut key = of_set(OWNER, set);
    match owner {
        Owner::Attachment(a) => {
            key.push(b'a');
            text(&mut key, a.network.as_str());
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
            key.push(b'p');
            text(&mut key, &pool.0);
            key.extend(addr(*at));
        }
    }
    key
}

/// The set in an owner's key.
pub fn read_owner_set(key: &[u8]) -> Option<SetName> {
    read_text(key.strip_prefix(&[OWNER])?).map(|(set, _)| SetName(set))
}

/// Every lease of a set that was taken through a pool, by address.
pub fn of_pool(set: &SetName, pool: &PoolId) -> Vec<u8> {
    let mut key = of_set(OWNER, set);
    key.push(b'p');
    text(&mut key, &pool.0);
    key
}

/// Every container of a network in a set.
pub fn of_network(set: &SetName, network: &NetworkName) -> Vec<u8> {
    let mut key = of_set(OWNER, set);
    key.push(b'a');
    text(&mut key, network.as_str());
    key
}

/// Every owner of a set.
pub fn owners(set: &SetName) -> Vec<u8> {
    of_set(OWNER, set)
}

/// One occupancy block: `index` counts blocks of its level.
pub fn block(set: &SetName, of: Family, level: u8, index: u128) -> Vec<u8> {
    let kind = if set.0.starts_with(GRID_MARK) { GRID } else { BLOCK };
    let key = with(of_set(kind, set), &[family(of), level]);
    with(key, &index.to_be_bytes())
}

/// Set, family, level and index of the key of an occupancy block of addresses.
pub fn read_block(key: &[u8]) -> Option<(SetName, Family, u8, u128)> {
    let (set, rest) = read_text(key.strip_prefix(&[BLOCK])?)?;
    let (kind, index) = rest.split_first_chunk::<2>()?;
    let family = match kind[0] {
        4 => Family::V4,
        6 => Family::V6,
        _ => return None,
    };
    Some((SetName(set), family, kind[1], u128::from_be_bytes(index.try_into().ok()?)))
}

/// No set of leases begins with it.
const GRID_MARK: char = '\0';

/// What stands for the subnets of one length in a space: occupancy counts them like addresses.
pub fn grid(space: &str, len: u8) -> SetName {
    SetName(format!("{GRID_MARK}{len} {space}"))
}

/// A pool by its name.
pub fn pool(id: &PoolId) -> Vec<u8> {
    let mut key = vec![POOL];
    text(&mut key, &id.0);
    key
}

/// Every pool.
pub fn pools() -> Vec<u8> {
    vec![POOL]
}

/// A pool by its space, its subnet and its name.
pub fn place(space: &str, subnet: Subnet, id: &PoolId) -> Vec<u8> {
    let mut key = places(space, subnet);
    text(&mut key, &id.0);
    key
}

/// Every pool of a subnet. Sorts by address, a shorter prefix first.
pub fn places(space: &str, subnet: Subnet) -> Vec<u8> {
    let mut key = vec![PLACE];
    text(&mut key, space);
    key.extend(addr(subnet.first()));
    key.push(subnet.len());
    key
}

/// The subnet in the key of a place.
pub fn read_place(space: &str, key: &[u8]) -> Option<Subnet> {
    let mut start = vec![PLACE];
    text(&mut start, space);
    let (base, rest) = key.strip_prefix(&*start)?.split_at_checked(17)?;
    Subnet::new(read_addr(base)?, *rest.first()?)
}

/// The cursor of a range set.
pub fn cursor(set: &SetName, range: Addr) -> Vec<u8> {
    with(of_set(CURSOR, set), &addr(range))
}

/// Every cursor.
pub fn cursors() -> Vec<u8> {
    vec![CURSOR]
}

/// Set and range of a cursor's key.
pub fn read_cursor(key: &[u8]) -> Option<(SetName, Addr)> {
    read_of_set(CURSOR, key)
}

fn read_of_set(kind: u8, key: &[u8]) -> Option<(SetName, Addr)> {
    let (set, rest) = read_text(key.strip_prefix(&[kind])?)?;
    Some((SetName(set), read_addr(rest)?))
}

/// A cooling address.
pub fn cooling(set: &SetName, at: Addr) -> Vec<u8> {
    with(of_set(COOLING, set), &addr(at))
}

/// Every cooling address.
pub fn coolings() -> Vec<u8> {
    vec![COOLING]
}

/// Set and address of a cooling one's key.
pub fn read_cooling(key: &[u8]) -> Option<(SetName, Addr)> {
    read_of_set(COOLING, key)
}

/// A cooling address in the order of time; the family goes first, for a search is for one.
pub fn queued(set: &SetName, until: Timestamp, at: Addr) -> Vec<u8> {
    with(with(queue(set, at.family()), &until.to_be_bytes()), &addr(at))
}

/// Every cooling address of a set and family.
pub fn queue(set: &SetName, of: Family) -> Vec<u8> {
    with(of_set(QUEUE, set), &[family(of)])
}

/// Until when, and which address.
pub fn read_queued(key: &[u8]) -> Option<(Timestamp, Addr)> {
    let at = key.len().checked_sub(17 + 8)?;
    let (until, addr) = key[at..].split_at(8);
    Some((u64::from_be_bytes(until.try_into().ok()?), read_addr(addr)?))
}

/// Set, time and address of a queue's key.
pub fn read_queued_set(key: &[u8]) -> Option<(SetName, Timestamp, Addr)> {
    let (set, _) = read_text(key.strip_prefix(&[QUEUE])?)?;
    let (until, addr) = read_queued(key)?;
    Some((SetName(set), until, addr))
}

/// A pod's address in a range set.
pub fn sticky(set: &SetName, pod: &PodKey, range: Addr) -> Vec<u8> {
    let mut key = of_set(STICKY, set);
    text(&mut key, &pod.namespace);
    text(&mut key, &pod.name);
    with(key, &addr(range))
}

/// Every pod's address.
pub fn stickies() -> Vec<u8> {
    vec![STICKY]
}

/// Set, pod and range of a [`sticky`] key.
pub fn read_sticky(key: &[u8]) -> Option<(SetName, PodKey, Addr)> {
    let (set, rest) = read_text(key.strip_prefix(&[STICKY])?)?;
    let (namespace, rest) = read_text(rest)?;
    let (name, rest) = read_text(rest)?;
    Some((SetName(set), PodKey { namespace, name }, read_addr(rest)?))
}

/// Which pod's address this was: the key of its [`sticky`] record.
pub fn stuck(set: &SetName, at: Addr) -> Vec<u8> {
    with(of_set(STUCK, set), &addr(at))
}

/// The set in the key of a pod's address.
pub fn read_sticky_set(key: &[u8]) -> Option<SetName> {
    read_text(key.strip_prefix(&[STICKY])?).map(|(set, _)| SetName(set))
}

/// A network's ranges.
pub fn ranges(network: &NetworkName) -> Vec<u8> {
    let mut key = vec![RANGES];
    text(&mut key, network.as_str());
    key
}

/// The network whose ranges are under this key.
pub fn read_ranges(key: &[u8]) -> Option<NetworkName> {
    let (name, _) = read_text(key.strip_prefix(&[RANGES])?)?;
    NetworkName::new(name).ok()
}

/// The ranges of all networks.
pub fn all_ranges() -> Vec<u8> {
    vec![RANGES]
}

/// The copy of a reservation, by its last address.
pub fn reserved(set: &SetName, last: Addr) -> Vec<u8> {
    with(of_set(RESERVED, set), &addr(last))
}

/// Every copy of a reservation of a set and family.
pub fn reserved_of(set: &SetName, of: Family) -> Vec<u8> {
    with(of_set(RESERVED, set), &[family(of)])
}

/// Every copy of a reservation.
pub fn all_reserved() -> Vec<u8> {
    vec![RESERVED]
}

/// An event: numbers grow by one; the time lets old ones go unread.
pub fn event(number: u64, time: Timestamp) -> Vec<u8> {
    with(with(events(), &number.to_be_bytes()), &time.to_be_bytes())
}

/// Every event.
pub fn events() -> Vec<u8> {
    vec![EVENT]
}

/// Number and time of an event's key.
pub fn read_event(key: &[u8]) -> Option<(u64, Timestamp)> {
    let (number, time) = key.strip_prefix(&[EVENT])?.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), u64::from_be_bytes(time.try_into().ok()?)))
}

/// The counters of a set.
pub fn count(set: &SetName) -> Vec<u8> {
    of_set(COUNT, set)
}

/// All counters.
pub fn counts() -> Vec<u8> {
    vec![COUNT]
}

/// The first key behind all that begin with `prefix`.
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
        assert!(!b.starts_with(&leases(Some(&SetName("a".into())))));
        assert_eq!(read_lease(&a).unwrap().0, SetName("a".into()));
        assert_eq!(read_lease(&b).unwrap().0, SetName("a\0".into()));
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
        assert_eq!(read_addr(&at("fd00::1")), Some("fd00::1".parse().unwrap()));
    }
}
