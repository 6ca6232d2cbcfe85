//! Pages of leases and of cooling addresses.
//!
//! A list keeps its first rows in memory as JSON text, up to a maximum size. For a page with later rows, the
//! rows are read from the store.
//!
//! Invariants: A page has at most [`MOST_ROWS`] rows and about [`MOST_BYTES`] bytes. The cursor of the next
//! page is a row, not an index, so no row appears twice even if the store changes between two pages.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::Value;

use super::query::{Cursor, Query};
use crate::alloc::{Context, Holder};
use crate::error::StoreError;
use crate::model::SetName;
use crate::net::Addr;
use crate::rows::{CoolingRow, LeaseRow, Time};
use crate::store::Store;

/// The maximum size of the lease rows that all stores together keep in memory, in bytes: about 70,000 leases.
/// Cooling addresses have their own limit of the same size.
pub const ROOM: usize = 15 << 20;
/// The maximum number of rows of a page.
pub const MOST_ROWS: usize = 10_000;
/// A page ends with the first row that makes it larger than this, in bytes.
const MOST_BYTES: usize = 512 << 10;

/// Rows as text, in the order of the store: by set and address. Each row is a separate allocation, because
/// freeing one large block for all rows would leave a hole of its size in the heap.
#[derive(Default)]
struct Rows {
    /// Each row as JSON text, and its address.
    all: Vec<(Box<[u8]>, Addr)>,
    /// The total size of all rows, in bytes.
    bytes: usize,
    /// The sets of leases in their order, each with the index of its first row.
    sets: Vec<(SetName, usize)>,
}

impl Rows {
    fn push(&mut self, set: &SetName, addr: Addr, row: &[u8]) {
        if self.sets.last().is_none_or(|(last, _)| last != set) {
            self.sets.push((set.clone(), self.all.len()));
        }
        self.bytes += row.len();
        self.all.push((row.into(), addr));
    }

    /// Returns the index of the first row after a cursor; `None` if no rows of the cursor's set are kept.
    fn behind(&self, cursor: &Cursor) -> Option<usize> {
        let at = self.sets.iter().position(|(set, _)| *set == cursor.set)?;
        let first = self.sets[at].1;
        let end = self.sets.get(at + 1).map_or(self.all.len(), |(_, next)| *next);
        Some(first + self.all[first..end].partition_point(|(_, addr)| *addr <= cursor.addr))
    }

    /// Returns the set and address of the row at an index.
    fn cursor(&self, at: usize) -> Option<Cursor> {
        let addr = self.all.get(at)?.1;
        let set = self.sets.iter().rev().find(|(_, first)| *first <= at)?.0.clone();
        Some(Cursor { set, addr })
    }
}

/// The leases of a store, or its cooling addresses, at one time.
pub struct List {
    /// The number of rows.
    pub total: u64,
    /// A hash of all rows.
    pub version: String,
    /// The first rows, as many as fit into memory; `None` if no rows are kept.
    rows: Mutex<Option<Arc<Rows>>>,
}

/// Builds a [`List`], row by row.
pub struct Listing {
    hasher: DefaultHasher,
    text: Vec<u8>,
    total: u64,
    rows: Rows,
    room: usize,
}

impl Listing {
    /// Creates an empty listing that keeps the first rows, up to `room` bytes. If `room` is 0, keeps no rows.
    pub fn new(room: usize) -> Listing {
        let (hasher, text, rows) = (DefaultHasher::new(), Vec::new(), Rows::default());
        Listing { hasher, text, total: 0, rows, room }
    }

    /// Adds a row. The rows must be added in the order of the store: by set and address.
    pub fn add(&mut self, set: &SetName, addr: Addr, row: &impl Serialize) {
        self.text.clear();
        // Writing a row into memory cannot fail.
        let _ = serde_json::to_writer(&mut self.text, row);
        self.hasher.write(&self.text);
        // After the first row that does not fit, no row is kept, so that the kept rows are consecutive.
        let fits = self.rows.bytes + self.text.len() <= self.room;
        if fits && self.rows.all.len() as u64 == self.total {
            self.rows.push(set, addr, &self.text);
        }
        self.total += 1;
    }

    /// Returns the list of all added rows.
    pub fn done(mut self) -> List {
        self.hasher.write_u64(self.total);
        let version = format!("{:016x}", self.hasher.finish());
        let rows = (self.room > 0).then(|| Arc::new(self.rows));
        List { total: self.total, version, rows: Mutex::new(rows) }
    }
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

/// A complete page.
pub struct Done {
    /// The page as JSON.
    pub text: Vec<u8>,
    /// The last row of this page, if more rows follow.
    pub next: Option<Cursor>,
}

impl Page {
    /// Creates an empty page of at most `limit` rows. `text` is the JSON before the rows.
    pub fn new(text: String, limit: usize) -> Page {
        let begin = text.len();
        Page { text: text.into_bytes(), rows: 0, limit, begin, next: None, last: None }
    }

