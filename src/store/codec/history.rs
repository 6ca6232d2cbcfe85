//! Events and counters as bytes.
//!
//! Owns: their fields. Invariant: a word is written as a number that it keeps for ever; a number that
//! this build does not know is skipped when read, and kept when the record is written again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    AddrV1, AttachmentV1, Bad, KindV1, OwnerV1, attachment, kind, owner, read_attachment,
    read_kind, read_owner, seal, unseal,
};
use crate::model::{
    Counter, Ending, Event, Face, History, Node, Origin, Owner, Pod, SetName, Timestamp, Verb, What,
};

const FACES: [(u8, Face); 3] = [(1, Face::Cni), (2, Face::Docker), (3, Face::Cli)];

const WHATS: [(u8, What); 14] = [
    (1, What::Added),
    (2, What::TakenOver),
    (3, What::Imported),
    (4, What::Reserved),
    (5, What::Deleted),
    (6, What::Undone),
    (7, What::Collected),
    (8, What::Lost),
    (9, What::Released),
    (10, What::Unreserved),
    (11, What::Swept),
    (12, What::PoolReleased),
    (13, What::BootEnded),
    (14, What::NodeReleased),
];

const VERBS: [(u8, Verb); 6] = [
    (1, Verb::Add),
    (2, Verb::Del),
    (3, Verb::Gc),
    (4, Verb::Reserve),
    (5, Verb::Import),
    (6, Verb::Pool),
];

const ENDINGS: [(u8, Ending); 5] = [
    (1, Ending::Ok),
    (2, Ending::Exhausted),
    (3, Ending::Held),
    (4, Ending::Refused),
    (5, Ending::Failed),
];

fn number<T: PartialEq>(table: &[(u8, T)], value: &T) -> u8 {
    table.iter().find(|(_, v)| v == value).map_or(0, |(n, _)| *n)
}

fn value<T: Copy>(table: &[(u8, T)], number: u8) -> Option<T> {
    table.iter().find(|(n, _)| *n == number).map(|(_, v)| *v)
}

#[derive(Serialize, Deserialize)]
struct EventV1<'a> {
    time: u64,
    what: u8,
    face: u8,
    set: &'a str,
    addr: AddrV1,
    kind: KindV1,
    #[serde(borrow)]
    owner: OwnerV1<'a>,
    node: &'a str,
    machine: &'a str,
    /// Only where the owner is no attachment.
    attachment: Option<AttachmentV1<'a>>,
    pod: Option<(&'a str, &'a str, &'a str)>,
    mac: Option<&'a str>,
    note: Option<&'a str>,
    holder: Option<&'a str>,
}

/// An event as the record under `key`.
pub fn event(key: &[u8], event: &Event) -> Vec<u8> {
    seal(key, &raw(event))
}

/// Events as one record under `key`.
pub fn events(key: &[u8], events: &[Event]) -> Vec<u8> {
    seal(key, &events.iter().map(raw).collect::<Vec<_>>())
}

fn raw(event: &Event) -> EventV1<'_> {
    let origin = &event.origin;
    let own = match &event.owner {
        Owner::Attachment(a) => Some(a),
        _ => None,
    };
    EventV1 {
        time: event.time,
        what: number(&WHATS, &event.what),
        face: number(&FACES, &event.face),
        set: &event.set.0,
        addr: event.addr.into(),
        kind: kind(event.kind),
        owner: owner(&event.owner, origin),
        node: &event.node.name,
        machine: &event.node.machine,
        attachment: origin.attachment.as_ref().filter(|a| own != Some(*a)).map(attachment),
        pod: origin.pod.as_ref().map(|p| (&*p.namespace, &*p.name, &*p.uid)),
        mac: origin.mac.as_deref(),
        note: origin.note.as_deref(),
        holder: origin.holder.as_deref(),
    }
}

/// The event in the record under `key`; `None`: a later build's.
pub fn read_event(key: &[u8], bytes: &[u8]) -> Result<Option<Event>, Bad> {
    of_raw(unseal(key, bytes)?)
}

/// The events in the record under `key`; without a later build's.
pub fn read_events(key: &[u8], bytes: &[u8]) -> Result<Vec<Event>, Bad> {
    let all: Vec<EventV1<'_>> = unseal(key, bytes)?;
    all.into_iter().filter_map(|raw| of_raw(raw).transpose()).collect()
}

