//! A piece of the address space as a picture of characters.
//!
//! Owns: which cell an address falls in, what a cell shows, both orders. Does not own: where the
//! addresses come from.
//! Invariant: the work grows with the number of marks and of cells, never with that of addresses.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anstyle::{Ansi256Color, Color, Style};
use clap::ValueEnum;

use crate::net::{Addr, Span, Subnet};

/// How the addresses run through the picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// Along a Hilbert curve: what is near in number is near in the picture, and a prefix is a square
    #[default]
    Hilbert,
    /// Row by row, each with its first address
    Rows,
}

/// What is at one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A lease.
    Used,
    /// Set aside.
    Reserved,
    /// A gateway, leased to nobody.
    Gateway,
    /// Freed, and kept back.
    Cooling,
}

/// What there is to be drawn.
#[derive(Clone, Debug)]
pub struct Space {
    /// The piece of the address space.
    pub subnet: Subnet,
    /// What can be given out in it.
    pub gives: Vec<Span>,
    /// First to last address of each range: what of it cannot be given out is excluded.
    pub bounds: Vec<Span>,
    /// What is known of single addresses, each at most once.
    pub marks: Vec<(Addr, Mark)>,
}

/// What it is drawn on.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Columns.
    pub width: usize,
    /// Lines.
    pub height: usize,
    /// By which way.
    pub order: Order,
    /// Colours tell the states; else characters do.
    pub colour: bool,
    /// Block characters can be shown.
    pub unicode: bool,
}

/// What one cell stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Leased.
    pub used: u128,
    /// Set aside.
    pub reserved: u128,
    /// Gateways.
    pub gateway: u128,
    /// Kept back.
    pub cooling: u128,
    /// What can be given out, taken or not.
    pub gives: u128,
    /// What lies between the bounds of a range.
    pub within: u128,
}

/// A picture.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Prefix length of a cell, in bits.
    pub cell: u8,
    /// Cells in a row.
    pub columns: usize,
    /// Cells that are not empty, by their place in the address space.
    pub counts: BTreeMap<usize, Count>,
    /// Its lines.
    pub lines: Vec<String>,
}

impl Picture {
    /// The addresses of a cell.
    pub fn block(&self, subnet: Subnet, index: usize) -> String {
        let inner = u32::from(subnet.family().bits() - self.cell);
        let offset = u128::try_from(index).unwrap_or(0).checked_shl(inner).unwrap_or(0);
        let first = Addr::from_bits(subnet.family(), subnet.first().bits() + offset);
        first.map(|addr| addr.prefix(self.cell).to_string()).unwrap_or_default()
    }

    /// What there is to be seen.
    pub fn looks(&self) -> Vec<Look> {
        let mut looks: Vec<Look> = Vec::new();
        for look in self.counts.values().map(Look::of) {
            if !looks.contains(&look) {
                looks.push(look);
            }
        }
        looks
    }
}

/// How a cell looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// In no range.
    Outside,
    /// Can be given out, and nothing of it is.
    Free,
    /// Less than a third is leased.
    Few,
    /// Less than two thirds.
    Half,
    /// Not all.
    Most,
    /// All that can be.
    Full,
    /// Set aside.
    Reserved,
    /// A gateway's.
    Gateway,
    /// Kept back.
    Cooling,
    /// Never given out: excluded, or the gateway that a configuration names.
    Excluded,
}

/// All looks with their names, for the legend.
pub const LEGEND: [(Look, &str); 10] = [
    (Look::Full, "full"),
    (Look::Most, "over 2/3"),
    (Look::Half, "over 1/3"),
    (Look::Few, "some"),
    (Look::Free, "free"),
    (Look::Reserved, "reserved"),
    (Look::Gateway, "gateway"),
    (Look::Cooling, "cooling"),
    (Look::Excluded, "never given"),
    (Look::Outside, "in no range"),
];

impl Look {
    fn of(count: &Count) -> Look {
        // What a reservation takes out of a range is no share of what can be leased.
        let leasable = count.gives.saturating_sub(count.reserved);
        match count.used {
            0 if count.reserved > 0 => Look::Reserved,
            0 if count.cooling > 0 => Look::Cooling,
            0 if count.gives > 0 => Look::Free,
            0 if count.gateway > 0 => Look::Gateway,
            0 if count.within > 0 => Look::Excluded,
            0 => Look::Outside,
            used if used >= leasable => Look::Full,
            used if used / 2 >= leasable / 3 => Look::Most,
            used if used >= leasable / 3 => Look::Half,
            _ => Look::Few,
        }
    }

