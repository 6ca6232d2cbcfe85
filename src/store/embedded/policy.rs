//! The policy file, `<file>.policy`: the addresses that operators have reserved, and the ranges that are
//! draining, as text.
//!
//! The first line contains the version of the format, a checksum and a nonce, which is a number that changes
//! with each change of the policy. The version is 3 if a range is draining, otherwise 2 if a reservation has
//! a name, and otherwise 1. So an ADD need not read any further lines if there are no names and no draining
//! ranges. A version of sublet that does not support names or draining ranges refuses a file that has them.
//! Each further line is an entry as JSON: first the reservations, then the draining ranges. Each lease file
//! has a copy of the reservations and of the nonce (see
//! [`refresh_reservations`](super::view::Tables::refresh_reservations)). The policy is replaced while both
//! locks of the store are held. Every ADD compares the nonce of the copy with the nonce of the policy while
//! it holds its lock, so an outdated copy is never used.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::fs::{Access, FileSystem, OpenFile, read_all, read_exact};
use super::{Result, files};
use crate::alloc::{Drain, Draining, draining_after};
use crate::error::StoreError;
use crate::model::{Kind, Lease, Node, Origin, Owner, SetName, StaticName, Timestamp};
use crate::net::{Addr, Span};

/// The maximum number of entries in a policy: reservations and draining ranges together.
pub const LIMIT: usize = 4096;

/// The maximum size of the file, in bytes. [`LIMIT`] entries with notes of a normal length are far smaller.
const LONGEST: u64 = 16 << 20;

/// A span of reserved addresses in one set of leases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, try_from = "Line", into = "Line")]
pub struct Reservation {
    /// The set of leases to which the addresses belong.
    pub set: SetName,
    /// The first and the last address.
    pub span: Span,
    /// The purpose of the reservation.
    pub note: Option<String>,
    /// The holder of the addresses, as the operator named it.
    pub holder: Option<String>,
    /// The name of the container that the addresses are reserved for; `None` if no container may lease them.
    pub name: Option<StaticName>,
    /// When the addresses were reserved, in seconds since 1970.
    pub time: Timestamp,
}

/// A reservation, in the form of its JSON line.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    reserved: String,
    first: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    holder: Option<String>,
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    name: Option<StaticName>,
    time: Timestamp,
}

/// A draining range, in the form of its JSON line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainingLine {
    draining: String,
    first: String,
    last: String,
    since: Timestamp,
}

/// How the line of a draining range begins.
const DRAINING: &str = "{\"draining\":";

impl From<&Draining> for DrainingLine {
    fn from(range: &Draining) -> DrainingLine {
        let Span { first, last } = range.span;
        DrainingLine {
            draining: range.set.0.clone(),
            first: first.to_string(),
            last: last.to_string(),
            since: range.since,
        }
    }
}

impl TryFrom<DrainingLine> for Draining {
    type Error = String;

    fn try_from(line: DrainingLine) -> Result<Draining, String> {
        let span = span(&line.first, &line.last)?;
        Ok(Draining { set: SetName(line.draining), span, since: line.since })
    }
}

/// Parses two addresses, and returns the span from the first address to the last.
fn span(first: &str, last: &str) -> Result<Span, String> {
    let addr = |text: &str| text.parse::<Addr>().map_err(|_| format!("{text:?} is not an address"));
    let (first, last) = (addr(first)?, addr(last)?);
    Span::new(first, last).ok_or_else(|| format!("{first}-{last} is not a range"))
}

impl From<Reservation> for Line {
    fn from(entry: Reservation) -> Line {
        let Span { first, last } = entry.span;
        Line {
            reserved: entry.set.0,
            first: first.to_string(),
            last: (last != first).then(|| last.to_string()),
            note: entry.note,
            holder: entry.holder,
            name: entry.name,
            time: entry.time,
        }
    }
}

