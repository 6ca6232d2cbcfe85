//! `sublet watch`: prints a line for each address that is leased or freed, as it happens.
//!
//! Invariant: each event is printed once, in order. The command writes nothing, and the store need not exist
//! yet.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::screen::{Tone, visible};
use super::{Call, OpenStore};
use crate::config;
use crate::model::{Event, Face, Lease, SetName, Timestamp, What};
use crate::net::Addr;
use crate::rows::EventRow;
use crate::sys::host;

/// Stream allocations and releases, one line per event.
///
/// With --json, each line is an object. Events are read from the history. If the history is "off", and in a
/// cluster (where the clocks of the nodes may differ), the command instead compares the current leases with
/// the previous ones. Comparing takes longer with more leases, and misses leases that begin and end between
/// two comparisons.
#[derive(Debug, Args)]
pub struct Watch {
    /// Only this network
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Time between two checks for new events
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// Compare leases even if there is a history
    #[arg(long)]
    leases: bool,
}

/// Parses the value of `--interval`.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let interval =
        config::duration(text).map_err(|_| "use a duration such as 500ms, 1s or 1m".to_owned())?;
    Some(interval).filter(|i| *i >= Duration::from_millis(10)).ok_or("use 10ms or more".to_owned())
}

/// Where the command finds new events.
enum Source {
    /// In the history. The fields are the time of the newest event that has been read, in seconds, and all
    /// events read so far from that second.
    History(Timestamp, Vec<Event>),
    /// In the differences between the current leases and those of the last check, which this field contains.
    Leases(Leases),
}

type Leases = BTreeMap<(SetName, Addr), Lease>;

impl Watch {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open_or_create()?;
        if !open.exists()? {
            writeln!(call.stderr, "waiting: lease store {} does not exist yet", open.place)?;
        }
        if let Some(name) = &self.network
            && open.unknown(name)?.is_some()
        {
            writeln!(call.stderr, "waiting: network {} has no lease yet", visible(name))?;
        }
        // Read the version before each check. If something changes during this check, the next check finds
        // it.
        let mut version = open.store.version(&open.cx)?;
        let mut source = self.begin(&mut open)?;
        while wait(self.interval)? {
            // Use the current time for each check, because the command may run for days.
            open.cx.now = host::now();
            let now = open.store.version(&open.cx)?;
            if now.is_some() && now == version {
                continue;
            }
            version = now;
            let (events, known_face) = match &mut source {
                Source::History(last, seen) => (new_events(&mut open, last, seen)?, true),
                Source::Leases(before) => {
                    let now = leases(&mut open)?;
                    let events = differences(before, &now, open.cx.now);
                    *before = now;
                    (events, false)
                }
            };
            for event in &events {
                if self.network.as_deref().is_none_or(|n| event.network() == n) {
                    print(event, known_face, call)?;
                }
            }
            call.stdout.flush()?;
        }
        Ok(())
    }

    fn begin(&self, open: &mut OpenStore) -> Result<Source> {
        if open.is_cluster() || self.leases {
            return Ok(Source::Leases(leases(open)?));
        }
        let (mut last, mut seen) = (0, Vec::new());
        new_events(open, &mut last, &mut seen)?;
        if last == 0 {
            // The history is empty. If there are leases, then the history is off, so compare leases.
            // Otherwise nothing has been leased yet.
            let now = leases(open)?;
            if !now.is_empty() {
                return Ok(Source::Leases(now));
            }
        }
        Ok(Source::History(last, seen))
    }
}

fn print(event: &Event, known_face: bool, call: &mut Call<'_>) -> Result<()> {
    let mut row = EventRow::new(event);
    if !known_face {
        row.face = None;
    }
    if call.as_json {
        return call.json_line(&row);
    }
    let tone = if event.what.gives() { Tone::Good } else { Tone::Cooling };
    let word = call.screen.paint(tone, row.event);
    let (time, addr, network) = (row.lease.time, event.addr, visible(&row.lease.network));
    let owner = visible(&event.owner.short());
    write!(call.stdout, "{time} {word} {addr} of network {network}, {owner}")?;
    if let Some(pod) = row.lease.pod() {
        write!(call.stdout, ", pod {}", visible(&pod))?;
    }
    Ok(writeln!(call.stdout)?)
}

fn leases(open: &mut OpenStore) -> Result<Leases> {
    let all = open.leases(&|_| true)?;
    Ok(all.into_iter().map(|lease| ((lease.set.clone(), lease.addr), lease)).collect())
}

