//! Defines the columns of each table. The cells are made from [`crate::rows`].

use super::screen::{Screen, Tone, visible};
use super::table::{Cell, Table, cell, maybe};
use crate::alloc::Draining;
use crate::model::{Kind, Lease, Timestamp, short};
use crate::net::{Addr, Span};
use crate::rows::{CounterRow, EventRow, GroupRow, LeaseRow, NodeRow, PoolRow, Str};
use crate::trends::about;

/// Returns a number with its noun, such as `1 lease` and `2 addresses`.
pub fn number_of(n: usize, noun: &str) -> String {
    let ending = match n {
        1 => "",
        _ if noun.ends_with('s') => "es",
        _ => "s",
    };
    format!("{n} {noun}{ending}")
}

/// Formats a lease for messages and questions: its address and network, then its holder with the pod first.
/// `more` is appended to the holder.
pub fn named(lease: &Lease, more: &str) -> String {
    let row = LeaseRow::new(lease);
    let container = row.id.as_ref().or(row.container_id.as_ref()).or(row.endpoint.as_ref());
    let container = container.map(|id| short(id));
    let holder = match (row.pod(), container) {
        (Some(pod), Some(id)) => format!("pod {pod}, container {id}"),
        (Some(pod), None) => format!("pod {pod}"),
        (None, Some(id)) => format!("container {id}"),
        (None, None) => row.kind.to_string(),
    };
    visible(&format!("{} of network {} ({holder}{more})", lease.addr, row.network))
}

/// Returns a cell with the first of `names` that is set, shortened like a container ID.
fn first(names: &[&Option<Str<'_>>]) -> Cell {
    cell(short(names.iter().find_map(|name| name.as_deref()).unwrap_or_default()))
}

/// Makes the cell for the kind of a lease. Kinds that have no container are highlighted.
fn kind(row: &LeaseRow<'_>) -> Cell {
    if row.draining {
        return cell(format!("{}, draining", row.kind)).toned(Tone::Odd);
    }
    match &*row.kind {
        "gateway" | "aux" => cell(&row.kind).toned(Tone::Gateway),
        "reserved" => cell(&row.kind).toned(Tone::Reserved),
        _ => cell(&row.kind),
    }
}

/// One line of a table of leases: a single lease, or reservations of consecutive addresses.
struct Line<'a> {
    row: LeaseRow<'a>,
    last: Addr,
}

impl<'a> Line<'a> {
    /// Groups the leases into lines. Reservations of consecutive addresses form one line if their other
    /// fields are equal.
    fn all(leases: &'a [Lease], draining: &[Draining]) -> Vec<Line<'a>> {
        let mut lines: Vec<Line<'a>> = Vec::new();
        for lease in leases {
            let row = listed(lease, draining);
            let is_next = |line: &&mut Line<'_>| {
                let other = &line.row;
                lease.kind == Kind::Reserved
                    && line.last.next() == Some(lease.addr)
                    && (&other.kind, &other.network) == (&row.kind, &row.network)
                    && (&other.note, &other.holder, &other.reserved_for, other.time)
                        == (&row.note, &row.holder, &row.reserved_for, row.time)
            };
            match lines.last_mut().filter(is_next) {
                Some(line) => line.last = lease.addr,
                None => lines.push(Line { row, last: lease.addr }),
            }
        }
        lines
    }

    fn address(&self) -> String {
        let first = self.row.address.0;
        if first == self.last { self.row.cidr() } else { range(first, self.last) }
    }
}

/// Returns the row of a lease, with `draining` set if the address is in a draining range.
pub fn listed<'a>(lease: &'a Lease, draining: &[Draining]) -> LeaseRow<'a> {
    let found = Draining::find(draining, &lease.set, lease.addr);
    // Only leases of containers are marked as draining. For reservations and gateways, draining makes no
    // difference.
    let is_draining = found.is_some() && lease.kind.collectable();
    LeaseRow { draining: is_draining, ..LeaseRow::new(lease) }
}