impl TryFrom<Line> for Reservation {
    type Error = String;

    fn try_from(line: Line) -> Result<Reservation, String> {
        let span = span(&line.first, line.last.as_deref().unwrap_or(&line.first))?;
        let Line { reserved, note, holder, name, time, .. } = line;
        Ok(Reservation { set: SetName(reserved), span, note, holder, name, time })
    }
}

impl Reservation {
    /// Returns the entry in the form of a lease of `addr`, for listings and messages.
    pub fn lease(&self, addr: Addr) -> Lease {
        Lease {
            set: self.set.clone(),
            addr,
            prefix: addr.family().bits(),
            kind: Kind::Reserved,
            owner: self.name.clone().map_or(Owner::Reservation(addr), Owner::Named),
            range: addr,
            node: Node::default(),
            boot: None,
            origin: Origin {
                note: self.note.clone(),
                holder: self.holder.clone(),
                ..Origin::default()
            },
            time: self.time,
            cooldown: 0,
        }
    }

    /// Returns the parts of the entry before and after `span`.
    fn without(&self, span: Span) -> impl Iterator<Item = Reservation> + '_ {
        let before = span.first.prev().and_then(|last| self.span.up_to(last));
        let behind = span.last.next().and_then(|first| self.span.starting(first));
        before.into_iter().chain(behind).map(|span| Reservation { span, ..self.clone() })
    }

    /// Returns the part of the entry inside `span`.
    fn within(&self, span: Span) -> Option<Span> {
        self.span.overlaps(span).then(|| Span {
            first: self.span.first.max(span.first),
            last: self.span.last.min(span.last),
        })
    }
}

/// The content of the policy file. The reservations do not overlap, and are ordered by set of leases and
/// address. The same is true of the draining ranges. A reserved address may be draining.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// A number that changes with each change of the policy; 0 if there is no file.
    pub nonce: u64,
    /// The reservations.
    pub entries: Vec<Reservation>,
    /// The ranges from which nothing new is leased.
    pub draining: Vec<Draining>,
}

const NAME: &str = "sublet-policy 1 ";
/// The beginning of the first line of a policy that has names.
const WITH_NAMES: &str = "sublet-policy 2 ";
/// The beginning of the first line of a policy that has draining ranges.
const WITH_DRAINING: &str = "sublet-policy 3 ";
/// The length of the first line: name, nonce and checksum in hexadecimal, and the newline.
const HEADER: usize = NAME.len() + 16 + 1 + 8 + 1;

/// The first line of a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// A number that changes with each change of the policy; 0 if there is no policy file.
    pub nonce: u64,
    /// Whether a reservation may have a name.
    pub has_names: bool,
    /// Whether a range is draining.
    pub is_draining: bool,
    checksum: u32,
}

fn unreadable(path: &Path, line: usize, why: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable {
        doing: "understand".to_owned(),
        place: path.display().to_string(),
        source: format!("line {line}: {why}").into(),
    }
}

fn parse_header(path: &Path, header: &[u8]) -> Result<Header> {
    let read = || {
        let line = std::str::from_utf8(header).ok()?.strip_suffix('\n')?;
        let draining = line.strip_prefix(WITH_DRAINING);
        let named = draining.or_else(|| line.strip_prefix(WITH_NAMES));
        let (nonce, sum) = named.or_else(|| line.strip_prefix(NAME))?.split_once(' ')?;
        let nonce = u64::from_str_radix(nonce, 16).ok()?;
        let checksum = u32::from_str_radix(sum, 16).ok()?;
        Some(Header {
            nonce,
            has_names: named.is_some(),
            is_draining: draining.is_some(),
            checksum,
        })
    };
    read().ok_or_else(|| {
        unreadable(path, 1, "the first line is not a valid header of this format version")
    })
}

fn checksum(nonce: u64, entries: &str) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&nonce.to_le_bytes()), entries.as_bytes())
}