    /// The character that tells it where no colour does.
    pub fn glyph(self, unicode: bool) -> char {
        let (block, plain) = match self {
            Look::Full => ('\u{2588}', '#'),
            Look::Most => ('\u{2593}', '%'),
            Look::Half => ('\u{2592}', '+'),
            Look::Few => ('\u{2591}', '-'),
            Look::Free => ('\u{b7}', '.'),
            Look::Reserved => ('R', 'R'),
            Look::Gateway => ('G', 'G'),
            Look::Cooling => ('~', '~'),
            Look::Excluded => ('x', 'x'),
            Look::Outside => (' ', ' '),
        };
        if unicode { block } else { plain }
    }

    /// Its colour, of the 256 that terminals share.
    pub const fn colour(self) -> u8 {
        match self {
            Look::Outside => 233,
            Look::Free => 240,
            Look::Few => 22,
            Look::Half => 28,
            Look::Most => 34,
            Look::Full => 40,
            Look::Reserved => 127,
            Look::Gateway => 33,
            Look::Cooling => 44,
            Look::Excluded => 94,
        }
    }

    /// The sample in the legend.
    pub fn sample(self, frame: &Frame) -> String {
        if !frame.colour {
            return self.glyph(frame.unicode).to_string();
        }
        let glyph = if frame.unicode { '\u{2588}' } else { self.glyph(false) };
        let style = foreground(self);
        format!("{style}{glyph}{style:#}")
    }
}

fn foreground(look: Look) -> Style {
    Style::new().fg_color(Some(Color::Ansi256(Ansi256Color(look.colour()))))
}

/// Draws it.
pub fn draw(space: &Space, frame: &Frame) -> Picture {
    let host = space.subnet.family().bits() - space.subnet.len();
    let grid = Grid::fit(host, space.subnet, frame);
    let cell = space.subnet.len() + grid.bits;
    let counts = grid.count(space);
    let looks: Vec<Vec<Look>> = (0..grid.rows)
        .map(|y| {
            (0..grid.columns)
                .map(|x| counts.get(&grid.index(x, y)).map_or(Look::Outside, Look::of))
                .collect()
        })
        .collect();
    let lines = if frame.order == Order::Rows {
        let label = |y: usize| grid.first(space.subnet, grid.index(0, y));
        let labels: Vec<String> = (0..grid.rows).map(label).collect();
        let widest = labels.iter().map(String::len).max().unwrap_or(0);
        let line = |(label, row): (&String, &Vec<Look>)| {
            format!("{label:>widest$} {}", characters(row, 1, frame))
        };
        labels.iter().zip(&looks).map(line).collect()
    } else if frame.colour && frame.unicode {
        looks.chunks(2).map(halves).collect()
    } else {
        looks.iter().map(|row| characters(row, 2, frame)).collect()
    };
    Picture { cell, columns: grid.columns, counts, lines }
}

/// The cells.
struct Grid {
    /// 2^bits cells.
    bits: u8,
    /// Bits of an address inside of a cell.
    inner: u8,
    columns: usize,
    rows: usize,
    order: Order,
}

/// So many cells are enough for any screen.
const MOST_BITS: u8 = 16;

impl Grid {
    /// As many cells as there is room for, and no more than addresses.
    fn fit(host: u8, subnet: Subnet, frame: &Frame) -> Grid {
        let floor = |n: usize| u8::try_from(n.max(1).ilog2()).unwrap_or(0);
        let most = host.min(MOST_BITS);
        let (bits, across) = match frame.order {
            Order::Rows => {
                let label = subnet.last().to_string().len().max(subnet.first().to_string().len());
                let across = floor(frame.width.saturating_sub(label + 1)).min(most);
                ((across + floor(frame.height)).min(most), across)
            }
            Order::Hilbert => {
                // A cell is half a character high, or two characters wide.
                let halves = frame.colour && frame.unicode;
                let (wide, high) = if halves { (1, 2) } else { (2, 1) };
                let (across, down) = (floor(frame.width / wide), floor(frame.height * high));
                // Squares, or two of them side by side.
                let bits = if across > down { 2 * down + 1 } else { 2 * across };
                let bits = bits.min(most);
                (bits, bits.div_ceil(2))
            }
        };
        let columns = 1 << across;
        Grid { bits, inner: host - bits, columns, rows: 1 << (bits - across), order: frame.order }
    }

    /// The place in the address space of a cell.
    fn index(&self, x: usize, y: usize) -> usize {
        match self.order {
            Order::Rows => y * self.columns + x,
            Order::Hilbert => {
                let side = self.rows;
                side * side * (x / side) + along(side, x % side, y)
            }
        }
    }

