//! Encodes the records of stores as bytes, and decodes them.
//!
//! A record in a lease file or a cluster consists of the format version, the fields as encoded by postcard,
//! and a CRC32C over the key, the version and the fields. The checksum is needed for two reasons. First, redb
//! does not verify pages on an ordinary read. Second, a valid record that is found under a wrong key must not
//! be accepted.
//! Invariant: decoding a record returns exactly what was encoded, or an error.

use serde::{Deserialize, Serialize};

mod address;
mod history;

pub use history::{
    bounds, count, event, events, read_bounds, read_counts, read_event, read_events,
};

use super::embedded::keys;
use crate::alloc::{Cooling, Draining, Holder, NetworkRanges};
use crate::model::{
    BootId, Kind, Lease, NetworkDefinition, NetworkName, Node, NodeRecord, Origin, Owner, SetName,
    Timestamp,
};
use crate::net::{Addr, Span};

/// The version of the record formats. A changed format needs a new version. From the first release on,
/// records of every released version must stay readable. (Version 1 was used before the first release.)
const VERSION: u8 = 2;

/// The version of the layout of a lease file: which keys the file has, and what they mean.
pub const SCHEMA_VERSION: u32 = 2;

/// The reason for rejecting a record.
#[derive(Debug, PartialEq, Eq)]
pub struct Bad(pub &'static str);

/// The reason for rejecting a record that has a format version other than [`VERSION`].
pub const OTHER_VERSION: Bad = Bad("the record was written by a different version of sublet");

fn checksum(key: &[u8], record: &[u8]) -> [u8; 4] {
    crc32c::crc32c_append(crc32c::crc32c(key), record).to_le_bytes()
}

/// Encodes a value as the record under `key`, with the version and the checksum.
pub fn seal<T: Serialize>(key: &[u8], value: &T) -> Vec<u8> {
    seal_as(VERSION, key, value)
}

fn seal_as<T: Serialize>(version: u8, key: &[u8], value: &T) -> Vec<u8> {
    // Encoding these types into memory never fails. If it did, the record would be empty, and readers would
    // reject it.
    let mut record = postcard::to_extend(value, vec![version]).unwrap_or_default();
    record.extend(checksum(key, &record));
    record
}

/// Checks the checksum and the version of the record under `key`, and decodes its value.
pub fn unseal<'a, T: Deserialize<'a>>(key: &[u8], bytes: &'a [u8]) -> Result<T, Bad> {
    unseal_as(VERSION, key, bytes)
}

fn unseal_as<'a, T: Deserialize<'a>>(version: u8, key: &[u8], bytes: &'a [u8]) -> Result<T, Bad> {
    let (found, fields) = open(key, bytes)?;
    if found != version {
        return Err(OTHER_VERSION);
    }
    match postcard::take_from_bytes(fields) {
        Ok((value, [])) => Ok(value),
        _ => Err(Bad("the record has invalid fields")),
    }
}

/// Returns the format version of a record. The record may be damaged.
fn version(bytes: &[u8]) -> Option<u8> {
    bytes.first().copied()
}

/// Verifies the checksum of a record. Returns its version and its encoded fields.
fn open<'a>(key: &[u8], bytes: &'a [u8]) -> Result<(u8, &'a [u8]), Bad> {
    let (record, sum) = bytes.split_last_chunk::<4>().ok_or(Bad("the record is too short"))?;
    if *sum != checksum(key, record) {
        return Err(Bad("the record has a wrong checksum"));
    }
    record
        .split_first()
        .map(|(version, fields)| (*version, fields))
        .ok_or(Bad("the record is too short"))
}

/// Returns whether a record is undamaged and is stored under its own key. An empty record is accepted,
/// because some index entries consist of a key only.
pub fn is_whole(key: &[u8], bytes: &[u8]) -> bool {
    bytes.is_empty() || open(key, bytes).is_ok()
}

/// The fields of a stored lease. They do not include the set of leases and the address, which are in the key.
type LeaseFields = (u8, Kind, Owner, Addr, Node, Option<BootId>, Origin, Timestamp, u32);

fn lease_fields(lease: &Lease) -> impl Serialize {
    let origin = without_owner(&lease.origin, &lease.owner);
    let (range, time, cooldown) = (lease.range, lease.time, lease.cooldown);
    (
        lease.prefix,
        lease.kind,
        &lease.owner,
        range,
        &lease.node,
        &lease.boot,
        origin,
        time,
        cooldown,
    )
}

fn of_fields(set: SetName, addr: Addr, fields: LeaseFields) -> Lease {
    let (prefix, kind, owner, range, node, boot, origin, time, cooldown) = fields;
    let origin = with_owner(origin, &owner);
    Lease { set, addr, prefix, kind, owner, range, node, boot, origin, time, cooldown }
}

