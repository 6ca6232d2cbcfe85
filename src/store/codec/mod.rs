//! Records as bytes.
//!
//! Owns: the format of every value in the embedded store and in a cluster's. A record is a version
//! byte, postcard's encoding of the fields, and a CRC32C over key and record: redb checks no page
//! on an ordinary read, and a right record in a wrong place must not be believed either.
//! Invariant: what was written is read back equal, or is an error; nothing else is ever returned.

mod cluster;

use serde::{Deserialize, Serialize};

mod history;
mod pools;

pub use history::{
    bounds, count, count_in, event, events, read_all_counts, read_bounds, read_counts, read_event,
    read_events,
};
pub use pools::{pool, pool_id, pools, read_pool, read_pool_id, read_pool_of, read_pools};

use super::embedded::keys;
use crate::alloc::{Cooling, Holder, NetworkRanges};
use crate::model::{
    Attachment, BootId, ContainerId, IfName, Kind, Lease, Netns, NetworkName, Node, Origin, Owner,
    Pod, PoolId, SetName, Timestamp,
};
use crate::net::{Addr, Span};

pub use cluster::{definition, node, note, read_definition, read_node, read_note};

/// Of each record; a later format gets another and reads this one for ever.
const FORMAT: u8 = 1;

/// Of records that hold more than the first ones did: a lease with a note, a definition that knows
/// what is given out.
const WIDER: u8 = 2;

/// Of the whole file: which tables, which keys.
pub const SCHEMA_VERSION: u32 = 1;

/// A record that is not what was written.
#[derive(Debug, PartialEq, Eq)]
pub struct Bad(pub &'static str);

#[derive(Serialize, Deserialize)]
struct LeaseV1<'a> {
    prefix: u8,
    kind: KindV1,
    #[serde(borrow)]
    owner: OwnerV1<'a>,
    range: AddrV1,
    node: &'a str,
    machine: &'a str,
    boot: Option<&'a str>,
    /// Only where the owner is no attachment.
    attachment: Option<AttachmentV1<'a>>,
    netns: Option<NetnsV1<'a>>,
    pod: Option<(&'a str, &'a str, &'a str)>,
    mac: Option<&'a str>,
    time: u64,
    cooldown: u32,
}

/// A lease that somebody wrote something beside.
#[derive(Serialize, Deserialize)]
struct NotedV2<'a> {
    #[serde(borrow)]
    lease: LeaseV1<'a>,
    note: Option<&'a str>,
    holder: Option<&'a str>,
}

#[derive(Serialize, Deserialize)]
enum KindV1 {
    Dynamic,
    Static,
    Gateway,
    Aux,
    Reserved,
}

#[derive(Serialize, Deserialize)]
enum OwnerV1<'a> {
    #[serde(borrow)]
    Attachment(AttachmentV1<'a>),
    Id(&'a str),
    Gateway(AddrV1),
    Reservation(AddrV1),
    /// The pool, and the endpoint's name.
    Pool(&'a str, Option<&'a str>),
}

#[derive(Serialize, Deserialize)]
struct AttachmentV1<'a> {
    network: &'a str,
    container: &'a str,
    ifname: Option<&'a str>,
}

#[derive(Serialize, Deserialize)]
struct NetnsV1<'a> {
    path: &'a str,
    inode: Option<(u64, u64)>,
    mount_ns: Option<u64>,
}

/// What a cluster keeps under an address.
#[derive(Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "one is made for each record read, on the stack")]
enum SlotV1<'a> {
    #[serde(borrow)]
    Lease(LeaseV1<'a>),
    Cooling(u64, u64),
    #[serde(borrow)]
    Noted(NotedV2<'a>),
}

#[derive(Serialize, Deserialize)]
struct DefinitionV1<'a> {
    set: &'a str,
    bounds: Vec<(AddrV1, AddrV1)>,
}

#[derive(Serialize, Deserialize)]
struct DefinitionV2<'a> {
    #[serde(borrow)]
    known: DefinitionV1<'a>,
    gives: Vec<(AddrV1, AddrV1)>,
}

