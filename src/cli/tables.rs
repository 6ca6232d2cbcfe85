//! Tables for a person: the rows of `output`, with the columns that one looks for first.
//!
//! Owns: which columns there are, and what stands out. Does not own: their width (`table`).

use super::output::{CounterRow, EventRow, Row, UsageRow, visible};
use super::screen::{Screen, Tone};
use super::table::{Cell, Column, number, render, text, whole};
use crate::model::{Counter, Event, Kind, Lease};
use crate::net::{Span, hosts};
use crate::telemetry::usage::Usage;

/// More of a container's ID tells nobody anything.
const LONGEST_ID: usize = 24;

fn id(text: &str) -> String {
    visible(&text.chars().take(LONGEST_ID).collect::<String>())
}

/// What is leased to no container stands out.
fn tone(kind: Kind) -> Option<Tone> {
    match kind {
        Kind::Dynamic | Kind::Static => None,
        Kind::Gateway | Kind::Aux => Some(Tone::Gateway),
        Kind::Reserved => Some(Tone::Reserved),
    }
}

/// Leases.
pub fn leases(all: &[Lease], screen: &Screen) -> String {
    const COLUMNS: &[Column] = &[
        text("NETWORK", 8),
        whole("ADDRESS"),
        whole("KIND"),
        text("CONTAINER", 12),
        whole("IFNAME"),
        text("POD", 12),
        whole("SINCE"),
    ];
    let row = |lease: &Lease| -> Vec<Cell> {
        let row = Row::new(lease);
        let named = [row.id, row.container_id, row.endpoint];
        let container = named.into_iter().find(|n| !n.is_empty()).unwrap_or_default();
        vec![
            visible(row.network).into(),
            format!("{}/{}", row.address, row.prefix).into(),
            Cell::toned(row.kind, tone(lease.kind)),
            id(container).into(),
            visible(row.ifname).into(),
            row.pod().into(),
            row.time.into(),
        ]
    };
    let rows: Vec<Vec<Cell>> = all.iter().map(row).collect();
    render(COLUMNS, &rows, screen)
}

/// What happened.
pub fn events(all: &[Event], screen: &Screen) -> String {
    const COLUMNS: &[Column] = &[
        whole("TIME"),
        whole("EVENT"),
        whole("ADDRESS"),
        text("NETWORK", 8),
        text("CONTAINER", 12),
        whole("BY"),
        text("POD", 12),
        whole("IFNAME"),
        text("NODE", 8),
    ];
    let rows: Vec<Vec<Cell>> = all.iter().map(event).collect();
    render(COLUMNS, &rows, screen)
}

fn event(event: &Event) -> Vec<Cell> {
    let row = EventRow::new(event);
    let named = [row.id, row.container_id, row.endpoint, row.holder, row.note];
    let container = named.into_iter().find(|n| !n.is_empty()).unwrap_or_default();
    let pod = match row.pod_name {
        "" => String::new(),
        name => visible(&format!("{}/{name}", row.pod_namespace)),
    };
    vec![
        row.time.into(),
        row.event.into(),
        row.address.into(),
        visible(row.network).into(),
        id(container).into(),
        row.face.into(),
        pod.into(),
        visible(row.ifname).into(),
        visible(row.node).into(),
    ]
}

/// How full ranges are; empty if there is none.
pub fn usage(all: &[Usage], screen: &Screen) -> String {
    const COLUMNS: &[Column] = &[
        text("NETWORK", 8),
        text("RANGE", 16),
        number("SIZE"),
        number("USED"),
        number("FREE"),
        number("GAP"),
        number("RESERVED"),
        number("COOLING"),
        whole("FILL"),
    ];
    if all.is_empty() {
        return String::new();
    }
    let row = |usage: &Usage| -> Vec<Cell> {
        let row = UsageRow::new(usage);
        vec![
            visible(row.network).into(),
            range(usage.extent.range).into(),
            count(row.size).into(),
            count(row.used).into(),
            count(row.free).into(),
            count(usage.gap.map_or(0, Span::size)).into(),
            count(row.reserved).into(),
            count(row.cooling).into(),
            Cell::toned(bar(usage, screen.unicode), Some(fullness(usage))),
        ]
    };
    let rows: Vec<Vec<Cell>> = all.iter().map(row).collect();
    render(COLUMNS, &rows, screen)
}

/// A range as short as it can be told: all hosts of a prefix as that, else without repeating of the
/// last address what it shares with the first.
fn range(span: Span) -> String {
    let (first, last) = (span.first.to_string(), span.last.to_string());
    let prefix = span.first.enclosing(span.last);
    if hosts(prefix) == span || Span::from(prefix) == span {
        return prefix.to_string();
    }
    let alike = first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
    let dot = first.get(..alike).and_then(|same| same.rfind('.')).map_or(0, |at| at + 1);
    format!("{first}-{}", &last[dot..])
}

/// How often what was asked for; empty if nothing was.
pub fn counters(all: &[Counter], screen: &Screen) -> String {
    const COLUMNS: &[Column] =
        &[text("NETWORK", 8), whole("FACE"), whole("COMMAND"), whole("OUTCOME"), number("COUNT")];
    if all.is_empty() {
        return String::new();
    }
    let row = |counter: &Counter| -> Vec<Cell> {
        let row = CounterRow::new(counter);
        let network = visible(row.network);
        vec![
            network.into(),
            row.face.into(),
            row.command.into(),
            row.outcome.into(),
            row.count.to_string().into(),
        ]
    };
    let rows: Vec<Vec<Cell>> = all.iter().map(row).collect();
    render(COLUMNS, &rows, screen)
}

/// A number of addresses: one that nobody can take in is told as a power of two.
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
fn bar(usage: &Usage, unicode: bool) -> String {
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

fn fullness(usage: &Usage) -> Tone {
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
    fn ranges_are_told_shortly() {
        for (first, last, told) in [
            ("10.0.0.1", "10.0.0.254", "10.0.0.0/24"),
            ("10.0.0.0", "10.0.0.255", "10.0.0.0/24"),
            ("10.0.0.1", "10.0.0.199", "10.0.0.1-199"),
            ("10.0.0.1", "10.0.3.7", "10.0.0.1-3.7"),
            ("10.0.0.7", "10.0.0.7", "10.0.0.7/32"),
            ("9.0.0.1", "10.0.0.7", "9.0.0.1-10.0.0.7"),
            ("fd00::1", "fd00::ffff:ffff:ffff:ffff", "fd00::/64"),
            ("fd00::1", "fd00::9", "fd00::1-fd00::9"),
        ] {
            let span = Span::new(first.parse().unwrap(), last.parse().unwrap()).unwrap();
            assert_eq!(range(span), told);
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