/// Returns the origin without its attachment, if the attachment equals the owner. The attachment is then
/// stored only once.
fn without_owner(origin: &Origin, owner: &Owner) -> Origin {
    let is_owner = matches!((&origin.attachment, owner), (Some(a), Owner::Attachment(b)) if a == b);
    let attachment = origin.attachment.clone().filter(|_| !is_owner);
    Origin { attachment, ..origin.clone() }
}

/// Reverses [`without_owner`].
fn with_owner(mut origin: Origin, owner: &Owner) -> Origin {
    if let (None, Owner::Attachment(own)) = (&origin.attachment, owner) {
        origin.attachment = Some(own.clone());
    }
    origin
}

/// Encodes a lease as the record under `key`.
pub fn lease(key: &[u8], lease: &Lease) -> Vec<u8> {
    seal(key, &lease_fields(lease))
}

/// Decodes the lease in the record under `key`. The key contains the set of leases and the address.
pub fn read_lease(key: &[u8], bytes: &[u8]) -> Result<Lease, Bad> {
    let (set, addr) =
        keys::read_at(keys::LEASE, key).ok_or(Bad("a lease is stored under a wrong key"))?;
    Ok(of_fields(set, addr, unseal(key, bytes)?))
}

/// The stored state of an address in a cluster. A free address has no record.
#[derive(Serialize, Deserialize)]
enum Slot<Fields> {
    Lease(Fields),
    /// The end and the start of the cooldown, and the node that started it. Both times are from that node's
    /// clock.
    Cooling(Timestamp, Timestamp, String),
}

/// Encodes the state of an address in a cluster. Returns `None` if the address is free. `node` is the name of
/// this node. It is stored with a cooldown, to record which node started the cooldown.
pub fn slot(key: &[u8], holder: &Holder, node: &str) -> Option<Vec<u8>> {
    Some(match holder {
        Holder::Free => return None,
        Holder::Leased(lease) => seal(key, &Slot::Lease(lease_fields(lease))),
        Holder::Cooling(c) => seal(key, &Slot::<()>::Cooling(c.until, c.freed, node.to_owned())),
    })
}

/// Decodes the state of an address in a cluster. `here` is the node that decodes the record.
///
/// If `here` also started the cooldown of the address, or is `None`, the start time is returned. The cooldown
/// then counts as over if the clock was set back to a time before the start. For a cooldown of another node,
/// the start time is returned as 0, because this node cannot detect that the other node's clock was set back.
pub fn read_slot(
    key: &[u8],
    set: &SetName,
    addr: Addr,
    bytes: &[u8],
    here: Option<&Node>,
) -> Result<Holder, Bad> {
    Ok(match unseal(key, bytes)? {
        Slot::Lease(fields) => Holder::Leased(Box::new(of_fields(set.clone(), addr, fields))),
        Slot::Cooling(until, freed, node) => {
            let is_elsewhere = here.is_some_and(|here| here.name != node);
            let freed = if is_elsewhere { 0 } else { freed };
            Holder::Cooling(Cooling { until, addr, freed })
        }
    })
}

/// Encodes all leases of an owner in a set, for a cluster. The record lets a DEL or a repeated ADD find the
/// owner's leases with one read.
pub fn owned(key: &[u8], leases: &[Lease]) -> Vec<u8> {
    seal(key, &leases.iter().map(|l| (l.addr, lease_fields(l))).collect::<Vec<_>>())
}

/// Decodes all leases of an owner in a set.
pub fn read_owned(key: &[u8], set: &SetName, bytes: &[u8]) -> Result<Vec<Lease>, Bad> {
    let all: Vec<(Addr, LeaseFields)> = unseal(key, bytes)?;
    Ok(all.into_iter().map(|(addr, fields)| of_fields(set.clone(), addr, fields)).collect())
}

/// Encodes the end and the start of an address's cooldown.
pub fn cooling(key: &[u8], cooling: &Cooling) -> Vec<u8> {
    seal(key, &(cooling.until, cooling.freed))
}

/// Decodes the end and the start of an address's cooldown.
pub fn read_cooling(key: &[u8], addr: Addr, bytes: &[u8]) -> Result<Cooling, Bad> {
    let (until, freed) = unseal(key, bytes)?;
    Ok(Cooling { until, addr, freed })
}

/// Encodes the ranges of a network.
pub fn ranges(key: &[u8], ranges: &NetworkRanges) -> Vec<u8> {
    seal(key, &(&ranges.set, &ranges.bounds, &ranges.assignable))
}

/// Decodes the ranges of a network.
pub fn read_ranges(key: &[u8], network: NetworkName, bytes: &[u8]) -> Result<NetworkRanges, Bad> {
    let (set, bounds, assignable) = unseal(key, bytes)?;
    Ok(NetworkRanges { set, network, bounds, assignable })
}

