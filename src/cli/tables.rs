//! The columns of each table; cells are made from [`crate::rows`].

use super::screen::{Screen, Tone};
use super::table::{Cell, Table, cell, maybe};
use crate::net::{Addr, Span, hosts};
use crate::rows::{CounterRow, EventRow, LeaseRow, NodeRow, PoolRow, Str};

/// Characters of a container's ID that are shown.
const LONGEST_ID: usize = 24;

/// The first of these that is there, not longer than a container's ID is shown.
fn first(names: &[&Option<Str<'_>>]) -> Cell {
    let name = names.iter().find_map(|name| name.as_deref()).unwrap_or_default();
    cell(name.chars().take(LONGEST_ID).collect::<String>())
}

/// The kind; one that is no container's stands out.
fn kind(row: &LeaseRow<'_>) -> Cell {
    match &*row.kind {
        "gateway" | "aux" => cell(&row.kind).toned(Tone::Gateway),
        "reserved" => cell(&row.kind).toned(Tone::Reserved),
        _ => cell(&row.kind),
    }
}

/// Leases.
pub fn leases<'a>(rows: impl Iterator<Item = LeaseRow<'a>>, screen: &Screen) -> String {
    Table::of(rows)
        .text("NETWORK", 8, |row| cell(&row.network))
        .whole("ADDRESS", |row| cell(row.cidr()))
        .whole("KIND", |row| kind(row))
        .text("CONTAINER", 12, |row| first(&[&row.id, &row.container_id, &row.endpoint]))
        .whole("IFNAME", |row| maybe(row.ifname.as_ref()))
        .text("POD", 12, |row| maybe(row.pod()))
        .whole("SINCE", |row| cell(row.time))
        .render(screen)
}