/// Reads only the first line of the policy file.
pub fn header<F: FileSystem>(fs: &F, path: &Path) -> Result<Header> {
    let io = |e| StoreError::io("read", path, e);
    let Some(file) = fs.open(path, Access::Read).map_err(io)? else {
        return Ok(Header::default());
    };
    let mut header = [0; HEADER];
    if !read_exact(&file, &mut header, 0).map_err(io)? {
        return Err(unreadable(path, 1, "the file ends within the first line"));
    }
    parse_header(path, &header)
}

impl Policy {
    /// Reads the policy file. Returns an empty policy if there is no file.
    pub fn read<F: FileSystem>(fs: &F, path: &Path) -> Result<Policy> {
        let io = |e| StoreError::io("read", path, e);
        let Some(file) = fs.open(path, Access::Read).map_err(io)? else {
            return Ok(Policy::default());
        };
        let bytes = read_all(&file, LONGEST).map_err(io)?;
        let (header, rest) = bytes.split_at(bytes.len().min(HEADER));
        let Header { nonce, checksum: sum, .. } = parse_header(path, header)?;
        let text = std::str::from_utf8(rest).map_err(|e| unreadable(path, 2, e))?;
        let (mut entries, mut draining): (Vec<Reservation>, Vec<Draining>) = Default::default();
        for (number, line) in text.lines().enumerate() {
            if line.starts_with(DRAINING) {
                let range = serde_json::from_str::<DrainingLine>(line).map_err(|e| e.to_string());
                let range = range.and_then(Draining::try_from);
                draining.push(range.map_err(|why| unreadable(path, number + 2, why))?);
                continue;
            }
            let entry: Reservation =
                serde_json::from_str(line).map_err(|e| unreadable(path, number + 2, e))?;
            let in_order = entries.last().is_none_or(|before| {
                before.set < entry.set
                    || before.set == entry.set && before.span.last < entry.span.first
            });
            if !in_order {
                return Err(unreadable(path, number + 2, "the lines are not in order"));
            }
            entries.push(entry);
        }
        if checksum(nonce, text) != sum {
            return Err(unreadable(path, 1, "the checksum does not match the lines below"));
        }
        Ok(Policy { nonce, entries, draining })
    }

    /// Writes the policy to a file.
    pub fn write<File: OpenFile>(&self, file: &File, path: &Path) -> Result<()> {
        let reserved = self.entries.iter().map(serde_json::to_string);
        let draining =
            self.draining.iter().map(|range| serde_json::to_string(&DrainingLine::from(range)));
        let lines = reserved.chain(draining).map(|line| line.map(|line| line + "\n"));
        let entries: Result<String, _> = lines.collect();
        let entries = entries.map_err(|e| StoreError::io("write", path, e.into()))?;
        let has_names = self.entries.iter().any(|entry| entry.name.is_some());
        let name = match (self.draining.is_empty(), has_names) {
            (false, _) => WITH_DRAINING,
            (true, true) => WITH_NAMES,
            (true, false) => NAME,
        };
        let text =
            format!("{name}{:016x} {:08x}\n{entries}", self.nonce, checksum(self.nonce, &entries));
        let written = file.write_at(text.as_bytes(), 0).and_then(|()| file.sync_data());
        written.map_err(|e| StoreError::io("write", path, e))
    }

    /// Returns the number of entries.
    pub fn count(&self) -> usize {
        self.entries.len() + self.draining.len()
    }

    /// Starts or stops draining a range. Returns whether anything has changed.
    pub fn drain(&mut self, drain: &Drain, now: Timestamp) -> bool {
        let (before, mut others) = std::mem::take(&mut self.draining)
            .into_iter()
            .partition::<Vec<_>, _>(|range| range.set == drain.set);
        let after = draining_after(&before, drain, now);
        let changed = after != before;
        others.extend(after);
        others.sort_by(|a, b| (&a.set, a.span).cmp(&(&b.set, b.span)));
        self.draining = others;
        changed
    }