/// Formats a page of leases. `wide` adds columns. `widths` contains the column widths of the previous page,
/// and is updated for the next page.
pub fn leases(
    leases: &[Lease],
    draining: &[Draining],
    now: Timestamp,
    wide: bool,
    screen: &Screen,
    widths: &mut Vec<usize>,
) -> String {
    let mut table = Table::of(Line::all(leases, draining))
        .text("NETWORK", 8, |line| cell(&line.row.network))
        .text("POD", 12, |line| maybe(line.row.pod()))
        .whole("ADDRESS", |line| cell(line.address()))
        .text("CONTAINER", 8, |line| {
            let LeaseRow { id, container_id, endpoint, holder, note, .. } = &line.row;
            let container =
                [id, container_id, endpoint].iter().find_map(|id| id.as_deref()).map(short);
            let reserved_for = line.row.reserved_for.as_ref().map(|name| format!("for {name}"));
            let name = container.as_deref().or(reserved_for.as_deref()).or(note.as_deref());
            match (name, note.as_deref(), holder.as_deref()) {
                (Some(name), Some(note), _) if name != note => cell(format!("{name} ({note})")),
                (Some(name), _, Some(holder)) => cell(format!("{name} ({holder})")),
                (name, _, holder) => maybe(name.or(holder)),
            }
        })
        .whole("KIND", |line| kind(&line.row))
        .number("AGE", move |line| cell(age(now, line.row.time.0)))
        .whole("IFNAME", |line| maybe(line.row.ifname.as_ref()));
    if wide {
        table = table
            .whole("SINCE", |line| cell(line.row.time))
            .text("NODE", 8, |line| maybe(line.row.node.as_ref()))
            .whole("MAC", |line| maybe(line.row.mac.as_ref()))
            .text("NETNS", 12, |line| maybe(line.row.netns.as_ref()));
    }
    table.render_page(screen, widths)
}

