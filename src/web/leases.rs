//! Pages of leases and of cooling addresses.
//!
//! Rows are kept as text, up to a number of bytes; what does not fit is read from the store for each page.
//! Invariant: a page is at most [`MOST_ROWS`] rows and about [`MOST_BYTES`] bytes, and its cursor is a row,
//! so that no row appears twice, whatever changes between two pages.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;

use serde::Serialize;
use serde_json::Value;

use super::query::{Cursor, Query};
use crate::alloc::{Context, Holder};
use crate::error::StoreError;
use crate::model::SetName;
use crate::net::Addr;
use crate::rows::{CoolingRow, LeaseRow, Time};
use crate::store::{Store, StoreReader};

/// Room for the rows that all stores keep, in bytes: some 70,000 of leases.
pub const ROOM: usize = 15 << 20;
/// The most rows of a page.
pub const MOST_ROWS: usize = 10_000;
/// A page ends behind the row that reaches this many bytes.
const MOST_BYTES: usize = 512 << 10;

/// Rows as text, in the order of the store: by set and address. Each has memory of its own: one large piece would
/// leave a hole of its size.
#[derive(Default)]
struct Rows {
    /// Each row, and its address.
    all: Vec<(Box<[u8]>, Addr)>,
    /// The bytes of all rows.
    bytes: usize,
    /// The sets, each with the index of its first row.
    sets: Vec<(SetName, usize)>,
}

impl Rows {
    fn push(&mut self, set: &SetName, addr: Addr, row: Vec<u8>) {
        if self.sets.last().is_none_or(|(last, _)| last != set) {
            self.sets.push((set.clone(), self.all.len()));
        }
        self.bytes += row.len();
        self.all.push((row.into_boxed_slice(), addr));
    }

    /// The index of the first row behind a cursor. `None`: no row of its set is here.
    fn behind(&self, cursor: &Cursor) -> Option<usize> {
        let at = self.sets.iter().position(|(set, _)| *set == cursor.set)?;
        let first = self.sets[at].1;
        let end = self.sets.get(at + 1).map_or(self.all.len(), |(_, next)| *next);
        Some(first + self.all[first..end].partition_point(|(_, addr)| *addr <= cursor.addr))
    }

    /// The set and address of a row.
    fn cursor(&self, at: usize) -> Option<Cursor> {
        let addr = self.all.get(at)?.1;
        let set = self.sets.iter().rev().find(|(_, first)| *first <= at)?.0.clone();
        Some(Cursor { set, addr })
    }
}

/// All leases of a store, or its cooling addresses, as of one time.
pub struct Leases {
    time: Time,
    total: u64,
    version: String,
    rows: Rows,
    cooling: bool,
}

/// A page of rows that is being filled.
pub struct Page {
    text: Vec<u8>,
    rows: usize,
    limit: usize,
    begin: usize,
    next: Option<Cursor>,
    last: Option<Cursor>,
}

impl Page {
    /// A page that begins with this text and has at most `limit` rows.
    pub fn new(text: String, limit: usize) -> Page {
        let begin = text.len();
        Page { text: text.into_bytes(), rows: 0, limit, begin, next: None, last: None }
    }

    /// Ends the page behind this row, if it has no end yet.
    pub fn end_at(&mut self, cursor: Cursor) {
        self.next.get_or_insert(cursor);
    }

    /// The whole text: `more` are the fields behind the rows.
    pub fn done(mut self, more: &str) -> Vec<u8> {
        self.text.extend_from_slice(b"\n]");
        if let Some(cursor) = self.next {
            let next = format!(",\"next\":{}", Value::from(cursor.to_string()));
            self.text.extend_from_slice(next.as_bytes());
        }
        self.text.extend_from_slice(more.as_bytes());
        self.text.extend_from_slice(b"}\n");
        self.text
    }

    /// Adds a row. Returns whether there was room; if there was not, the page ends behind the row before.
    pub fn add(&mut self, row: &[u8], cursor: impl FnOnce() -> Option<Cursor>) -> bool {
        if self.next.is_some()
            || self.rows == self.limit
            || self.text.len() - self.begin > MOST_BYTES
        {
            self.next = self.last.clone();
            return false;
        }
        self.text.extend_from_slice(if self.rows == 0 { b"\n" } else { b",\n" });
        self.text.extend_from_slice(row);
        self.rows += 1;
        self.last = cursor();
        true
    }
}

