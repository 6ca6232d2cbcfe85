//! `sublet list`: lists leases.
//!
//! Invariant: without `--sort`, rows are printed as they are read, so memory does not grow with the number
//! of leases.

use std::io::Write;

use anyhow::{Error, Result};
use clap::{Args, ValueEnum};

use super::map::subnet;
use super::open::is_pod;
use super::screen::{Progress, Screen};
use super::{Call, Format, Rows, tables};
use crate::alloc::Draining;
use crate::error::shown_network;
use crate::model::{Kind, Lease, Timestamp};
use crate::net::Subnet;
use crate::rows::LeaseRow;

/// List leases and reservations
///
/// Filters are combined: a lease is listed if it matches all of them.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    filter: Filter,
    /// Sort by this column [default: network and address]
    #[arg(long, value_enum, value_name = "COLUMN")]
    sort: Option<Column>,
    /// Print at most N rows
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// The filter options of `list`.
#[derive(Debug, Args)]
pub struct Filter {
    /// Only this network or Docker pool
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// Only this pod: its name, or namespace/name
    #[arg(long, value_name = "POD")]
    pod: Option<String>,
    /// Only pods of this namespace
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Only leases that this node made
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Only this kind: dynamic, static, named, gateway, aux or reserved
    #[arg(long, value_name = "KIND", value_parser = kind)]
    kind: Option<Kind>,
    /// Only addresses in this prefix
    #[arg(long, value_name = "CIDR", value_parser = subnet)]
    prefix: Option<Subnet>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Column {
    Network,
    Pod,
    Address,
    Container,
    Node,
    /// Newest first
    Age,
}

impl Filter {
    fn passes(&self, lease: &Lease) -> bool {
        let pod = lease.origin.pod.as_ref();
        self.network.as_deref().is_none_or(|name| shown_network(lease) == name)
            && self.pod.as_ref().is_none_or(|name| is_pod(name, &lease.origin))
            && self.namespace.as_ref().is_none_or(|n| pod.is_some_and(|p| p.namespace == *n))
            && self.node.as_ref().is_none_or(|name| lease.node.name == *name)
            && self.kind.is_none_or(|kind| lease.kind == kind)
            && self.prefix.is_none_or(|prefix| prefix.contains(lease.addr))
    }
}

impl Column {
    /// Returns a lease's sort key for this column. Keys are compared byte by byte. Leases without a value
    /// come last.
    fn key(self, lease: &Lease) -> Vec<u8> {
        let text = |text: Option<&str>| match text {
            Some(text) => [b"\0", text.as_bytes()].concat(),
            None => vec![1],
        };
        match self {
            Column::Network => text(Some(shown_network(lease))),
            Column::Pod => {
                let pod = lease.origin.pod.as_ref();
                text(pod.map(|pod| format!("{}\0{}", pod.namespace, pod.name)).as_deref())
            }
            Column::Address => {
                let (family, bits) = (lease.addr.family().bits(), lease.addr.bits());
                [&[family][..], &bits.to_be_bytes()].concat()
            }
            Column::Container => text(lease.attachment().map(|a| a.container.as_str())),
            Column::Node => text(Some(&*lease.node.name).filter(|name| !name.is_empty())),
            Column::Age => (Timestamp::MAX - lease.time).to_be_bytes().to_vec(),
        }
    }
}

/// The leases read so far, which will be sorted by a column.
struct Sorted {
    column: Column,
    leases: Vec<Sortable>,
}

/// A lease and its sort key. The lease is stored as JSON, which needs much less memory than a [`Lease`].
struct Sortable {
    key: Box<[u8]>,
    json: Box<[u8]>,
}

impl Sorted {
    fn push(&mut self, lease: &Lease) -> serde_json::Result<()> {
        let json = serde_json::to_vec(&LeaseRow::new(lease))?;
        self.leases.push(Sortable { key: self.column.key(lease).into(), json: json.into() });
        Ok(())
    }