    /// Ends the page with the row at `cursor`, unless the page has ended already.
    pub fn end_at(&mut self, cursor: Cursor) {
        self.next.get_or_insert(cursor);
    }

    /// Completes the page. `more` is the JSON of the fields after the rows.
    pub fn done(mut self, more: &str) -> Done {
        self.text.extend_from_slice(b"\n]");
        if let Some(cursor) = &self.next {
            let next = format!(",\"next\":{}", Value::from(cursor.to_string()));
            self.text.extend_from_slice(next.as_bytes());
        }
        self.text.extend_from_slice(more.as_bytes());
        self.text.extend_from_slice(b"}\n");
        Done { text: self.text, next: self.next }
    }

    /// Adds a row if the page is not full, and returns whether it was added. A full page ends with the last
    /// row that was added.
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

impl List {
    fn rows(&self) -> MutexGuard<'_, Option<Arc<Rows>>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether rows are kept in memory.
    pub fn has_rows(&self) -> bool {
        self.rows().is_some()
    }

    /// Drops the rows, which need much memory. Later pages are read from the store.
    pub fn drop_rows(&self) {
        self.rows().take();
    }

    /// Returns the page that a query selects from this list, which was read at `time`. Calls `read` if the
    /// page needs rows that are not kept. Returns `None` if the store no longer has any rows of the cursor's
    /// set.
    pub fn page<E>(
        &self,
        time: Time,
        is_cooling: bool,
        query: &Query,
        read: impl FnOnce(Rest) -> Result<(Page, bool), E>,
    ) -> Result<Option<Done>, E> {
        let name = if is_cooling { "cooling" } else { "leases" };
        let mut page = Page::new(format!("{{\"time\":\"{time}\",\"{name}\":["), query.limit);
        let rows = self.rows().clone().unwrap_or_default();
        let kept = query.after.as_ref().map_or(Some(0), |cursor| rows.behind(cursor));
        let mut found = kept.is_some();
        for at in kept.unwrap_or(rows.all.len())..rows.all.len() {
            let row = &rows.all[at].0;
            if query.matches_text(row) && !page.add(row, || rows.cursor(at)) {
                break;
            }
        }
        if page.next.is_none() && self.total > rows.all.len() as u64 {
            let end = rows.all.len().checked_sub(1).and_then(|at| rows.cursor(at));
            let from = if kept.is_some() { end } else { query.after.clone() };
            let was_there = found;
            (page, found) = read(Rest { query: query.clone(), from, page, is_cooling })?;
            found |= was_there;
        }
        if !found {
            return Ok(None);
        }
        let (total, version) = (self.total, &self.version);
        Ok(Some(page.done(&format!(",\"total\":{total},\"version\":\"{version}\""))))
    }
}

/// A partly filled page whose remaining rows must be read from the store.
pub struct Rest {
    query: Query,
    from: Option<Cursor>,
    page: Page,
    is_cooling: bool,
}

impl Rest {
    /// Fills the page with rows after the cursor. Also returns whether the cursor's set has rows.
    pub fn read(self, store: &mut dyn Store, cx: &Context) -> Result<(Page, bool), StoreError> {
        let Rest { query, from, mut page, is_cooling } = self;
        let mut seen = from.is_none();
        store.occupancy(cx, &mut |set, addr, holder| {
            let is_listed = matches!(holder, Holder::Cooling(_)) == is_cooling;
            if page.next.is_some() || !is_listed {
                return;
            }
            let is_after = match &from {
                Some(from) if *set == from.set => {
                    seen = true;
                    addr > from.addr
                }
                _ => seen,
            };
            let text = match holder {
                Holder::Leased(lease) if is_after => {
                    let row = LeaseRow::short(lease);
                    query.matches(&row).then(|| serde_json::to_vec(&row))
                }
                Holder::Cooling(cooling) if is_after => {
                    let row = CoolingRow::new(set, cooling);
                    query.matches_cooling(&row).then(|| serde_json::to_vec(&row))
                }
                _ => None,
            };
            // Writing a row into memory cannot fail.
            if let Some(Ok(text)) = text {
                page.add(&text, || Some(Cursor { set: set.clone(), addr }));
            }
        })?;
        Ok((page, seen))
    }
}