/// Returns the events in the history that have not been seen yet.
fn new_events(
    open: &mut OpenStore,
    last: &mut Timestamp,
    seen: &mut Vec<Event>,
) -> Result<Vec<Event>> {
    let from = *last;
    let events = open.store.history(&open.cx, &mut |event| event.time >= from)?;
    Ok(fresh(events, last, seen))
}

/// Returns the events that are not in `seen`. More events may still be written in the newest second, so
/// `last` is set to that second, and `seen` to all its events so far. An event that occurred several times is
/// in `seen` several times.
fn fresh(events: Vec<Event>, last: &mut Timestamp, seen: &mut Vec<Event>) -> Vec<Event> {
    let mut known = std::mem::take(seen);
    let newest = events.iter().map(|event| event.time).max().unwrap_or(*last);
    let mut new = Vec::new();
    for event in events {
        if event.time == newest {
            seen.push(event.clone());
        }
        match known.iter().position(|k| *k == event) {
            Some(i) => {
                known.swap_remove(i);
            }
            None => new.push(event),
        }
    }
    *last = newest;
    new
}

/// Returns the releases and then the allocations between two checks, each in the order of set and address.
fn differences(before: &Leases, now: &Leases, time: Timestamp) -> Vec<Event> {
    let event = |lease: &Lease, what, time| Event::of(lease, what, Face::default(), time);
    let same = |a: &Lease, b: &Lease| a.owner == b.owner && a.time == b.time;
    let mut events = Vec::new();
    for (key, lease) in before {
        if !now.get(key).is_some_and(|other| same(lease, other)) {
            events.push(event(lease, What::Deleted, time));
        }
    }
    for (key, lease) in now {
        if !before.get(key).is_some_and(|other| same(lease, other)) {
            events.push(event(lease, What::Added, lease.time));
        }
    }
    events
}

/// Waits for `interval`. Returns false as soon as standard output has no reader.
pub(super) fn wait(interval: Duration) -> Result<bool> {
    let stdout = io::stdout();
    let until = Timespec::try_from(interval).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
    let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
    match poll(&mut fds, Some(&until)) {
        Ok(_) => Ok(!fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)),
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(e) => Err(io::Error::from(e).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Kind, Node, Origin, Owner};

    fn lease(addr: &str, id: &str, time: u64) -> Lease {
        Lease {
            set: SetName("ecs".to_owned()),
            addr: addr.parse().unwrap(),
            prefix: 24,
            kind: Kind::Dynamic,
            owner: Owner::Id(id.to_owned()),
            range: addr.parse().unwrap(),
            node: Node::default(),
            boot: None,
            origin: Origin::default(),
            time,
            cooldown: 0,
        }
    }

    fn words(events: &[Event]) -> Vec<String> {
        events.iter().map(|e| format!("{} {} {}", e.time, e.what.word(), e.owner)).collect()
    }

    #[test]
    fn each_event_is_printed_once() {
        let at =
            |id: &str, time| Event::of(&lease("10.0.0.2", id, time), What::Added, Face::Cni, time);
        let (mut last, mut seen) = (0, Vec::new());
        let new = fresh(vec![at("a", 5), at("b", 6)], &mut last, &mut seen);
        assert_eq!(words(&new), ["5 added id a", "6 added id b"]);
        // Another event of the same second, and two events that are equal.
        let new = fresh(vec![at("b", 6), at("c", 6), at("c", 6)], &mut last, &mut seen);
        assert_eq!(words(&new), ["6 added id c", "6 added id c"]);
        assert!(fresh(vec![at("b", 6), at("c", 6), at("c", 6)], &mut last, &mut seen).is_empty());
        assert!(fresh(Vec::new(), &mut last, &mut seen).is_empty());
        assert_eq!(words(&fresh(vec![at("d", 9)], &mut last, &mut seen)), ["9 added id d"]);
    }

    #[test]
    fn two_looks_differ() {
        let of = |all: &[Lease]| -> Leases {
            all.iter().map(|l| ((l.set.clone(), l.addr), l.clone())).collect()
        };
        let before = of(&[lease("10.0.0.2", "a", 1), lease("10.0.0.3", "b", 1)]);
        let now = of(&[lease("10.0.0.2", "a", 1), lease("10.0.0.3", "c", 7)]);
        let new = words(&differences(&before, &now, 9));
        assert_eq!(new, ["9 deleted id b", "7 added id c"]);
    }
}