fn of_raw(raw: EventV1<'_>) -> Result<Option<Event>, Bad> {
    let (Some(what), Some(face)) = (value(&WHATS, raw.what), value(&FACES, raw.face)) else {
        return Ok(None);
    };
    let addr = raw.addr.try_into()?;
    let (owner, endpoint) = read_owner(raw.owner, addr)?;
    let attachment = match (&raw.attachment, &owner) {
        (Some(a), _) => Some(read_attachment(a)?),
        (None, Owner::Attachment(a)) => Some(a.clone()),
        (None, _) => None,
    };
    Ok(Some(Event {
        time: raw.time,
        what,
        face,
        set: SetName(raw.set.to_owned()),
        addr,
        kind: read_kind(&raw.kind),
        owner,
        node: Node { name: raw.node.to_owned(), machine: raw.machine.to_owned() },
        origin: Origin {
            attachment,
            netns: None,
            pod: raw.pod.map(|(namespace, name, uid)| Pod {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                uid: uid.to_owned(),
            }),
            mac: raw.mac.map(str::to_owned),
            endpoint,
            note: raw.note.map(str::to_owned),
            holder: raw.holder.map(str::to_owned),
        },
    }))
}

/// How much of what happened is to be kept: 0 events are none.
pub fn bounds(key: &[u8], history: History) -> Option<Vec<u8>> {
    let bounds: (u64, u64) = match history {
        History::Standing => return None,
        History::Off => (0, 0),
        History::Kept { count, age } => (count, age),
    };
    Some(seal(key, &bounds))
}

/// How much of what happened is to be kept.
pub fn read_bounds(key: &[u8], bytes: &[u8]) -> Result<History, Bad> {
    let (count, age): (u64, Timestamp) = unseal(key, bytes)?;
    Ok(if count == 0 { History::Off } else { History::Kept { count, age } })
}

/// The counters of a set: face, verb, ending and number of requests. Counters of kinds that this build
/// does not know are kept when the record is written again.
type CountsV1 = Vec<(u8, u8, u8, u64)>;

/// The counters of one set, with one more request. Counters that cannot be read start at zero.
pub fn count(key: &[u8], before: Option<&[u8]>, face: Face, verb: Verb, ending: Ending) -> Vec<u8> {
    let mut counts: CountsV1 = before.and_then(|bytes| unseal(key, bytes).ok()).unwrap_or_default();
    add(&mut counts, face, verb, ending);
    seal(key, &counts)
}

/// The counters of all sets, with one more request. Counters that cannot be read start at zero.
pub fn count_in(
    key: &[u8],
    before: &[u8],
    set: &SetName,
    face: Face,
    verb: Verb,
    ending: Ending,
) -> Vec<u8> {
    let mut all: BTreeMap<&str, CountsV1> = unseal(key, before).unwrap_or_default();
    add(all.entry(&*set.0).or_default(), face, verb, ending);
    seal(key, &all)
}

fn add(counts: &mut CountsV1, face: Face, verb: Verb, ending: Ending) {
    let kind = (number(&FACES, &face), number(&VERBS, &verb), number(&ENDINGS, &ending));
    match counts.iter_mut().find(|(f, v, e, _)| (*f, *v, *e) == kind) {
        Some((.., count)) => *count = count.saturating_add(1),
        None => counts.push((kind.0, kind.1, kind.2, 1)),
    }
}

/// The counters of a set, without those of kinds that this build does not know.
pub fn read_counts(key: &[u8], set: &SetName, bytes: &[u8]) -> Result<Vec<Counter>, Bad> {
    Ok(known(set, unseal(key, bytes)?))
}

/// The counters of all sets, without those of kinds that this build does not know.
pub fn read_all_counts(key: &[u8], bytes: &[u8]) -> Result<Vec<Counter>, Bad> {
    let all: BTreeMap<&str, CountsV1> = unseal(key, bytes)?;
    Ok(all.into_iter().flat_map(|(set, counts)| known(&SetName(set.to_owned()), counts)).collect())
}

fn known(set: &SetName, counts: CountsV1) -> Vec<Counter> {
    let counter = |(face, verb, ending, count)| {
        Some(Counter {
            set: set.clone(),
            face: value(&FACES, face)?,
            verb: value(&VERBS, verb)?,
            ending: value(&ENDINGS, ending)?,
            count,
        })
    };
    counts.into_iter().filter_map(counter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_has_a_number_of_its_own() {
        for what in What::ALL {
            assert_eq!(value(&WHATS, number(&WHATS, &what)), Some(what));
        }
    }

    #[test]
    fn counters_of_unknown_kinds_are_kept() {
        let (key, set) = (b"X", SetName("s".into()));
        let unknown: CountsV1 = vec![(9, 9, 9, 7), (3, 2, 247, 8)];
        let bytes = seal(key, &unknown);
        let bytes = count(key, Some(&bytes), Face::Cli, Verb::Del, Ending::Ok);
        let written = unseal::<CountsV1>(key, &bytes).unwrap();
        assert_eq!(written, [&unknown[..], &[(3, 2, 1, 1)]].concat());
        let read = read_counts(key, &set, &bytes).unwrap();
        assert_eq!((read.len(), read[0].count), (1, 1));
        assert_eq!(read_counts(b"Y", &set, &bytes), Err(Bad("a record with a wrong checksum")));
        let anew = count(key, Some(b"junk"), Face::Cli, Verb::Del, Ending::Ok);
        assert_eq!(read_counts(key, &set, &anew).unwrap()[0].count, 1);
    }
}