    /// Returns the entry that contains an address.
    pub fn find(&self, set: &SetName, addr: Addr) -> Option<&Reservation> {
        self.entries.iter().find(|e| e.set == *set && e.span.contains(addr))
    }

    /// Returns a reservation that overlaps `new` and is for a container with a different name.
    pub fn of_other_name(&self, new: &Reservation) -> Option<&Reservation> {
        let is_other =
            |e: &Reservation| e.name.is_some() && new.name.is_some() && e.name != new.name;
        let mut others = self.entries.iter().filter(|entry| is_other(entry));
        others.find(|entry| entry.set == new.set && entry.span.overlaps(new.span))
    }

    /// Reserves a span. Addresses that are already reserved get the new note, the new holder and the new
    /// name, if these are set. Returns the parts of the span that were not reserved before.
    pub fn reserve(&mut self, new: &Reservation) -> Vec<Span> {
        let mut fresh = Policy { entries: vec![new.clone()], ..Policy::default() };
        let mut entries = Vec::new();
        for old in std::mem::take(&mut self.entries) {
            let common = if old.set == new.set { old.within(new.span) } else { None };
            let Some(span) = common else {
                entries.push(old);
                continue;
            };
            fresh.unreserve(&new.set, span);
            entries.extend(old.without(span));
            let note = new.note.clone().or_else(|| old.note.clone());
            let holder = new.holder.clone().or_else(|| old.holder.clone());
            let name = new.name.clone().or_else(|| old.name.clone());
            entries.push(Reservation { span, note, holder, name, ..old });
        }
        let spans = fresh.entries.iter().map(|e| e.span).collect();
        entries.extend(fresh.entries);
        self.entries = entries;
        self.tidy();
        spans
    }

    /// Ends the reservation of a span. Returns the parts of the span that were reserved.
    pub fn unreserve(&mut self, set: &SetName, span: Span) -> Vec<Reservation> {
        let mut freed = Vec::new();
        let mut entries = Vec::new();
        for old in std::mem::take(&mut self.entries) {
            match old.within(span) {
                Some(span) if old.set == *set => {
                    entries.extend(old.without(span));
                    freed.push(Reservation { span, ..old });
                }
                _ => entries.push(old),
            }
        }
        self.entries = entries;
        self.tidy();
        freed
    }

    /// Sorts the entries, and joins neighboring entries that differ only in their addresses.
    fn tidy(&mut self) {
        self.entries.sort_by(|a, b| (&a.set, a.span.first).cmp(&(&b.set, b.span.first)));
        self.entries.dedup_by(|next, entry| {
            let joins = entry.set == next.set
                && entry.span.last.next() == Some(next.span.first)
                && (&entry.note, &entry.holder, &entry.name, entry.time)
                    == (&next.note, &next.holder, &next.name, next.time);
            if joins {
                entry.span.last = next.span.last;
            }
            joins
        });
    }
}

/// Returns the smallest number of spans that contain exactly these addresses.
pub fn spans(addrs: &[Addr]) -> Vec<Span> {
    let mut sorted = addrs.to_vec();
    sorted.sort_unstable();
    let mut spans: Vec<Span> = Vec::new();
    for addr in sorted {
        match spans.last_mut() {
            Some(span) if span.last == addr => {}
            Some(span) if span.last.next() == Some(addr) => span.last = addr,
            _ => spans.push(Span { first: addr, last: addr }),
        }
    }
    spans
}

/// Replaces the policy file. `before` runs when the new file is on disk, right before it is renamed to its
/// final name.
pub fn replace<F: FileSystem>(
    fs: &F,
    path: &Path,
    policy: &Policy,
    before: impl FnOnce() -> Result<()>,
) -> Result<()> {
    files::replace(fs, path, None, |file, name| policy.write(&file, name), before)
}