    fn first(&self, subnet: Subnet, index: usize) -> String {
        let offset = u128::try_from(index).unwrap_or(0).checked_shl(u32::from(self.inner));
        let bits = subnet.first().bits() + offset.unwrap_or(0);
        Addr::from_bits(subnet.family(), bits).map(|a| a.to_string()).unwrap_or_default()
    }

    fn cell_of(&self, subnet: Subnet, addr: Addr) -> usize {
        let offset = addr.bits() - subnet.first().bits();
        usize::try_from(offset.checked_shr(u32::from(self.inner)).unwrap_or(0)).unwrap_or(0)
    }

    fn count(&self, space: &Space) -> BTreeMap<usize, Count> {
        let mut counts: BTreeMap<usize, Count> = BTreeMap::new();
        for (addr, mark) in space.marks.iter().filter(|(a, _)| space.subnet.contains(*a)) {
            let count = counts.entry(self.cell_of(space.subnet, *addr)).or_default();
            let number = match mark {
                Mark::Used => &mut count.used,
                Mark::Reserved => &mut count.reserved,
                Mark::Gateway => &mut count.gateway,
                Mark::Cooling => &mut count.cooling,
            };
            *number += 1;
        }
        self.spread(space, &space.gives, &mut counts, |count| &mut count.gives);
        self.spread(space, &space.bounds, &mut counts, |count| &mut count.within);
        counts
    }

    /// Counts the addresses of spans, cell by cell.
    fn spread(
        &self,
        space: &Space,
        spans: &[Span],
        counts: &mut BTreeMap<usize, Count>,
        number: fn(&mut Count) -> &mut u128,
    ) {
        let subnet = space.subnet;
        for span in spans.iter().filter(|s| s.first.family() == subnet.family()) {
            let inside = span.starting(subnet.first()).and_then(|s| s.up_to(subnet.last()));
            let Some(span) = inside else { continue };
            let (from, to) = (self.cell_of(subnet, span.first), self.cell_of(subnet, span.last));
            let host = |addr: Addr| addr.bits() - subnet.first().bits();
            for cell in from..=to {
                let base = u128::try_from(cell).unwrap_or(0) << self.inner.min(127);
                let last = base.saturating_add((1_u128 << self.inner.min(127)) - 1);
                let taken = host(span.last).min(last) - host(span.first).max(base);
                let number = number(counts.entry(cell).or_default());
                *number = number.saturating_add(taken).saturating_add(1);
            }
        }
    }
}

/// How far along a Hilbert curve in a square the cell at `x`, `y` lies; `side` is a power of two. The
/// curve begins at the top left and ends at the top right.
fn along(side: usize, mut x: usize, mut y: usize) -> usize {
    let mut distance = 0;
    let mut half = side / 2;
    while half > 0 {
        let (right, below) = (usize::from(x & half > 0), usize::from(y & half > 0));
        distance += half * half * ((3 * right) ^ below);
        if below == 0 {
            if right == 1 {
                (x, y) = (side - 1 - x, side - 1 - y);
            }
            std::mem::swap(&mut x, &mut y);
        }
        half /= 2;
    }
    distance
}

/// A row of cells, each of them `wide` characters.
fn characters(row: &[Look], wide: usize, frame: &Frame) -> String {
    let mut out = String::new();
    for run in row.chunk_by(|a, b| a == b) {
        let look = run[0];
        let text: String =
            std::iter::repeat_n(look.glyph(frame.unicode), run.len() * wide).collect();
        if frame.colour && look != Look::Outside {
            let style = foreground(look);
            let _ = write!(out, "{style}{text}{style:#}");
        } else {
            out += &text;
        }
    }
    out.trim_end().to_owned()
}