/// Events.
pub fn events(rows: &[EventRow<'_>], screen: &Screen) -> String {
    Table::of(rows)
        .whole("TIME", |row| cell(row.lease.time))
        .whole("EVENT", |row| cell(row.event))
        .whole("ADDRESS", |row| cell(row.lease.cidr()))
        .text("NETWORK", 8, |row| cell(&row.lease.network))
        .text("CONTAINER", 12, |row| {
            let lease = &row.lease;
            first(&[&lease.id, &lease.container_id, &lease.endpoint, &lease.holder, &lease.note])
        })
        .whole("BY", |row| maybe(row.face))
        .text("POD", 12, |row| maybe(row.lease.pod()))
        .whole("IFNAME", |row| maybe(row.lease.ifname.as_ref()))
        .text("NODE", 8, |row| maybe(row.lease.node.as_ref()))
        .render(screen)
}

/// Nodes.
pub fn nodes(rows: &[NodeRow], screen: &Screen) -> String {
    Table::of(rows)
        .text("NODE", 8, |row| cell(&row.node))
        .text("MACHINE-ID", 12, |row| cell(&row.machine_id))
        .number("LEASES", |row| cell(row.leases))
        .number("POOLS", |row| cell(row.pools))
        .whole("BOOT SINCE", |row| maybe(row.boot_since))
        .whole("LAST LEASE", |row| maybe(row.last_lease))
        .render(screen)
}

/// How full ranges are; empty if there is none.
pub fn usage(rows: &[PoolRow], screen: &Screen) -> String {
    Table::of(rows)
        .text("NETWORK", 8, |row| cell(&row.network))
        .text("RANGE", 16, |row| cell(range(row.first.0, row.last.0)))
        .number("SIZE", |row| cell(count(row.size)))
        .number("USED", |row| cell(count(row.used)))
        .number("FREE", |row| cell(count(row.free)))
        .number("GAP", |row| cell(count(row.largest_gap)))
        .number("RESERVED", |row| cell(count(row.reserved)))
        .number("COOLING", |row| cell(count(row.cooling)))
        .whole("FILL", |row| cell(bar(row, screen.unicode)).toned(fullness(row)))
        .render(screen)
}

/// A range in short: as a prefix if it has all hosts of one, else without the beginning that the last address
/// shares with the first.
fn range(first: Addr, last: Addr) -> String {
    let prefix = first.enclosing(last);
    let span = Span::new(first, last);
    if span == Some(hosts(prefix)) || span == Some(prefix.into()) {
        return prefix.to_string();
    }
    let (first, last) = (first.to_string(), last.to_string());
    let alike = first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
    let dot = first.get(..alike).and_then(|same| same.rfind('.')).map_or(0, |at| at + 1);
    format!("{first}-{}", &last[dot..])
}

/// How often each kind of request was made; empty if none was.
pub fn counters(rows: &[CounterRow<'_>], screen: &Screen) -> String {
    Table::of(rows)
        .text("NETWORK", 8, |row| cell(row.network))
        .whole("FACE", |row| cell(row.face))
        .whole("COMMAND", |row| cell(row.command))
        .whole("OUTCOME", |row| cell(row.outcome))
        .number("COUNT", |row| cell(row.count))
        .render(screen)
}

/// A number of addresses; a very large one as a power of two.
pub fn count(n: u128) -> String {
    match n {
        0..=0xffff_ffff_ffff => n.to_string(),
        // 2^64 - 2 is 2^64 as well.
        _ => format!("~2^{}", 128 - (n - (n >> 8)).leading_zeros()),
    }
}

/// Characters of a bar.
const BAR: u128 = 10;

/// How much of a range is taken: at least one character of the bar once anything is, and never all
/// of it while something is free.
fn bar(usage: &PoolRow, unicode: bool) -> String {
    let taken = usage.size.saturating_sub(usage.free);
    let share = |n: u128| n / (usage.size / BAR).max(1);
    let filled = match (taken, usage.free) {
        (0, _) => 0,
        (_, 0) => BAR,
        // Of a range of fewer addresses than characters the share would be too coarse.
        _ if usage.size < BAR * BAR => (taken * BAR / usage.size.max(1)).clamp(1, BAR - 1),
        _ => share(taken).clamp(1, BAR - 1),
    };
    let (on, off) = if unicode { ('\u{2588}', '\u{2591}') } else { ('#', '.') };
    let filled = usize::try_from(filled).unwrap_or(0);
    let empty = usize::try_from(BAR).unwrap_or(0) - filled;
    std::iter::repeat_n(on, filled).chain(std::iter::repeat_n(off, empty)).collect()
}

fn fullness(usage: &PoolRow) -> Tone {
    match usage.free {
        0 => Tone::Bad,
        free if free <= usage.size / 10 => Tone::Odd,
        _ => Tone::Good,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_short() {
        for (first, last, shown) in [
            ("10.0.0.1", "10.0.0.254", "10.0.0.0/24"),
            ("10.0.0.0", "10.0.0.255", "10.0.0.0/24"),
            ("10.0.0.1", "10.0.0.199", "10.0.0.1-199"),
            ("10.0.0.1", "10.0.3.7", "10.0.0.1-3.7"),
            ("10.0.0.7", "10.0.0.7", "10.0.0.7/32"),
            ("9.0.0.1", "10.0.0.7", "9.0.0.1-10.0.0.7"),
            ("fd00::1", "fd00::ffff:ffff:ffff:ffff", "fd00::/64"),
            ("fd00::1", "fd00::9", "fd00::1-fd00::9"),
        ] {
            assert_eq!(range(first.parse().unwrap(), last.parse().unwrap()), shown);
        }
    }

    #[test]
    fn large_numbers_are_powers_of_two() {
        assert_eq!(count(16_777_213), "16777213");
        assert_eq!(count((1 << 64) - 2), "~2^64");
        assert_eq!(count(1 << 64), "~2^64");
        assert_eq!(count(1 << 127), "~2^127");
        assert_eq!(count(u128::MAX), "~2^128");
    }
}
