//! `sublet explain`: shows what is known about an address, and what to do next.
//!
//! Invariant: the command changes nothing. It reports a container as running or gone only if there is
//! evidence, and it gathers the evidence after it has read the leases.

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;
use serde_with::skip_serializing_none;

use super::screen::visible;
use super::tables::{age, events, named, usage};
use super::{Call, OpenStore, UNIQUE};
use crate::alloc::{Draining, Holder};
use crate::error::shown_network;
use crate::liveness;
use crate::liveness::stale;
use crate::liveness::stale::{Liveness, Verdict};
use crate::model::{Event, Kind, Lease, SetName, Timestamp};
use crate::net::{Addr, Span};
use crate::rows::{EventRow, LeaseRow, PoolRow, Text, Time};
use crate::telemetry::usage::Usage;

/// Explain who holds an address, and what to do next
///
/// For each address: its state, the evidence that its container runs or is gone, its last events, how full
/// its range is, and a next command that is safe to run.
#[derive(Debug, Args)]
pub struct Explain {
    /// An address, leased or free; a container ID or a prefix of an ID; an ECS id; a pod as namespace/name
    #[arg(value_name = "ADDRESS|CONTAINER|POD")]
    name: String,
    /// Search only this network
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
}

/// The maximum number of events that are shown for each address.
const LATEST: usize = 5;

/// The known facts about an address.
#[skip_serializing_none]
#[derive(Serialize)]
struct Row<'a> {
    network: &'a str,
    address: Text<Addr>,
    /// The state of the address: `leased`, `reserved`, `gateway`, `aux`, `cooling`, `draining`, `free`, or
    /// `notAllocatable`.
    state: &'static str,
    lease: Option<LeaseRow<'a>>,
    /// When the address stops cooling down.
    until: Option<Time>,
    /// The draining range that contains the address.
    draining: Option<DrainingRow>,
    /// The state of the lease's container: `running`, `gone` or `unknown`.
    container: Option<&'static str>,
    /// The evidence for the container's state.
    reason: Option<&'a str>,
    /// The last events of the address, oldest first.
    events: Vec<EventRow<'a>>,
    /// The ranges that contain the address.
    ranges: Vec<&'a PoolRow>,
    /// The next command for the operator. Running it is safe.
    next: Option<String>,
}

/// A draining range: no new address is leased from it.
#[derive(Serialize)]
struct DrainingRow {
    first: Text<Addr>,
    last: Text<Addr>,
    since: Time,
}

impl Explain {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open()?;
        let network = self.network.as_deref();
        let addr: Option<Addr> = self.name.parse().ok();
        // An address may have no lease, so an empty list is valid. A listing that fails is an error, because
        // only a complete listing proves that the address has no holder.
        let leases = match addr {
            Some(addr) => {
                let is_here = |lease: &Lease| network.is_none_or(|n| shown_network(lease) == n);
                open.leases(&|lease| lease.addr == addr && is_here(lease))?
            }
            None => match open.named(&self.name, UNIQUE, network) {
                Ok(leases) => leases,
                Err(_) => open.named(&self.name, 1, network)?,
            },
        };
        let cx = call.world.facts.context();
        // Examine leases of any age: a grace period is not needed, because this command frees nothing.
        let evidence = liveness::evidence(&leases, &cx, 0, true, Vec::new());
        let verdicts = stale::assess(&leases, &evidence);
        let all = open.usage(None)?;
        let ranges = open.pool_trends(&all)?;
        let is_named = |set: &SetName, found: Addr| match addr {
            Some(addr) => found == addr,
            None => leases.iter().any(|lease| lease.set == *set && lease.addr == found),
        };
        let history =
            open.store.history(&open.cx, &mut |event| is_named(&event.set, event.addr))?;
        let draining = open.store.draining(&open.cx)?;
        let about = About { all: &all, ranges: &ranges, history: &history, draining: &draining };
        let mut rows: Vec<Row<'_>> = leases
            .iter()
            .zip(&verdicts)
            .map(|(lease, verdict)| about.lease(lease, verdict))
            .collect();
        if let Some(addr) = addr.filter(|_| leases.is_empty()) {
            let cooling = cooling(&mut open, addr)?;
            let is_here = |usage: &&Usage| {
                usage.extent.range.contains(addr)
                    && network.is_none_or(|n| usage.extent.network == n)
            };
            rows.extend(
                all.iter().filter(is_here).map(|usage| about.unleased(usage, addr, &cooling)),
            );
        }
        if rows.is_empty() {
            open.check_network(network)?;
            bail!(
                "{} is outside every range in {}; run `sublet pools` to list the ranges",
                self.name,
                open.place
            );
        }
        if call.as_json {
            return call.json_rows(&rows);
        }
        for (i, row) in rows.iter().enumerate() {
            if i > 0 {
                writeln!(call.stdout)?;
            }
            print(row, leases.get(i), open.cx.now, call)?;
        }
        Ok(())
    }
}