#[derive(Serialize, Deserialize)]
struct AddrV1(u8, u128);

impl From<Addr> for AddrV1 {
    fn from(addr: Addr) -> AddrV1 {
        AddrV1(addr.family().bits(), addr.bits())
    }
}

impl TryFrom<AddrV1> for Addr {
    type Error = Bad;

    fn try_from(raw: AddrV1) -> Result<Addr, Bad> {
        use crate::net::Family::{V4, V6};
        let family = match raw.0 {
            32 => V4,
            128 => V6,
            _ => return Err(Bad("an address of no family")),
        };
        Addr::from_bits(family, raw.1).ok_or(Bad("an address beyond its family"))
    }
}

fn checksum(key: &[u8], record: &[u8]) -> [u8; 4] {
    crc32c::crc32c_append(crc32c::crc32c(key), record).to_le_bytes()
}

/// Adds version and checksum.
fn seal<T: Serialize>(key: &[u8], value: &T) -> Vec<u8> {
    seal_as(FORMAT, key, value)
}

fn seal_as<T: Serialize>(format: u8, key: &[u8], value: &T) -> Vec<u8> {
    // Encoding into memory fails for no type of this file; an empty record would be refused when
    // read.
    let mut record = postcard::to_extend(value, vec![format]).unwrap_or_default();
    record.extend(checksum(key, &record));
    record
}

/// Checks version and checksum.
fn unseal<'a, T: Deserialize<'a>>(key: &[u8], bytes: &'a [u8]) -> Result<T, Bad> {
    match open(key, bytes)? {
        (FORMAT, fields) => read_fields(fields),
        _ => Err(Bad("a record of an unknown format")),
    }
}

/// Checks the checksum; version and fields.
fn open<'a>(key: &[u8], bytes: &'a [u8]) -> Result<(u8, &'a [u8]), Bad> {
    let (record, sum) = bytes.split_last_chunk::<4>().ok_or(Bad("a record too short"))?;
    if *sum != checksum(key, record) {
        return Err(Bad("a record with a wrong checksum"));
    }
    record.split_first().map(|(format, fields)| (*format, fields)).ok_or(Bad("a record too short"))
}

/// Whether a record is one, and under its key. (An index has keys alone.)
pub fn is_whole(key: &[u8], bytes: &[u8]) -> bool {
    bytes.is_empty() || open(key, bytes).is_ok()
}

fn read_fields<'a, T: Deserialize<'a>>(fields: &'a [u8]) -> Result<T, Bad> {
    match postcard::take_from_bytes(fields) {
        Ok((value, [])) => Ok(value),
        _ => Err(Bad("a record with wrong fields")),
    }
}

fn attachment(a: &Attachment) -> AttachmentV1<'_> {
    AttachmentV1 {
        network: a.network.as_str(),
        container: a.container.as_str(),
        ifname: a.ifname.as_ref().map(IfName::as_str),
    }
}

fn read_attachment(raw: &AttachmentV1<'_>) -> Result<Attachment, Bad> {
    let bad = |_| Bad("a name that is none");
    Ok(Attachment {
        network: NetworkName::new(raw.network).map_err(bad)?,
        container: ContainerId::new(raw.container).map_err(bad)?,
        ifname: raw.ifname.map(IfName::new).transpose().map_err(bad)?,
    })
}

fn kind(kind: Kind) -> KindV1 {
    match kind {
        Kind::Dynamic => KindV1::Dynamic,
        Kind::Static => KindV1::Static,
        Kind::Gateway => KindV1::Gateway,
        Kind::Aux => KindV1::Aux,
        Kind::Reserved => KindV1::Reserved,
    }
}

fn read_kind(raw: &KindV1) -> Kind {
    match raw {
        KindV1::Dynamic => Kind::Dynamic,
        KindV1::Static => Kind::Static,
        KindV1::Gateway => Kind::Gateway,
        KindV1::Aux => Kind::Aux,
        KindV1::Reserved => Kind::Reserved,
    }
}

