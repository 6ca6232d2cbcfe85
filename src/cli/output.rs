//! Rows as JSON, and the pieces of text that commands print of them.

use std::io::{self, Write};

use serde::Serialize;

use crate::model::Lease;
use crate::rows::{CounterRow, LeaseRow, PoolRow};

/// Text from outside, without anything that could steer a terminal.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// Writes a JSON array, lease by lease: no list is held in memory for it.
pub struct JsonArray<'a> {
    out: &'a mut dyn Write,
    empty: bool,
}

impl<'a> JsonArray<'a> {
    /// Nothing is written before the first lease, or the end.
    pub fn new(out: &'a mut dyn Write) -> JsonArray<'a> {
        JsonArray { out, empty: true }
    }

    /// One lease.
    pub fn push(&mut self, lease: &Lease) -> io::Result<()> {
        self.out.write_all(if self.empty { b"[\n  " } else { b",\n  " })?;
        self.empty = false;
        Ok(serde_json::to_writer(&mut *self.out, &LeaseRow::new(lease))?)
    }

    /// Ends; an empty one is `[]`.
    pub fn end(self) -> io::Result<()> {
        self.out.write_all(if self.empty { b"[]\n" } else { b"\n]\n" })?;
        self.out.flush()
    }
}

/// Writes one JSON document, whole.
pub fn json<T: Serialize>(out: &mut dyn Write, value: &T) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    out.write_all(b"\n")
}

/// What `stats` prints.
#[derive(Serialize)]
pub struct Stats<'a> {
    /// How full each range is.
    pub pools: &'a [PoolRow],
    /// How often what was asked for.
    pub requests: &'a [CounterRow<'a>],
}

/// A network as a whole, as it is shown.
#[derive(Serialize)]
pub struct NetworkRow<'a> {
    /// Its name, or a pool's.
    pub network: &'a str,
    /// The set of its leases, where that is not its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<&'a str>,
    /// How many addresses are leased to it.
    pub leases: usize,
    /// Its ranges.
    pub ranges: &'a [PoolRow],
}