/// Returns each set of leases in which an address is cooling down, with the time when the cooldown ends.
fn cooling(open: &mut OpenStore, addr: Addr) -> Result<Vec<(SetName, Timestamp)>> {
    let (mut found, now) = (Vec::new(), open.cx.now);
    open.store.occupancy(&open.cx, &mut |set, other, holder| {
        if let (true, Holder::Cooling(c)) = (other == addr, holder)
            && c.until > now
        {
            found.push((set.clone(), c.until));
        }
    })?;
    Ok(found)
}

/// The data from the store that rows are made from.
struct About<'a> {
    all: &'a [Usage],
    /// The rows of all ranges, in the order of `all`.
    ranges: &'a [PoolRow],
    history: &'a [Event],
    draining: &'a [Draining],
}

impl<'a> About<'a> {
    fn of(&self, network: &'a str, set: &SetName, addr: Addr, state: &'static str) -> Row<'a> {
        let is_around = |(usage, _): &(&Usage, _)| {
            usage.extent.set == *set && usage.extent.range.contains(addr)
        };
        let mut events: Vec<EventRow<'_>> = self
            .history
            .iter()
            .filter(|event| event.set == *set && event.addr == addr)
            .map(EventRow::new)
            .collect();
        events.drain(..events.len().saturating_sub(LATEST));
        let draining = Draining::find(self.draining, set, addr).map(|range| DrainingRow {
            first: Text(range.span.first),
            last: Text(range.span.last),
            since: Time(range.since),
        });
        Row {
            network,
            address: Text(addr),
            // `draining` replaces only `free`, because the other states already explain why the address is
            // not available.
            state: if state == "free" && draining.is_some() { "draining" } else { state },
            lease: None,
            until: None,
            draining,
            container: None,
            reason: None,
            events,
            ranges: self
                .all
                .iter()
                .zip(self.ranges)
                .filter(is_around)
                .map(|(_, row)| row)
                .collect(),
            next: None,
        }
    }

    fn lease(&self, lease: &'a Lease, verdict: &'a Liveness) -> Row<'a> {
        let state = match lease.kind {
            Kind::Reserved => "reserved",
            Kind::Gateway => "gateway",
            Kind::Aux => "aux",
            _ => "leased",
        };
        let Verdict { container, reason, next } = verdict.verdict(lease);
        Row {
            lease: Some(LeaseRow::new(lease)),
            container,
            reason,
            next,
            ..self.of(shown_network(lease), &lease.set, lease.addr, state)
        }
    }

    fn unleased(&self, usage: &'a Usage, addr: Addr, cooling: &[(SetName, Timestamp)]) -> Row<'a> {
        let extent = &usage.extent;
        let until = cooling.iter().find(|(set, _)| *set == extent.set).map(|(_, until)| *until);
        let state = match until {
            Some(_) => "cooling",
            None if extent.gives.iter().any(|span| span.contains(addr)) => "free",
            None => "notAllocatable",
        };
        Row { until: until.map(Time), ..self.of(&extent.network, &extent.set, addr, state) }
    }
}

fn print(row: &Row<'_>, lease: Option<&Lease>, now: Timestamp, call: &mut Call<'_>) -> Result<()> {
    let out = &mut *call.stdout;
    let place = format!("{} of network {}", row.address.0, row.network);
    match (row.state, lease, row.until) {
        ("leased", Some(lease), _) => {
            let since = format!("since {} ({} ago)", Time(lease.time), age(now, lease.time));
            writeln!(out, "{} is leased {since}", named(lease, ""))?;
        }
        (_, Some(lease), _) => {
            writeln!(out, "{} is not allocated to containers", named(lease, ""))?;
        }
        (_, _, Some(Time(until))) => {
            writeln!(out, "{place} is cooling down until {}", Time(until))?;
        }
        ("free", ..) => writeln!(out, "{place} is free")?,
        ("draining", ..) => writeln!(out, "{place} is not leased")?,
        _ => writeln!(out, "{place} is not allocatable: the address is a gateway or excluded")?,
    }
    if let Some(DrainingRow { first, last, since: Time(since) }) = &row.draining
        && let Some(span) = Span::new(first.0, last.0)
    {
        let (range, network) = (span.brief(), visible(row.network));
        writeln!(
            out,
            "no new addresses are leased from {range}, which has been draining since {} ({} ago); to stop \
             draining, run `sublet drain {network} {range} --undo`",
            Time(*since),
            age(now, *since)
        )?;
    }
    if let (Some(container), Some(reason)) = (row.container, row.reason) {
        let what = match container {
            "running" => "the container is running",
            "gone" => "the container is gone",
            _ => "cannot determine whether the container is running",
        };
        writeln!(out, "{what}: {reason}")?;
    }
    if let Some(next) = &row.next {
        writeln!(out, "next: {next}")?;
    }
    if !row.events.is_empty() {
        write!(out, "{}", events(&row.events, &call.screen))?;
    }
    let ranges: Vec<PoolRow> = row.ranges.iter().copied().cloned().collect();
    Ok(write!(out, "{}", usage(&ranges, &call.screen))?)
}