fn owner<'a>(owner: &'a Owner, origin: &'a Origin) -> OwnerV1<'a> {
    match owner {
        Owner::Attachment(a) => OwnerV1::Attachment(attachment(a)),
        Owner::Id(id) => OwnerV1::Id(id),
        Owner::Gateway(addr) => OwnerV1::Gateway((*addr).into()),
        Owner::Reservation(addr) => OwnerV1::Reservation((*addr).into()),
        Owner::Pool(pool, _) => OwnerV1::Pool(&pool.0, origin.endpoint.as_deref()),
    }
}

/// The owner, and the endpoint's name.
fn read_owner(raw: OwnerV1<'_>, addr: Addr) -> Result<(Owner, Option<String>), Bad> {
    let mut endpoint = None;
    let owner = match raw {
        OwnerV1::Attachment(a) => Owner::Attachment(read_attachment(&a)?),
        OwnerV1::Id(id) => Owner::Id(id.to_owned()),
        OwnerV1::Gateway(addr) => Owner::Gateway(addr.try_into()?),
        OwnerV1::Reservation(addr) => Owner::Reservation(addr.try_into()?),
        OwnerV1::Pool(pool, name) => {
            endpoint = name.map(str::to_owned);
            Owner::Pool(PoolId(pool.to_owned()), addr)
        }
    };
    Ok((owner, endpoint))
}

fn lease_v1(lease: &Lease) -> LeaseV1<'_> {
    let own = match &lease.owner {
        Owner::Attachment(a) => Some(a),
        _ => None,
    };
    let origin = &lease.origin;
    LeaseV1 {
        prefix: lease.prefix,
        kind: kind(lease.kind),
        owner: owner(&lease.owner, origin),
        range: lease.range.into(),
        node: &lease.node.name,
        machine: &lease.node.machine,
        boot: lease.boot.as_ref().map(|b| b.0.as_str()),
        attachment: origin.attachment.as_ref().filter(|a| own != Some(*a)).map(attachment),
        netns: origin.netns.as_ref().map(|n| NetnsV1 {
            path: &n.path,
            inode: n.inode,
            mount_ns: n.mount_ns,
        }),
        pod: origin.pod.as_ref().map(|p| (&*p.namespace, &*p.name, &*p.uid)),
        mac: origin.mac.as_deref(),
        time: lease.time,
        cooldown: lease.cooldown,
    }
}

/// A lease as the record under `key`.
pub fn lease(key: &[u8], lease: &Lease) -> Vec<u8> {
    match noted(lease) {
        Some(noted) => seal_as(WIDER, key, &noted),
        None => seal(key, &lease_v1(lease)),
    }
}

/// The lease with what was written beside it, if anything was.
fn noted(lease: &Lease) -> Option<NotedV2<'_>> {
    let (note, holder) = (lease.origin.note.as_deref(), lease.origin.holder.as_deref());
    (note.is_some() || holder.is_some()).then(|| NotedV2 { lease: lease_v1(lease), note, holder })
}

fn from_v2(set: SetName, addr: Addr, raw: NotedV2<'_>) -> Result<Lease, Bad> {
    let mut lease = from_v1(set, addr, raw.lease)?;
    lease.origin.note = raw.note.map(str::to_owned);
    lease.origin.holder = raw.holder.map(str::to_owned);
    Ok(lease)
}

/// The lease in the record under `key`, which says which set and address.
pub fn read_lease(key: &[u8], bytes: &[u8]) -> Result<Lease, Bad> {
    let (set, addr) = keys::read_lease(key).ok_or(Bad("a lease under a wrong key"))?;
    match open(key, bytes)? {
        (FORMAT, fields) => from_v1(set, addr, read_fields(fields)?),
        (WIDER, fields) => from_v2(set, addr, read_fields(fields)?),
        _ => Err(Bad("a record of an unknown format")),
    }
}