impl Leases {
    /// Reads them, and keeps the first rows, up to `room` bytes.
    pub fn take(
        store: &mut dyn StoreReader,
        cx: &Context,
        cooling: bool,
        room: usize,
    ) -> Result<Leases, StoreError> {
        let mut rows = Rows::default();
        let (mut total, mut hasher) = (0, DefaultHasher::new());
        walk(store, cx, cooling, &mut |set, addr, row: &LeaseOrCooling<'_, '_>| {
            let text = row.text();
            hasher.write(&text);
            // Once a row does not fit, all later rows are left out too, all are left out.
            if rows.bytes + text.len() <= room && rows.all.len() as u64 == total {
                rows.push(set, addr, text);
            }
            total += 1;
        })?;
        hasher.write_u64(total);
        let version = format!("{:016x}", hasher.finish());
        Ok(Leases { time: Time(cx.now), total, version, rows, cooling })
    }

    /// Changes whenever a lease does.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The page that a query asks for. `read` reads the rest of it from the store, where rows that are not kept
    /// are needed. `None`: nothing is left of the cursor's set.
    pub fn page<E>(
        &self,
        query: &Query,
        read: impl FnOnce(Rest) -> Result<(Page, bool), E>,
    ) -> Result<Option<Vec<u8>>, E> {
        let name = if self.cooling { "cooling" } else { "leases" };
        let text = format!("{{\"time\":\"{}\",\"{name}\":[", self.time);
        let mut page = Page::new(text, query.limit);
        let kept = query.after.as_ref().map_or(Some(0), |cursor| self.rows.behind(cursor));
        let mut found = kept.is_some();
        for at in kept.unwrap_or(self.rows.all.len())..self.rows.all.len() {
            let row = &self.rows.all[at].0;
            if query.matches_text(row) && !page.add(row, || self.rows.cursor(at)) {
                break;
            }
        }
        if page.next.is_none() && self.total > self.rows.all.len() as u64 {
            let end = self.rows.all.len().checked_sub(1).and_then(|at| self.rows.cursor(at));
            let from = if kept.is_some() { end } else { query.after.clone() };
            let was_there = found;
            (page, found) = read(Rest { query: query.clone(), from, page, cooling: self.cooling })?;
            found |= was_there;
        }
        if !found {
            return Ok(None);
        }
        let (total, version) = (self.total, &self.version);
        Ok(Some(page.done(&format!(",\"total\":{total},\"version\":\"{version}\""))))
    }
}

/// A page whose rest is in the store alone.
pub struct Rest {
    query: Query,
    from: Option<Cursor>,
    page: Page,
    cooling: bool,
}

impl Rest {
    /// Fills the page with rows behind the cursor. Returns also whether the cursor's set was there.
    pub fn read(self, store: &mut dyn Store, cx: &Context) -> Result<(Page, bool), StoreError> {
        let Rest { query, from, mut page, cooling } = self;
        let mut seen = from.is_none();
        walk(store, cx, cooling, &mut |set, addr, row: &LeaseOrCooling<'_, '_>| {
            if page.next.is_some() {
                return;
            }
            let is_behind = match &from {
                Some(from) if *set == from.set => {
                    seen = true;
                    addr > from.addr
                }
                _ => seen,
            };
            if is_behind && row.matches(&query) {
                page.add(&row.text(), || Some(Cursor { set: set.clone(), addr }));
            }
        })?;
        Ok((page, seen))
    }
}

/// A row that was not written yet.
enum LeaseOrCooling<'r, 'a> {
    Lease(&'r LeaseRow<'a>),
    Cooling(&'r CoolingRow<'a>),
}

impl LeaseOrCooling<'_, '_> {
    fn text(&self) -> Vec<u8> {
        fn line(row: &impl Serialize) -> Vec<u8> {
            // Text, numbers and names of fields: that does not fail.
            serde_json::to_vec(row).unwrap_or_default()
        }
        match self {
            LeaseOrCooling::Lease(row) => line(row),
            LeaseOrCooling::Cooling(row) => line(row),
        }
    }

    fn matches(&self, query: &Query) -> bool {
        match self {
            LeaseOrCooling::Lease(row) => query.matches(row),
            LeaseOrCooling::Cooling(row) => query.matches_cooling(row),
        }
    }
}

/// Calls `each` with every lease, or every cooling address.
fn walk(
    store: &mut dyn StoreReader,
    cx: &Context,
    cooling: bool,
    each: &mut dyn FnMut(&SetName, Addr, &LeaseOrCooling<'_, '_>),
) -> Result<(), StoreError> {
    if !cooling {
        return store.list(cx, &mut |lease| {
            each(&lease.set, lease.addr, &LeaseOrCooling::Lease(&LeaseRow::short(&lease)));
        });
    }
    store.occupancy(cx, &mut |set: &SetName, addr: Addr, holder: &Holder| {
        if let Holder::Cooling(cooling) = holder {
            each(set, addr, &LeaseOrCooling::Cooling(&CoolingRow::new(set, cooling)));
        }
    })
}