    fn finish(mut self) -> impl Iterator<Item = Result<Lease>> {
        self.leases.sort_by(|one, other| one.key.cmp(&other.key));
        self.leases.into_iter().map(|lease| {
            serde_json::from_slice::<LeaseRow<'_>>(&lease.json)?.into_lease().map_err(Error::msg)
        })
    }
}

/// Parses the kind of a lease on the command line.
fn kind(text: &str) -> Result<Kind, &'static str> {
    Kind::from_word(text).ok_or("use `dynamic`, `static`, `named`, `gateway`, `aux` or `reserved`")
}

impl List {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open()?;
        let limit = self.limit.unwrap_or(usize::MAX);
        let draining = open.store.draining(&open.cx)?;
        let mut printer = Printer::new(call.format, call.screen, open.cx.now, draining);
        let mut sorted = self.sort.map(|column| Sorted { column, leases: Vec::new() });
        let (mut count, mut done) = (0, Ok(()));
        let mut busy = Some(Progress::new(None, "reading the leases"));
        // The store holds no lock while a row is printed, so a slow reader of the output delays no other
        // process.
        open.store.list(&open.cx, &mut |lease| {
            if done.is_err() || count >= limit || !self.filter.passes(&lease) {
                return;
            }
            if let Some(sorted) = &mut sorted {
                done = sorted.push(&lease).map_err(Error::from);
            } else {
                busy = None;
                count += 1;
                done = printer.push(lease, call.stdout);
            }
        })?;
        drop(busy);
        done?;
        for lease in sorted.into_iter().flat_map(Sorted::finish).take(limit) {
            count += 1;
            printer.push(lease?, call.stdout)?;
        }
        if count == 0 {
            open.check_network(self.filter.network.as_deref())?;
            if matches!(call.format, Format::Table | Format::Wide) {
                writeln!(call.stderr, "no leases in {}", open.place)?;
            }
        }
        printer.finish(call.stdout)
    }
}

/// The number of rows in a page of a table. Column widths are determined page by page: if a later page has a
/// wider cell, the column becomes wider on that page.
const PAGE: usize = 1000;

/// Prints leases as they are read.
struct Printer {
    format: Format,
    screen: Screen,
    now: Timestamp,
    rows: Rows,
    draining: Vec<Draining>,
    page: Vec<Lease>,
    widths: Vec<usize>,
}

impl Printer {
    fn new(format: Format, screen: Screen, now: Timestamp, draining: Vec<Draining>) -> Printer {
        // With `-o wide`, tables are not cut to the width of the screen.
        let width = if format == Format::Wide { usize::MAX } else { screen.width };
        let (screen, rows) = (Screen { width, ..screen }, Rows::new(format));
        Printer { format, screen, now, rows, draining, page: Vec::new(), widths: Vec::new() }
    }

    fn push(&mut self, lease: Lease, out: &mut dyn Write) -> Result<()> {
        match self.format {
            Format::Json | Format::Yaml => {
                self.rows.push(&tables::listed(&lease, &self.draining))?;
                self.rows.drain(out)?;
            }
            Format::Name => writeln!(out, "{}", lease.addr)?,
            Format::Table | Format::Wide => {
                // A page does not end after a reservation, because consecutive reservations form one row.
                let is_full = self.page.len() >= PAGE && lease.kind != Kind::Reserved;
                self.page.push(lease);
                if is_full {
                    self.print_page(out)?;
                }
            }
        }
        Ok(())
    }

    fn print_page(&mut self, out: &mut dyn Write) -> Result<()> {
        let is_wide = self.format == Format::Wide;
        let (page, draining) = (&self.page, &self.draining);
        let widths = &mut self.widths;
        let text = tables::leases(page, draining, self.now, is_wide, &self.screen, widths);
        self.page.clear();
        Ok(out.write_all(text.as_bytes())?)
    }

    fn finish(mut self, out: &mut dyn Write) -> Result<()> {
        match self.format {
            Format::Json | Format::Yaml => Ok(out.write_all(&self.rows.finish())?),
            Format::Name => Ok(()),
            Format::Table | Format::Wide => self.print_page(out),
        }
    }
}