fn from_v1(set: SetName, addr: Addr, raw: LeaseV1<'_>) -> Result<Lease, Bad> {
    let (owner, endpoint) = read_owner(raw.owner, addr)?;
    let attachment = match (&raw.attachment, &owner) {
        (Some(a), _) => Some(read_attachment(a)?),
        (None, Owner::Attachment(a)) => Some(a.clone()),
        (None, _) => None,
    };
    Ok(Lease {
        set,
        addr,
        prefix: raw.prefix,
        kind: read_kind(&raw.kind),
        owner,
        range: raw.range.try_into()?,
        node: Node { name: raw.node.to_owned(), machine: raw.machine.to_owned() },
        boot: raw.boot.map(|b| BootId(b.to_owned())),
        origin: Origin {
            attachment,
            netns: raw.netns.map(|n| Netns {
                path: n.path.to_owned(),
                inode: n.inode,
                mount_ns: n.mount_ns,
            }),
            pod: raw.pod.map(|(namespace, name, uid)| Pod {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                uid: uid.to_owned(),
            }),
            mac: raw.mac.map(str::to_owned),
            endpoint,
            note: None,
            holder: None,
        },
        time: raw.time,
        cooldown: raw.cooldown,
    })
}

/// Who has an address, in a cluster.
pub fn slot(key: &[u8], holder: &Holder) -> Option<Vec<u8>> {
    Some(match holder {
        Holder::Free => return None,
        Holder::Leased(lease) => match noted(lease) {
            Some(noted) => seal(key, &SlotV1::Noted(noted)),
            None => seal(key, &SlotV1::Lease(lease_v1(lease))),
        },
        Holder::Cooling(c) => seal(key, &SlotV1::Cooling(c.until, c.freed)),
    })
}

/// Who has an address, in a cluster.
pub fn read_slot(key: &[u8], set: &SetName, addr: Addr, bytes: &[u8]) -> Result<Holder, Bad> {
    Ok(match unseal(key, bytes)? {
        SlotV1::Lease(raw) => Holder::Leased(Box::new(from_v1(set.clone(), addr, raw)?)),
        SlotV1::Noted(raw) => Holder::Leased(Box::new(from_v2(set.clone(), addr, raw)?)),
        SlotV1::Cooling(until, freed) => Holder::Cooling(Cooling { until, addr, freed }),
    })
}

/// All that an owner holds of a set, in a cluster: one look answers a DEL or a repeated ADD.
pub fn owned(key: &[u8], leases: &[Lease]) -> Vec<u8> {
    let leases: Vec<_> = leases.iter().map(|l| (AddrV1::from(l.addr), lease_v1(l))).collect();
    seal(key, &leases)
}

