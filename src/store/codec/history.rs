//! Events and counters as bytes.
//!
//! Owns: their fields. Invariant: a word is written as a number that it keeps for ever; a number that
//! this build does not know is skipped when read, and kept when the record is written again.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    AddrV1, AttachmentV1, Bad, KindV1, OwnerV1, attachment, kind, owner, read_attachment,
    read_kind, read_owner, seal, unseal,
};
use crate::model::{
    Counter, Ending, Event, Face, Histogram, History, Node, Origin, Owner, Pod, SetName, Spent,
    Timestamp, Verb, What,
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

/// The counters of all sets with one more of a kind. Counters that cannot be read begin anew.
pub fn count_in(
    key: &[u8],
    before: &[u8],
    set: &SetName,
    face: Face,
    verb: Verb,
    ending: Ending,
    spent: Spent,
) -> Vec<u8> {
    let mut all: BTreeMap<&str, CountsV1> = unseal(key, before).unwrap_or_default();
    add(all.entry(&*set.0).or_default(), face, verb, ending, spent);
    seal(key, &all)
}

/// The counters of all sets, those of kinds that this build knows.
pub fn read_all_counts(key: &[u8], bytes: &[u8]) -> Result<Vec<Counter>, Bad> {
    let all: BTreeMap<&str, CountsV1> = unseal(key, bytes)?;
    let mut found = Vec::new();
    for (set, counts) in all {
        found.extend(known(&SetName(set.to_owned()), counts));
    }
    Ok(found)
}

/// The counters of a set: face, verb and measure as numbers, and how much. A measure is how requests
/// ended, as a number below [`MEASURES`], and what of them is counted, as a multiple of it; to a build
/// that counted nothing but requests it is an ending that it does not know.
type CountsV1 = Vec<(u8, u8, u8, u64)>;

const MEASURES: u8 = 8;
/// How many requests.
const REQUESTS: u8 = 0;
/// How long they waited for locks, altogether, in microseconds.
const WAITED: u8 = 1;
/// How long they took, altogether, in microseconds.
const TOOK: u8 = 2;
/// How many of them took as long as the first bucket says; the other buckets follow.
const BUCKETS: u8 = 3;

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The counters with one more of a kind. Counters that cannot be read begin anew.
pub fn count(
    key: &[u8],
    before: Option<&[u8]>,
    face: Face,
    verb: Verb,
    ending: Ending,
    spent: Spent,
) -> Vec<u8> {
    let mut counts: CountsV1 = before.and_then(|bytes| unseal(key, bytes).ok()).unwrap_or_default();
    add(&mut counts, face, verb, ending, spent);
    seal(key, &counts)
}

fn add(counts: &mut CountsV1, face: Face, verb: Verb, ending: Ending, spent: Spent) {
    let (face, verb, ending) =
        (number(&FACES, &face), number(&VERBS, &verb), number(&ENDINGS, &ending));
    let mut more = |measure: u8, more: u64| {
        let kind = (face, verb, measure * MEASURES + ending);
        match counts.iter_mut().find(|(f, v, m, _)| (*f, *v, *m) == kind) {
            Some((.., count)) => *count = count.saturating_add(more),
            None if more == 0 => {}
            None => counts.push((kind.0, kind.1, kind.2, more)),
        }
    };
    more(REQUESTS, 1);
    more(WAITED, micros(spent.waited));
    more(TOOK, micros(spent.took));
    // There are 13 of them.
    more(BUCKETS + u8::try_from(Histogram::bucket(spent.took)).unwrap_or_default(), 1);
}

/// The counters of a set, those of kinds that this build knows.
pub fn read_counts(key: &[u8], set: &SetName, bytes: &[u8]) -> Result<Vec<Counter>, Bad> {
    Ok(known(set, unseal(key, bytes)?))
}

fn known(set: &SetName, counts: CountsV1) -> Vec<Counter> {
    let mut known = BTreeMap::new();
    for (face, verb, measure, count) in counts {
        let kind = (value(&FACES, face), value(&VERBS, verb), value(&ENDINGS, measure % MEASURES));
        let (Some(face), Some(verb), Some(ending)) = kind else { continue };
        let none = || Counter::new(set.clone(), face, verb, ending);
        let counter = known.entry((face, verb, ending)).or_insert_with(none);
        match measure / MEASURES {
            REQUESTS => counter.count = count,
            WAITED => counter.waited = Duration::from_micros(count),
            TOOK => counter.took.sum = Duration::from_micros(count),
            later => {
                if let Some(n) = counter.took.buckets.get_mut(usize::from(later - BUCKETS)) {
                    *n = count;
                }
            }
        }
    }
    known.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_has_a_number_of_its_own() {
        for what in What::ALL {
            assert_eq!(value(&WHATS, number(&WHATS, what)), Some(*what));
        }
    }

    const MEASURED: Spent =
        Spent { waited: Duration::from_micros(1500), took: Duration::from_micros(2500) };

    #[test]
    fn counts_of_a_later_build_are_kept() {
        let (key, set) = (b"X", SetName("s".into()));
        let later: CountsV1 = vec![(9, 9, 9, 7), (3, 2, 247, 8), (3, 2, 129, 9)];
        let bytes = seal(key, &later);
        let bytes = count(key, Some(&bytes), Face::Cli, Verb::Del, Ending::Ok, MEASURED);
        let written = unseal::<CountsV1>(key, &bytes).unwrap();
        let ours = [(3, 2, 1, 1), (3, 2, 9, 1500), (3, 2, 17, 2500), (3, 2, 41, 1)];
        assert_eq!(written, [&later[..], &ours].concat());
        let read = read_counts(key, &set, &bytes).unwrap();
        assert_eq!((read.len(), read[0].count, read[0].took.count()), (1, 1, 1));
        assert_eq!(read_counts(b"Y", &set, &bytes), Err(Bad("a record with a wrong checksum")));
        let anew = count(key, Some(b"junk"), Face::Cli, Verb::Del, Ending::Ok, MEASURED);
        assert_eq!(read_counts(key, &set, &anew).unwrap()[0].count, 1);
    }

    /// A build that kept no times has counted before, and does so again in between.
    #[test]
    fn times_are_kept_beside_the_counts_of_a_build_without() {
        let (key, set) = (b"X", SetName("s".into()));
        let mut bytes = seal(key, &vec![(1_u8, 1_u8, 1_u8, 5_u64), (1, 1, 2, 3)]);
        let slow = Spent { took: Duration::from_secs(60), ..Spent::default() };
        for spent in [MEASURED, MEASURED, slow] {
            bytes = count(key, Some(&bytes), Face::Cni, Verb::Add, Ending::Ok, spent);
        }
        let mut as_older: CountsV1 = unseal(key, &bytes).unwrap();
        assert_eq!(as_older[..2], [(1, 1, 1, 8), (1, 1, 2, 3)]);
        // What such a build takes for an ending, it does not know.
        assert!(as_older[2..].iter().all(|(.., measure, _)| *measure >= MEASURES));
        as_older[0].3 += 1;
        let read = read_counts(key, &set, &seal(key, &as_older)).unwrap();
        let mut took = Histogram::EMPTY;
        for spent in [MEASURED, MEASURED, slow] {
            took.add(spent.took);
        }
        let (ok, full) = (Ending::Ok, Ending::Exhausted);
        let ok = Counter {
            count: 9,
            waited: Duration::from_millis(3),
            took,
            ..Counter::new(set.clone(), Face::Cni, Verb::Add, ok)
        };
        let full = Counter { count: 3, ..Counter::new(set, Face::Cni, Verb::Add, full) };
        assert_eq!(read, [ok, full]);
    }

    #[test]
    fn buckets_stay_what_they_are() {
        let bounds =
            [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0_f64];
        assert_eq!(crate::model::BOUNDS.map(f64::to_bits), bounds.map(f64::to_bits));
    }
}