/// Returns the time since `time` in kubectl's format: `45s`, `12m`, `5h`, `3d`.
pub fn age(now: Timestamp, time: Timestamp) -> String {
    let seconds = now.saturating_sub(time);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Formats events.
pub fn events(rows: &[EventRow<'_>], screen: &Screen) -> String {
    Table::of(rows)
        .whole("TIME", |row| cell(row.lease.time))
        .whole("EVENT", |row| cell(row.event))
        .whole("ADDRESS", |row| cell(row.lease.cidr()))
        .text("NETWORK", 8, |row| cell(&row.lease.network))
        .text("POD", 12, |row| maybe(row.lease.pod()))
        .text("CONTAINER", 12, |row| {
            let lease = &row.lease;
            let named = [&lease.id, &lease.container_id, &lease.endpoint, &lease.reserved_for];
            first(&[&named[..], &[&lease.holder, &lease.note]].concat())
        })
        .whole("BY", |row| maybe(row.face))
        .whole("IFNAME", |row| maybe(row.lease.ifname.as_ref()))
        .text("NODE", 8, |row| maybe(row.lease.node.as_ref()))
        .render(screen)
}

/// Formats nodes.
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

/// Formats the usage of ranges. Returns an empty string if there are no ranges.
pub fn usage(rows: &[PoolRow], screen: &Screen) -> String {
    let mut table = Table::of(rows)
        .text("NETWORK", 8, |row| cell(&row.network))
        .text("RANGE", 16, |row| cell(range(row.first.0, row.last.0)))
        .number("SIZE", |row| cell(count(row.size)))
        .number("USED", |row| cell(count(row.used)))
        .number("FREE", |row| cell(count(row.free)))
        .number("USE", |row| cell(percent(row.size, row.free)).toned(fullness(row.size, row.free)))
        .whole("", |row| {
            cell(bar(row.size, row.free, screen.unicode)).toned(fullness(row.size, row.free))
        });
    if rows.iter().any(|row| row.draining.is_some()) {
        table = table.whole("DRAINING", |row| {
            let ranges = row.draining_ranges.iter().map(|[first, last]| range(first.0, last.0));
            cell(ranges.collect::<Vec<_>>().join(" ")).toned(Tone::Odd)
        });
    }
    table = table
        .number("RESERVED", |row| cell(count(row.reserved)))
        .number("COOLING", |row| cell(count(row.cooling)))
        .number("GAP", |row| cell(count(row.largest_gap)));
    if rows.iter().any(|row| row.full_in.is_some()) {
        table = table.number("FULL IN", |row| maybe(row.full_in.map(about)).toned(Tone::Odd));
    }
    table.render(screen)
}

/// Formats ranges with the allocations and releases of the last hour. Returns an empty string if there are no
/// ranges.
pub fn rates(rows: &[PoolRow], screen: &Screen) -> String {
    Table::of(rows)
        .text("NETWORK", 8, |row| cell(&row.network))
        .text("RANGE", 16, |row| cell(range(row.first.0, row.last.0)))
        .number("USED", |row| cell(count(row.used)))
        .number("FREE", |row| cell(count(row.free)))
        .number("USE", |pool| {
            cell(percent(pool.size, pool.free)).toned(fullness(pool.size, pool.free))
        })
        .whole("", |pool| {
            cell(bar(pool.size, pool.free, screen.unicode)).toned(fullness(pool.size, pool.free))
        })
        .number("ADDED/H", |row| maybe(row.allocated_last_hour))
        .number("FREED/H", |row| maybe(row.released_last_hour))
        .number("FULL IN", |row| maybe(row.full_in.map(about)).toned(Tone::Odd))
        .render(screen)
}

/// Formats the address counts of networks, namespaces or nodes under this title. Returns an empty string if
/// there are no rows.
pub fn groups(rows: &[GroupRow], title: &'static str, screen: &Screen) -> String {
    let table = Table::of(rows).text(title, 8, |row| cell(row.name().unwrap_or("(none)")));
    if rows.iter().all(|row| row.size.is_none()) {
        return table.number("USED", |row| cell(count(row.used))).render(screen);
    }
    let number = |n: Option<u128>| maybe(n.map(count));
    let fill = |row: &GroupRow| (row.size.unwrap_or_default(), row.free.unwrap_or_default());
    table
        .whole("FAMILY", |row| maybe(row.family))
        .number("SIZE", move |row| number(row.size))
        .number("USED", |row| cell(count(row.used)))
        .number("FREE", move |row| number(row.free))
        .number("USE", move |row| {
            let (size, free) = fill(row);
            cell(percent(size, free)).toned(fullness(size, free))
        })
        .whole("", move |row| {
            let (size, free) = fill(row);
            cell(bar(size, free, screen.unicode)).toned(fullness(size, free))
        })
        .number("RESERVED", move |row| number(row.reserved))
        .number("COOLING", move |row| number(row.cooling))
        .render(screen)
}

/// Returns a range in short form. If the range consists of all hosts of a prefix, returns the prefix.
/// Otherwise returns FIRST-LAST, where an IPv4 LAST omits the numbers that both addresses begin with:
/// `10.0.0.1-199`.
fn range(first: Addr, last: Addr) -> String {
    if let Some(prefix) = Span::new(first, last).and_then(Span::prefix) {
        return prefix.to_string();
    }
    let (first, last) = (first.to_string(), last.to_string());
    let alike = first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
    let dot = first.get(..alike).and_then(|same| same.rfind('.')).map_or(0, |at| at + 1);
    format!("{first}-{}", &last[dot..])
}

/// Formats the number of requests of each kind. Returns an empty string if there were none.
pub fn counters(rows: &[CounterRow<'_>], screen: &Screen) -> String {
    Table::of(rows)
        .text("NETWORK", 8, |row| cell(row.network))
        .whole("FACE", |row| cell(row.face))
        .whole("COMMAND", |row| cell(row.command))
        .whole("OUTCOME", |row| cell(row.outcome))
        .number("COUNT", |row| cell(row.count))
        .render(screen)
}

/// Formats a number of addresses. A very large number is shown as a power of two.
pub fn count(n: u128) -> String {
    match n {
        0..=0xffff_ffff_ffff => n.to_string(),
        // For example, 2^64 - 2 is shown as ~2^64.
        _ => format!("~2^{}", 128 - (n - (n >> 8)).leading_zeros()),
    }
}

/// The length of a bar, in characters.
const BAR: u128 = 10;

/// Returns the percentage of a range that is not free: leased, reserved, cooling down or draining. It is
/// rounded down, but 0 % is shown only if all addresses are free.
fn percent(size: u128, free: u128) -> String {
    let taken = size.saturating_sub(free);
    match (taken.saturating_mul(100) / size.max(1), taken) {
        (0, 1..) => "<1%".to_owned(),
        (percent, _) => format!("{percent}%"),
    }
}

/// Returns a bar that shows the share of a range that is not free, rounded to whole characters. The bar is
/// full only if no address is free.
fn bar(size: u128, free: u128, unicode: bool) -> String {
    let taken = size.saturating_sub(free);
    // Multiplying the size of a large range by ten could overflow, so both numbers are scaled down.
    let scale = (size >> 64).max(1);
    let (part, whole) = (taken / scale, (size / scale).max(1));
    let filled = match free {
        0 if size > 0 => BAR,
        _ => ((2 * part * BAR + whole) / (2 * whole)).min(BAR - 1),
    };
    let (on, off) = if unicode { ('\u{2588}', '\u{2591}') } else { ('#', '.') };
    let filled = usize::try_from(filled).unwrap_or(0);
    let empty = usize::try_from(BAR).unwrap_or(0) - filled;
    std::iter::repeat_n(on, filled).chain(std::iter::repeat_n(off, empty)).collect()
}

fn fullness(size: u128, free: u128) -> Tone {
    match free {
        0 => Tone::Bad,
        free if free <= size / 5 => Tone::Odd,
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
    fn ages_are_short() {
        let of = |seconds: u64| age(10_000_000 + seconds, 10_000_000);
        let shown = [0, 119, 120, 7_199, 7_200, 172_799, 172_800].map(of);
        assert_eq!(shown, ["0s", "119s", "2m", "119m", "2h", "47h", "2d"]);
        assert_eq!(age(5, 10), "0s");
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