/// All that an owner holds of a set.
pub fn read_owned(key: &[u8], set: &SetName, bytes: &[u8]) -> Result<Vec<Lease>, Bad> {
    let raw: Vec<(AddrV1, LeaseV1<'_>)> = unseal(key, bytes)?;
    raw.into_iter().map(|(addr, raw)| from_v1(set.clone(), addr.try_into()?, raw)).collect()
}

/// An owner's addresses.
pub fn addrs(key: &[u8], addrs: &[Addr]) -> Vec<u8> {
    seal(key, &addrs.iter().map(|a| AddrV1::from(*a)).collect::<Vec<_>>())
}

/// An owner's addresses.
pub fn read_addrs(key: &[u8], bytes: &[u8]) -> Result<Vec<Addr>, Bad> {
    unseal::<Vec<AddrV1>>(key, bytes)?.into_iter().map(TryInto::try_into).collect()
}

/// One address.
pub fn addr(key: &[u8], addr: Addr) -> Vec<u8> {
    seal(key, &AddrV1::from(addr))
}

/// One address.
pub fn read_addr(key: &[u8], bytes: &[u8]) -> Result<Addr, Bad> {
    unseal::<AddrV1>(key, bytes)?.try_into()
}

/// A number: a time, a version.
pub fn number(key: &[u8], number: u64) -> Vec<u8> {
    seal(key, &number)
}

/// A number.
pub fn read_number(key: &[u8], bytes: &[u8]) -> Result<u64, Bad> {
    unseal(key, bytes)
}

/// Another record's key.
pub fn key(key: &[u8], other: &[u8]) -> Vec<u8> {
    seal(key, &other)
}

/// Another record's key.
pub fn read_key(key: &[u8], bytes: &[u8]) -> Result<Vec<u8>, Bad> {
    unseal::<&[u8]>(key, bytes).map(<[u8]>::to_vec)
}

/// Until when an address cools, and since when.
pub fn cooling(key: &[u8], cooling: &Cooling) -> Vec<u8> {
    seal(key, &(cooling.until, cooling.freed))
}

/// Until when an address cools, and since when.
pub fn read_cooling(key: &[u8], addr: Addr, bytes: &[u8]) -> Result<Cooling, Bad> {
    let (until, freed): (Timestamp, Timestamp) = unseal(key, bytes)?;
    Ok(Cooling { until, addr, freed })
}

/// A network's ranges.
pub fn ranges(key: &[u8], ranges: &NetworkRanges) -> Vec<u8> {
    let spans = |spans: &[Span]| spans.iter().map(|s| (s.first.into(), s.last.into())).collect();
    let known = DefinitionV1 { set: &ranges.set.0, bounds: spans(&ranges.bounds) };
    if ranges.assignable == ranges.bounds {
        return seal(key, &known);
    }
    seal_as(WIDER, key, &DefinitionV2 { known, gives: spans(&ranges.assignable) })
}

/// A network's ranges.
pub fn read_ranges(key: &[u8], network: NetworkName, bytes: &[u8]) -> Result<NetworkRanges, Bad> {
    let (raw, gives) = match open(key, bytes)? {
        (FORMAT, fields) => (read_fields::<DefinitionV1<'_>>(fields)?, None),
        (WIDER, fields) => {
            let raw: DefinitionV2<'_> = read_fields(fields)?;
            (raw.known, Some(raw.gives))
        }
        _ => return Err(Bad("a record of an unknown format")),
    };
    let span = |(first, last): (AddrV1, AddrV1)| {
        Span::new(first.try_into()?, last.try_into()?)
            .ok_or(Bad("a range that ends before it begins"))
    };
    let spans =
        |raw: Vec<(AddrV1, AddrV1)>| raw.into_iter().map(span).collect::<Result<Vec<_>, _>>();
    let bounds = spans(raw.bounds)?;
    // The first records did not say.
    let assignable = gives.map(spans).transpose()?.unwrap_or_else(|| bounds.clone());
    Ok(NetworkRanges { set: SetName(raw.set.to_owned()), network, bounds, assignable })
}

/// One occupancy block: 512 bits.
pub fn bits(key: &[u8], bits: &[u8; 64]) -> Vec<u8> {
    seal(key, &bits.as_slice())
}

/// One occupancy block.
pub fn read_bits(key: &[u8], bytes: &[u8]) -> Result<[u8; 64], Bad> {
    let raw: &[u8] = unseal(key, bytes)?;
    raw.try_into().map_err(|_| Bad("an occupancy block of a wrong size"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
                endpoint: None,
                note: None,
                holder: None,
            },
            time: 1_700_000_000,
            cooldown: 30,
        }
    }

    #[test]
    fn a_lease_comes_back_as_it_was() {
        for owner in [
            Owner::Id("any \0 text".into()),
            Owner::Attachment(sample().origin.attachment.unwrap()),
            Owner::Gateway("10.0.0.1".parse().unwrap()),
            Owner::Pool(PoolId("local/fd00::/64".into()), sample().addr),
        ] {
            let mut before = Lease { owner, ..sample() };
            if let Owner::Pool(..) = before.owner {
                before.origin.endpoint = Some("web-1".into());
            }
            let key = keys::lease(&before.set, before.addr);
            assert_eq!(read_lease(&key, &lease(&key, &before)), Ok(before));
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
}