/// Two rows of cells in one line: the upper one is the characters' colour, the lower the ground's.
fn halves(rows: &[Vec<Look>]) -> String {
    let mut out = String::new();
    let upper = &rows[0];
    let cells: Vec<(Look, Option<Look>)> = upper
        .iter()
        .enumerate()
        .map(|(x, look)| (*look, rows.get(1).and_then(|row| row.get(x)).copied()))
        .collect();
    for run in cells.chunk_by(|a, b| a == b) {
        let (upper, lower) = run[0];
        let ground = lower.map(|look| Color::Ansi256(Ansi256Color(look.colour())));
        let style = foreground(upper).bg_color(ground);
        let text: String = std::iter::repeat_n('\u{2580}', run.len()).collect();
        let _ = write!(out, "{style}{text}{style:#}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        let (addr, len) = text.split_once('/').unwrap();
        Subnet::new(addr.parse().unwrap(), len.parse().unwrap()).unwrap()
    }

    fn span(first: &str, last: &str) -> Span {
        Span::new(first.parse().unwrap(), last.parse().unwrap()).unwrap()
    }

    const FRAME: Frame =
        Frame { width: 80, height: 16, order: Order::Rows, colour: false, unicode: false };

    fn space(net: &str, marks: &[(&str, Mark)]) -> Space {
        let subnet = subnet(net);
        Space {
            subnet,
            gives: vec![crate::net::hosts(subnet)],
            bounds: vec![Span::from(subnet)],
            marks: marks.iter().map(|(a, m)| (a.parse().unwrap(), *m)).collect(),
        }
    }

    #[test]
    fn rows_of_single_addresses() {
        let mut space = space(
            "10.0.0.0/28",
            &[
                ("10.0.0.2", Mark::Used),
                ("10.0.0.3", Mark::Reserved),
                ("10.0.0.4", Mark::Cooling),
                ("10.0.0.1", Mark::Gateway),
            ],
        );
        space.gives = vec![span("10.0.0.2", "10.0.0.8")];
        space.bounds = vec![span("10.0.0.1", "10.0.0.9")];
        let picture = draw(&space, &FRAME);
        assert_eq!(picture.cell, 32);
        assert_eq!(picture.lines, ["10.0.0.0  G#R~....x"]);
    }

    #[test]
    fn a_prefix_is_a_square_of_the_curve() {
        for side in [1_usize, 2, 4, 16] {
            let mut seen: Vec<(usize, (usize, usize))> = (0..side)
                .flat_map(|y| (0..side).map(move |x| (along(side, x, y), (x, y))))
                .collect();
            seen.sort_unstable();
            assert!(seen.iter().enumerate().all(|(i, (d, _))| i == *d), "side {side}");
            for pair in seen.windows(2) {
                let ((_, (ax, ay)), (_, (bx, by))) = (pair[0], pair[1]);
                assert_eq!(ax.abs_diff(bx) + ay.abs_diff(by), 1, "side {side}: {pair:?}");
            }
            assert_eq!((seen[0].1, seen[side * side - 1].1), ((0, 0), (side - 1, 0)));
        }
    }

    #[test]
    fn any_prefix_on_any_screen() {
        let nets = ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/23", "10.0.0.0/31", "10.0.0.1/32"];
        let more = ["::/0", "8000::/1", "fd00::/63", "fd00::/64", "fd00::/127", "fd00::1/128"];
        for net in nets.iter().chain(&more) {
            for (width, height) in [(1, 1), (7, 3), (80, 18), (200, 44), (10_000, 10_000)] {
                for order in [Order::Hilbert, Order::Rows] {
                    for (colour, unicode) in [(false, false), (true, true), (true, false)] {
                        let frame = Frame { width, height, order, colour, unicode };
                        let first = subnet(net).first().to_string();
                        let picture = draw(&space(net, &[(&first, Mark::Used)]), &frame);
                        assert!(picture.lines.len() <= height, "{net} {frame:?}");
                        assert!(picture.counts.values().map(|c| c.used).sum::<u128>() == 1);
                        let plain = anstream::adapter::strip_str(&picture.lines[0]).to_string();
                        let room = width.max(if order == Order::Rows { 42 } else { 2 });
                        assert!(plain.chars().count() <= room, "{net} {frame:?} {plain:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_shade_of_a_block_is_its_fill() {
        let full = Count { used: 6, gives: 6, within: 6, ..Count::default() };
        for (used, look) in [(0, Look::Free), (1, Look::Few), (2, Look::Half), (4, Look::Most)] {
            assert_eq!(Look::of(&Count { used, ..full }), look, "{used}");
        }
        assert_eq!(Look::of(&full), Look::Full);
        // Not one of the leasable ones is left.
        assert_eq!(Look::of(&Count { used: 4, reserved: 2, ..full }), Look::Full);
    }

    #[test]
    fn two_cells_share_a_character() {
        let frame = Frame { order: Order::Hilbert, colour: true, unicode: true, ..FRAME };
        let picture = draw(&space("10.0.0.0/28", &[("10.0.0.3", Mark::Used)]), &frame);
        assert_eq!((picture.columns, picture.lines.len()), (4, 2));
        let plain = anstream::adapter::strip_str(&picture.lines[0]).to_string();
        assert_eq!(plain, "\u{2580}".repeat(4));
        // Its upper or its lower half.
        let full = format!("8;5;{}m", Look::Full.colour());
        assert!(picture.lines[0].contains(&full), "{:?}", picture.lines);
    }
}
