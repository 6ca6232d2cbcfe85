//! Decodes the records of a cluster. Also lists all records of a kind, and exports all records that another
//! store can import.
//!
//! Invariant: either every record is exported, or the export fails. Leases are exported from the records of
//! addresses, because the records of owners are only an index.

use std::collections::BTreeSet;
use std::time::Instant;

use serde::de::DeserializeOwned;

use super::keys;
use super::server::{Entry, Server};
use crate::alloc::{Draining, Holder, NetworkRanges, Record};
use crate::error::{Error, StoreError};
use crate::model::{
    Event, Kind, Lease, NetworkDefinition, Node, NodeRecord, Owner, Persist, SetName,
};
use crate::net::Addr;
use crate::store::EachRecord;
use crate::store::codec;
use crate::store::codec::Bad;

/// A function that decodes a record of one kind.
pub type Decode<T> = fn(&str, &Entry) -> Result<T, Bad>;

/// Returns all records of a kind, sorted by path. Fails at the first record that cannot be decoded, with an
/// error that names the record.
pub fn list<T>(
    server: &dyn Server,
    kind: &str,
    until: Instant,
    decode: Decode<T>,
) -> Result<Vec<T>, StoreError> {
    let pages: Vec<_> = pages(server, kind, until, decode).collect::<Result<_, _>>()?;
    Ok(pages.into_iter().flatten().collect())
}

/// Returns the decoded records of a kind, page by page.
pub fn pages<T>(
    server: &dyn Server,
    kind: &str,
    until: Instant,
    decode: Decode<T>,
) -> impl Iterator<Item = Result<Vec<T>, StoreError>> {
    server.pages(kind, until).map(move |page| {
        let page = page?;
        page.iter().map(|(path, entry)| checked(server, path, decode(path, entry))).collect()
    })
}

/// Returns the decoded record, or an error that names the record.
pub fn checked<T>(
    server: &dyn Server,
    path: &str,
    decoded: Result<T, Bad>,
) -> Result<T, StoreError> {
    decoded.map_err(|Bad(what)| bad_record(server, path, what))
}

/// Makes the error for a record that sublet cannot have written in this form, or that a different version of
/// sublet has written.
pub fn bad_record(server: &dyn Server, path: &str, what: &str) -> StoreError {
    let place = server.place();
    if what == codec::OTHER_VERSION.0 {
        return StoreError::OtherVersion { place: format!("the record {path} in {place}") };
    }
    StoreError::BadRecord { place, key: path.to_owned(), what: what.to_owned() }
}

/// Calls `each` with every record that can be imported, kind by kind and sorted by path. Reservations for a
/// name are exported after the leases, from the records of their owners. They cannot be exported from the
/// records of addresses: while the container of that name has the address, the record of the address contains
/// the container's lease.
pub fn export(server: &dyn Server, until: Instant, each: &mut EachRecord<'_>) -> Result<(), Error> {
    let kinds: [(&str, Decode<Option<Record>>); 6] = [
        (keys::ADOPTED, adopted),
        (keys::NETWORK, |path, entry| Ok(Some(Record::Definition(definition(path, entry)?)))),
        (keys::POOL, |path, entry| Ok(Some(Record::Pool(plain(path, entry)?)))),
        (keys::ADDRESS, lease_or_cooling),
        (keys::CURSOR, cursor),
        (keys::STICKY, sticky),
    ];
    // The sets that have boot leases. Hints in these sets also end with the boot.
    let mut boot_sets = BTreeSet::new();
    for (kind, decode) in kinds {
        for page in pages(server, kind, until, decode) {
            for record in page?.into_iter().flatten() {
                boot_sets.extend(Some(&record).filter(|r| ends_with_boot(r)).and_then(Record::set));
                // Cooling addresses, cursors and hints must be in the same lease file as the leases of their
                // set. For a reservation, the file does not matter: it is durable in any set.
                let lease = matches!(&record, Record::Lease(l) if l.kind != Kind::Reserved);
                let in_boot_set = record.set().is_some_and(|set| boot_sets.contains(&set));
                let boot = ends_with_boot(&record) || in_boot_set && !lease;
                each(record, if boot { Persist::Boot } else { Persist::Disk })?;
            }
        }
    }
    let no_node = keys::all_owners(&Node::default().name);
    for page in pages(server, &no_node, until, owner) {
        let leases = page?.into_iter().flat_map(|(_, leases)| leases);
        for lease in leases.filter(|lease| matches!(lease.owner, Owner::Named(_))) {
            each(Record::Lease(lease), Persist::Disk)?;
        }
    }
    for range in list(server, keys::DRAINING, until, draining)?.into_iter().flatten() {
        each(Record::Draining(range), Persist::Disk)?;
    }
    Ok(())
}