/// Encodes the draining ranges of a set.
pub fn draining(key: &[u8], ranges: &[Draining]) -> Vec<u8> {
    seal(key, &ranges.iter().map(|range| (range.span, range.since)).collect::<Vec<_>>())
}

/// Decodes the draining ranges of a set.
pub fn read_draining(key: &[u8], set: &SetName, bytes: &[u8]) -> Result<Vec<Draining>, Bad> {
    let ranges: Vec<(Span, Timestamp)> = unseal(key, bytes)?;
    let range = |(span, since)| Draining { set: set.clone(), span, since };
    Ok(ranges.into_iter().map(range).collect())
}

/// Encodes an occupancy block: 512 bits. Each bit shows whether an address or a pool's subnet is in use, or
/// whether a block of the level below is full.
pub fn bits(key: &[u8], bits: &[u8; 64]) -> Vec<u8> {
    seal(key, &bits.as_slice())
}

/// Decodes an occupancy block.
pub fn read_bits(key: &[u8], bytes: &[u8]) -> Result<[u8; 64], Bad> {
    let raw: &[u8] = unseal(key, bytes)?;
    raw.try_into().map_err(|_| Bad("an occupancy block has a wrong size"))
}

/// Encodes a node as the record under `key`.
pub fn node(key: &[u8], record: &NodeRecord) -> Vec<u8> {
    let NodeRecord { node, id, boot, first, since, booted, has_earlier, turn, notes } = record;
    seal(key, &(&node.machine, id, boot, first, since, booted, has_earlier, turn, notes))
}

/// Decodes the record of the node called `name`, which is stored under `key`.
pub fn read_node(key: &[u8], name: &str, bytes: &[u8]) -> Result<NodeRecord, Bad> {
    let (machine, id, boot, first, since, booted, has_earlier, turn, notes) = unseal(key, bytes)?;
    let node = Node { name: name.to_owned(), machine };
    Ok(NodeRecord { node, id, boot, first, since, booted, has_earlier, turn, notes })
}

/// Encodes a network's definition as the record under `key`.
pub fn definition(key: &[u8], record: &NetworkDefinition) -> Vec<u8> {
    seal(key, &(record.version, &record.text, &record.by, record.time))
}

