//! Encodes and decodes events and counters. Enumeration values, such as a [`Verb`], are stored as words. A
//! later version of sublet may write words that this version does not know. An event or counter with such a
//! word is skipped when its record is decoded. Rewriting a record of counters keeps such a counter.

use serde::{Deserialize, Serialize};

use super::{Bad, seal, seal_as, unseal, unseal_as, version, with_owner, without_owner};
use crate::model::{
    Counter, Ending, Event, Face, History, Kind, Node, Origin, Owner, SetName, Timestamp, Verb,
    What,
};
use crate::net::Addr;

/// The format version of events that have a trace ID. Events without one keep the older version, which every
/// released version of sublet can read.
const TRACED: u8 = 3;

type EventFields<'a> = (Timestamp, &'a str, &'a str, SetName, Addr, Kind, Owner, Node, Origin);

fn event_fields(event: &Event) -> impl Serialize {
    let (what, face) = (event.what.word(), event.face.word());
    let origin = without_owner(&event.origin, &event.owner);
    let (set, owner, node) = (&event.set, &event.owner, &event.node);
    (event.time, what, face, set, event.addr, event.kind, owner, node, origin)
}

fn of_fields(fields: EventFields<'_>) -> Option<Event> {
    let (time, what, face, set, addr, kind, owner, node, origin) = fields;
    let what = What::from_word(what)?;
    let face = Face::from_word(face)?;
    let origin = with_owner(origin, &owner);
    Some(Event { time, what, face, set, addr, kind, owner, node, origin, trace: None })
}

fn seal_traced<T: Serialize>(key: &[u8], fields: &T, trace: Option<&str>) -> Vec<u8> {
    match trace {
        None => seal(key, fields),
        Some(trace) => seal_as(TRACED, key, &(fields, trace)),
    }
}

/// Reverses [`seal_traced`].
fn unseal_traced<'a, T: Deserialize<'a>>(
    key: &[u8],
    bytes: &'a [u8],
) -> Result<(T, Option<String>), Bad> {
    if version(bytes) != Some(TRACED) {
        return Ok((unseal(key, bytes)?, None));
    }
    let (fields, trace) = unseal_as(TRACED, key, bytes)?;
    Ok((fields, Some(trace)))
}

/// Encodes an event as the record under `key`.
pub fn event(key: &[u8], event: &Event) -> Vec<u8> {
    seal_traced(key, &event_fields(event), event.trace.as_deref())
}

/// Decodes the event in the record under `key`. Returns `None` if a later version of sublet wrote the event
/// using a word that this version does not know.
pub fn read_event(key: &[u8], bytes: &[u8]) -> Result<Option<Event>, Bad> {
    let (fields, trace) = unseal_traced(key, bytes)?;
    Ok(of_fields(fields).map(|event| Event { trace, ..event }))
}

/// Encodes several events of one request as one record under `key`.
pub fn events(key: &[u8], events: &[Event]) -> Vec<u8> {
    let fields: Vec<_> = events.iter().map(event_fields).collect();
    seal_traced(key, &fields, events.first().and_then(|event| event.trace.as_deref()))
}

/// Decodes the events in the record under `key`. Skips events with words that only later versions of sublet
/// know.
pub fn read_events(key: &[u8], bytes: &[u8]) -> Result<Vec<Event>, Bad> {
    let (all, trace): (Vec<EventFields<'_>>, _) = unseal_traced(key, bytes)?;
    let events = all.into_iter().filter_map(of_fields);
    Ok(events.map(|event| Event { trace: trace.clone(), ..event }).collect())
}

/// Encodes the limits of a history. A limit of 0 events means that no history is kept. Returns `None` for
/// [`History::Standing`], which has no limits of its own.
pub fn bounds(key: &[u8], history: History) -> Option<Vec<u8>> {
    let bounds: (u64, u64) = match history {
        History::Standing => return None,
        History::Off => (0, 0),
        History::Kept { count, age } => (count, age),
    };
    Some(seal(key, &bounds))
}

/// Decodes the limits of a history.
pub fn read_bounds(key: &[u8], bytes: &[u8]) -> Result<History, Bad> {
    let (count, age) = unseal(key, bytes)?;
    Ok(if count == 0 { History::Off } else { History::Kept { count, age } })
}

/// A counter in its stored form: set of leases, face, verb, outcome, and the number of requests.
type Row<'a> = ((&'a str, &'a str, &'a str, &'a str), u64);

/// Adds one request to the counters in the record under `key`, and returns the new record. `before` is the
/// old record. If the old record is missing or cannot be decoded, counting starts at zero.
pub fn count(
    key: &[u8],
    before: Option<&[u8]>,
    (set, face, verb, ending): &(SetName, Face, Verb, Ending),
) -> Vec<u8> {
    let mut rows: Vec<Row<'_>> =
        before.and_then(|bytes| unseal(key, bytes).ok()).unwrap_or_default();
    let request = (&*set.0, face.word(), verb.word(), ending.word());
    match rows.iter_mut().find(|(known, _)| *known == request) {
        Some((_, count)) => *count = count.saturating_add(1),
        None => rows.push((request, 1)),
    }
    seal(key, &rows)
}

/// Decodes the counters in the record under `key`. Skips counters with words that only later versions of
/// sublet know.
pub fn read_counts(key: &[u8], bytes: &[u8]) -> Result<Vec<Counter>, Bad> {
    let rows: Vec<Row<'_>> = unseal(key, bytes)?;
    let counter = |((set, face, verb, ending), count): Row<'_>| {
        Some(Counter {
            set: SetName(set.to_owned()),
            face: Face::from_word(face)?,
            verb: Verb::from_word(verb)?,
            ending: Ending::from_word(ending)?,
            count,
        })
    };
    Ok(rows.into_iter().filter_map(counter).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_a_later_build_are_kept() {
        let key = b"X";
        let request = (SetName("s".into()), Face::Cli, Verb::Del, Ending::Ok);
        let later: Row<'_> = (("s", "cli", "later", "ok"), 7);
        let bytes = count(key, Some(&seal(key, &[later].as_slice())), &request);
        let bytes = count(key, Some(&bytes), &request);
        let written: Vec<Row<'_>> = unseal(key, &bytes).unwrap();
        assert_eq!(written, [later, (("s", "cli", "del", "ok"), 2)]);
        let read = read_counts(key, &bytes).unwrap();
        assert_eq!((read.len(), read[0].count), (1, 2));
        assert_eq!(read_counts(b"Y", &bytes), Err(Bad("the record has a wrong checksum")));
        let anew = count(key, Some(b"junk"), &request);
        assert_eq!(read_counts(key, &anew).unwrap()[0].count, 1);
    }
}