fn ends_with_boot(record: &Record) -> bool {
    matches!(record, Record::Lease(lease) if lease.ends_with_boot() && lease.boot.is_some())
}

const WRONG_KEY: Bad = Bad("the key has an unknown format");

/// Decodes a record that needs no information from its path: for example a pool, the pools of an address
/// space, or the address in a hint.
pub fn plain<T: DeserializeOwned>(path: &str, entry: &Entry) -> Result<T, Bad> {
    codec::unseal(path.as_bytes(), entry.record())
}

/// Decodes the record of an address: the set and the address from its path, and the holder.
pub fn address(path: &str, entry: &Entry) -> Result<((SetName, Addr), Holder), Bad> {
    let (set, addr) = keys::read_address(path).ok_or(WRONG_KEY)?;
    let holder = holder(path, &set, addr, entry, None)?;
    Ok(((set, addr), holder))
}

/// Decodes the holder in the record of an address, or in the index entry of a cooling address. `here` is the
/// node that decodes the record.
pub fn holder(
    path: &str,
    set: &SetName,
    addr: Addr,
    entry: &Entry,
    here: Option<&Node>,
) -> Result<Holder, Bad> {
    codec::read_slot(path.as_bytes(), set, addr, entry.record(), here)
}

/// Decodes an owner's record: the set from its path, and the owner's leases in that set.
pub fn owner(path: &str, entry: &Entry) -> Result<(SetName, Vec<Lease>), Bad> {
    let set = keys::read_owner_set(path).ok_or(WRONG_KEY)?;
    let leases = codec::read_owned(path.as_bytes(), &set, entry.record())?;
    Ok((set, leases))
}

/// Decodes the record of a node.
pub fn node(path: &str, entry: &Entry) -> Result<NodeRecord, Bad> {
    let name = keys::read_name(keys::NODE, path).ok_or(WRONG_KEY)?;
    codec::read_node(path.as_bytes(), &name, entry.record())
}

/// Decodes the definition of a network.
pub fn definition(path: &str, entry: &Entry) -> Result<NetworkDefinition, Bad> {
    let network = keys::read_network(keys::NETWORK, path).ok_or(WRONG_KEY)?;
    codec::read_definition(path.as_bytes(), network, entry.record())
}

/// Decodes the ranges of a network.
pub fn ranges(path: &str, entry: &Entry) -> Result<NetworkRanges, Bad> {
    let network = keys::read_network(keys::RANGES, path).ok_or(WRONG_KEY)?;
    codec::read_ranges(path.as_bytes(), network, entry.record())
}

/// Decodes the draining ranges of a set.
pub fn draining(path: &str, entry: &Entry) -> Result<Vec<Draining>, Bad> {
    let set = keys::read_name(keys::DRAINING, path).ok_or(WRONG_KEY)?;
    codec::read_draining(path.as_bytes(), &SetName(set), entry.record())
}

/// Decodes the events of one transaction.
pub fn events(path: &str, entry: &Entry) -> Result<Vec<Event>, Bad> {
    codec::read_events(path.as_bytes(), entry.record())
}

fn lease_or_cooling(path: &str, entry: &Entry) -> Result<Option<Record>, Bad> {
    let ((set, _), holder) = address(path, entry)?;
    Ok(match holder {
        // This reservation is exported from the record of its owner.
        Holder::Leased(lease) if matches!(lease.owner, Owner::Named(_)) => None,
        Holder::Leased(lease) => Some(Record::Lease(*lease)),
        Holder::Cooling(cooling) => Some(Record::Cooling(set, cooling)),
        Holder::Free => None,
    })
}

fn cursor(path: &str, entry: &Entry) -> Result<Option<Record>, Bad> {
    let (set, range) = keys::read_of_address(keys::CURSOR, path).ok_or(WRONG_KEY)?;
    Ok(Some(Record::Cursor(set, range, plain(path, entry)?)))
}

fn sticky(path: &str, entry: &Entry) -> Result<Option<Record>, Bad> {
    let (set, pod, range) = keys::read_sticky(path).ok_or(WRONG_KEY)?;
    Ok(Some(Record::Sticky(set, pod, range, plain(path, entry)?)))
}

fn adopted(path: &str, entry: &Entry) -> Result<Option<Record>, Bad> {
    let network = keys::read_network(keys::ADOPTED, path).ok_or(WRONG_KEY)?;
    Ok(Some(Record::Adopted(network, plain(path, entry)?)))
}