/// Decodes the network's definition, which is stored under `key`.
pub fn read_definition(
    key: &[u8],
    network: NetworkName,
    bytes: &[u8],
) -> Result<NetworkDefinition, Bad> {
    let (version, text, by, time) = unseal(key, bytes)?;
    Ok(NetworkDefinition { network, version, text, by, time })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        Attachment, ContainerId, Ending, Event, Face, History, IfName, Netns, Pod, Pool, PoolId,
        Verb, What,
    };

    fn sample() -> Lease {
        let attachment = Attachment {
            network: NetworkName::new("net").unwrap(),
            container: ContainerId::new("c1").unwrap(),
            ifname: Some(IfName::new("eth0").unwrap()),
        };
        Lease {
            set: SetName("net".into()),
            addr: "fd00::1".parse().unwrap(),
            prefix: 64,
            kind: Kind::Static,
            owner: Owner::Id("any \0 text".into()),
            range: "fd00::1".parse().unwrap(),
            node: Node { name: "n".into(), machine: "m".into() },
            boot: Some(BootId("b".into())),
            origin: Origin {
                attachment: Some(attachment),
                netns: Some(Netns { path: "/x".into(), inode: Some((4, 5)), mount_ns: Some(6) }),
                pod: Some(Pod { namespace: "a".into(), name: "b".into(), uid: "c".into() }),
                mac: Some("0a:0b".into()),
                endpoint: Some("web-1".into()),
                note: Some("printer".into()),
                holder: Some("ops".into()),
            },
            time: 1_700_000_000,
            cooldown: 30,
        }
    }

    fn all_owners() -> [Lease; 5] {
        let addr = "10.0.0.1".parse().unwrap();
        [
            Owner::Id("any \0 text".into()),
            Owner::Attachment(sample().origin.attachment.unwrap()),
            Owner::Gateway(addr),
            Owner::Reservation(addr),
            Owner::Pool(PoolId("local/fd00::/64".into()), sample().addr),
        ]
        .map(|owner| Lease { owner, ..sample() })
    }

    #[test]
    fn a_lease_is_read_back_equal() {
        for before in all_owners() {
            let key = keys::lease(&before.set, before.addr);
            assert_eq!(read_lease(&key, &lease(&key, &before)), Ok(before.clone()));
            let slot = slot(b"k", &Holder::Leased(Box::new(before.clone())), "").unwrap();
            let read = read_slot(b"k", &before.set, before.addr, &slot, None);
            assert_eq!(read, Ok(Holder::Leased(Box::new(before.clone()))));
            let all = [before];
            assert_eq!(read_owned(b"k", &all[0].set, &owned(b"k", &all)), Ok(all.to_vec()));
        }
    }

    #[test]
    fn any_flipped_bit_and_any_other_key_is_noticed() {
        let before = sample();
        let key = keys::lease(&before.set, before.addr);
        let good = lease(&key, &before);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read_lease(&key, &bad).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(read_lease(&key, &good[..length]).is_err(), "length {length}");
        }
        let other = keys::lease(&before.set, "fd00::2".parse().unwrap());
        assert!(read_lease(&other, &good).is_err());
    }

    #[test]
    fn another_version_is_not_read() {
        for version in [0, 1, VERSION + 1, u8::MAX] {
            let mut record = vec![version, 7];
            record.extend(checksum(b"k", &record));
            assert_eq!(unseal::<u64>(b"k", &record), Err(OTHER_VERSION));
        }
    }

    /// Compares encoded records with `testdata/store/records.txt`. If a code change requires changing that
    /// file, give the record format a new [`VERSION`]. After a release, records of the released version must
    /// stay readable.
    #[test]
    fn the_bytes_of_a_version_never_change() {
        let (lease, k) = (sample(), b"k");
        let (set, addr) = (lease.set.clone(), lease.addr);
        let network = NetworkName::new("net").unwrap();
        let cooling = Cooling { until: 9, addr, freed: 7 };
        let span = crate::net::Span::new("10.0.0.1".parse().unwrap(), "10.0.0.6".parse().unwrap());
        let bounds = vec![span.unwrap()];
        let ranges = NetworkRanges {
            set: set.clone(),
            network: network.clone(),
            bounds: bounds.clone(),
            assignable: bounds,
        };
        let v4 = crate::net::Subnet::masked("10.0.0.0".parse().unwrap(), 24).unwrap();
        let pool = Pool {
            id: PoolId("local/10.0.0.0/24".into()),
            space: "local".into(),
            subnet: v4,
            sub: Some(v4),
            shared: Some("web".into()),
            gateway: Some("10.0.0.1".parse().unwrap()),
            users: vec![(lease.node.clone(), 2)],
            time: 8,
        };
        let (id, first, since, booted, has_earlier, turn) = (5, 1, 2, Some(4), true, 3);
        let of_node = NodeRecord {
            node: lease.node.clone(),
            boot: lease.boot.clone(),
            id,
            first,
            since,
            booted,
            has_earlier,
            turn,
            notes: 6,
        };
        let (text, by) = ("{}".into(), "n".into());
        let of_network = NetworkDefinition { network, version: 1, text, by, time: 9 };
        let happened = Event::of(&lease, What::Added, Face::Cni, 9);
        let trace = Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned());
        let traced = Event { trace, ..happened.clone() };
        assert_eq!(read_event(k, &event(k, &traced)), Ok(Some(traced.clone())));
        let both = [traced.clone(), traced.clone()];
        assert_eq!(read_events(k, &events(k, &both)), Ok(both.to_vec()));
        let request = (set.clone(), Face::Cni, Verb::Add, Ending::Ok);
        let leases = all_owners();
        let mut written: Vec<(&str, Vec<u8>)> =
            leases.iter().map(|l| ("lease", super::lease(&keys::lease(&set, addr), l))).collect();
        written.extend([
            ("leased", slot(k, &Holder::Leased(Box::new(lease.clone())), "n").unwrap()),
            ("cooling in a cluster", slot(k, &Holder::Cooling(cooling), "n").unwrap()),
            ("owned", owned(k, &[lease])),
            ("addresses", seal(k, &vec![addr, pool.gateway.unwrap()])),
            ("address", seal(k, &addr)),
            ("number", seal(k, &300_u64)),
            ("key", seal(k, &b"other".as_slice())),
            ("cooling", super::cooling(k, &cooling)),
            ("ranges", super::ranges(k, &ranges)),
            ("bits", bits(k, &[0xa5; 64])),
            ("pool", seal(k, &pool)),
            ("pools", seal(k, &std::slice::from_ref(&pool))),
            ("pool's name", seal(k, &pool.id)),
            ("node", node(k, &of_node)),
            ("network", definition(k, &of_network)),
            ("note", seal(k, &(5_u64, b"value".as_slice()))),
            ("event", event(k, &happened)),
            ("events", events(k, std::slice::from_ref(&happened))),
            ("event with a trace", event(k, &traced)),
            ("events with a trace", events(k, std::slice::from_ref(&traced))),
            ("bounds", super::bounds(k, History::default()).unwrap()),
            ("counters", count(k, None, &request)),
        ]);
        let hex = |b: &[u8]| b.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().concat();
        let lines: Vec<_> =
            written.iter().map(|(name, b)| format!("{name}: {}\n", hex(b))).collect();
        assert_eq!(lines.concat(), include_str!("../../../testdata/store/records.txt"));
    }
}
