//! Draws a piece of the address space with characters, along a Hilbert curve. On this curve, consecutive
//! addresses are next to each other in the picture, and a prefix is a square or two adjacent squares.
//!
//! Invariant: the work grows with the number of cells and the number of addresses that are not free, never
//! with the size of the address space.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anstyle::{Ansi256Color, Color, Style};
use serde::Serialize;

use crate::net::{Addr, Span, Subnet};

/// The state of an address that is not free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The address is leased.
    Used,
    /// The address is reserved.
    Reserved,
    /// The address is leased as a gateway or as an auxiliary address, not to a container.
    Gateway,
    /// The address is cooling down.
    Cooling,
}

/// The subnet that a picture shows, and the states of its addresses.
#[derive(Clone, Debug)]
pub struct Space {
    /// The subnet to draw.
    pub subnet: Subnet,
    /// The spans from which addresses are allocated.
    pub allocatable: Vec<Span>,
    /// The first and last address of each range. An address between them that is not allocatable is excluded,
    /// or is the configured gateway.
    pub bounds: Vec<Span>,
    /// The addresses that are not free, with their states. Each address occurs at most once.
    pub marks: Vec<(Addr, Mark)>,
}

/// The size and the capabilities of the screen area for a picture.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// The number of columns.
    pub width: usize,
    /// The number of lines.
    pub height: usize,
    /// Whether colors show the states of addresses; otherwise different characters do.
    pub color: bool,
    /// Whether block characters can be shown.
    pub unicode: bool,
}

impl Frame {
    /// Returns the number of rows of cells that one line of text shows. With color and Unicode, a line shows
    /// two rows: a character shows the upper cell in its foreground color, and the lower cell in its
    /// background color. Otherwise a line shows one row, and a cell is two characters wide.
    fn rows_in_line(&self) -> usize {
        if self.color && self.unicode { 2 } else { 1 }
    }
}

/// The number of addresses of each kind in one cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// The number of leased addresses.
    pub used: u128,
    /// The number of reserved addresses.
    pub reserved: u128,
    /// The number of gateways and auxiliary addresses.
    pub gateway: u128,
    /// The number of addresses that are cooling down.
    pub cooling: u128,
    /// The number of allocatable addresses, whether they are in use or free.
    #[serde(rename = "size")]
    pub allocatable: u128,
    /// The number of addresses between the first and last address of a range.
    #[serde(skip)]
    pub within: u128,
}

/// A picture of a part of the address space.
#[derive(Clone, Debug)]
pub struct Picture {
    /// The prefix length of the block of addresses that a cell shows.
    pub cell: u8,
    /// The number of cells in a row.
    pub columns: usize,
    /// The cells with at least one counted address, by index. Cells are numbered in the order of their
    /// addresses.
    pub counts: BTreeMap<usize, Count>,
    /// The different looks of the cells in this picture.
    pub looks: Vec<Look>,
    /// The lines of text.
    pub lines: Vec<String>,
}

impl Picture {
    /// Returns the block of addresses that a cell shows, as a prefix.
    pub fn block(&self, subnet: Subnet, index: usize) -> String {
        let inner = u32::from(subnet.family().bits() - self.cell);
        let offset = u128::try_from(index).unwrap_or(0).checked_shl(inner).unwrap_or(0);
        let first = Addr::from_bits(subnet.family(), subnet.first().bits() + offset);
        first.map(|addr| addr.prefix(self.cell).to_string()).unwrap_or_default()
    }
}

/// The look of a cell: how the state of its addresses is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// The name of the look in the legend.
    name: &'static str,
    /// The character for the look without color: first in Unicode, then in ASCII.
    glyphs: (char, char),
    /// The color of the look, one of the terminal's 256 colors.
    color: u8,
}

/// All looks, in the order of the legend.
pub const LEGEND: [Look; 10] = [
    Look::FULL,
    Look::MOST,
    Look::HALF,
    Look::FEW,
    Look::FREE,
    Look::RESERVED,
    Look::GATEWAY,
    Look::COOLING,
    Look::EXCLUDED,
    Look::OUTSIDE,
];

impl Look {
    /// All addresses that can be leased are leased.
    pub const FULL: Look = Look::new("full", ('\u{2588}', '#'), 40);
    /// At least two thirds of the addresses that can be leased are leased.
    const MOST: Look = Look::new("2/3 or more", ('\u{2593}', '%'), 34);
    /// At least one third, but less than two thirds, is leased.
    const HALF: Look = Look::new("1/3 or more", ('\u{2592}', '+'), 28);
    /// Less than one third is leased.
    const FEW: Look = Look::new("some", ('\u{2591}', '-'), 22);
    /// No address is in use.
    const FREE: Look = Look::new("free", ('\u{b7}', '.'), 240);
    const RESERVED: Look = Look::new("reserved", ('R', 'R'), 127);
    const GATEWAY: Look = Look::new("gateway", ('G', 'G'), 33);
    const COOLING: Look = Look::new("cooling", ('~', '~'), 44);
    /// Never allocated: excluded, or the configured gateway.
    const EXCLUDED: Look = Look::new("never allocated", ('x', 'x'), 94);
    const OUTSIDE: Look = Look::new("in no range", (' ', ' '), 233);

    const fn new(name: &'static str, glyphs: (char, char), color: u8) -> Look {
        Look { name, glyphs, color }
    }

    /// Returns the name of the look in the legend, for a cell that shows a single address or a block.
    pub fn name(self, single: bool) -> String {
        match self {
            Look::FULL if single => "leased".to_owned(),
            Look::RESERVED | Look::COOLING if !single => format!("some {}", self.name),
            _ => self.name.to_owned(),
        }
    }

    /// Returns the look of a cell with these counts.
    pub fn of(count: &Count) -> Look {
        // Reserved addresses cannot be leased.
        let leasable = count.allocatable.saturating_sub(count.reserved);
        match count.used {
            0 if count.reserved > 0 => Look::RESERVED,
            0 if count.cooling > 0 => Look::COOLING,
            0 if count.allocatable > 0 => Look::FREE,
            0 if count.gateway > 0 => Look::GATEWAY,
            0 if count.within > 0 => Look::EXCLUDED,
            0 => Look::OUTSIDE,
            used if used >= leasable => Look::FULL,
            used if used >= leasable - leasable / 3 => Look::MOST,
            used if used >= leasable.div_ceil(3) => Look::HALF,
            _ => Look::FEW,
        }
    }

    /// Returns a sample cell for the legend.
    pub fn sample(self, frame: &Frame) -> String {
        if frame.rows_in_line() == 1 {
            let sample = line(&[vec![self]], frame);
            return if sample.is_empty() { "blank:".to_owned() } else { sample };
        }
        let style = foreground(self);
        format!("{style}\u{2588}{style:#}")
    }
}

fn foreground(look: Look) -> Style {
    Style::new().fg_color(Some(Color::Ansi256(Ansi256Color(look.color))))
}

/// Draws `space` as a picture that fits into `frame`.
pub fn draw(space: &Space, frame: &Frame) -> Picture {
    let host = space.subnet.family().bits() - space.subnet.len();
    let grid = Grid::fit(host, frame);
    let cell = space.subnet.len() + grid.bits;
    let counts = grid.count(space);
    let looks: Vec<Vec<Look>> = (0..grid.rows)
        .map(|y| {
            (0..grid.columns)
                .map(|x| counts.get(&grid.index(x, y)).map_or(Look::OUTSIDE, Look::of))
                .collect()
        })
        .collect();
    let lines = looks.chunks(frame.rows_in_line()).map(|rows| line(rows, frame)).collect();
    let all = || looks.iter().flatten();
    let looks = LEGEND.into_iter().filter(|look| all().any(|other| other == look)).collect();
    Picture { cell, columns: grid.columns, counts, looks, lines }
}

/// The division of a subnet into cells.
struct Grid {
    /// The grid has 2^bits cells.
    bits: u8,
    /// A cell has 2^inner addresses.
    inner: u8,
    columns: usize,
    rows: usize,
}

/// The maximum of [`Grid::bits`]: enough cells for any screen.
const MOST_BITS: u8 = 16;

impl Grid {
    /// Returns the largest grid that fits into the frame and has no more cells than the subnet has addresses.
    /// `host` is the subnet's number of host bits.
    fn fit(host: u8, frame: &Frame) -> Grid {
        let floor = |n: usize| u8::try_from(n.max(1).ilog2()).unwrap_or(0);
        let high = frame.rows_in_line();
        let wide = if high == 1 { 2 } else { 1 };
        let (across, down) = (floor(frame.width / wide), floor(frame.height * high));
        // The picture is one square, or two squares next to each other.
        let bits = if across > down { 2 * down + 1 } else { 2 * across };
        let bits = bits.min(host).min(MOST_BITS);
        let across = bits.div_ceil(2);
        Grid { bits, inner: host - bits, columns: 1 << across, rows: 1 << (bits - across) }
    }

    /// Returns the index of the cell at column `x` and row `y`. Cells are numbered in the order of their
    /// addresses.
    fn index(&self, x: usize, y: usize) -> usize {
        let side = self.rows;
        side * side * (x / side) + along(side, x % side, y)
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
        self.spread(space, &space.allocatable, &mut counts, |count| &mut count.allocatable);
        self.spread(space, &space.bounds, &mut counts, |count| &mut count.within);
        counts
    }

    /// Adds the number of addresses in each span to the counts of the cells that the span covers.
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

/// Returns the distance along a Hilbert curve from its start to the cell at `x`, `y`. The curve fills a
/// square and runs from the top left to the top right. `side` is a power of two.
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

/// Returns one line of text, which shows one or two rows of cells.
fn line(rows: &[Vec<Look>], frame: &Frame) -> String {
    let below = |x: usize| rows.get(1).map(|row| row[x]);
    let cells: Vec<(Look, Option<Look>)> =
        rows[0].iter().enumerate().map(|(x, look)| (*look, below(x))).collect();
    let mut out = String::new();
    for run in cells.chunk_by(|a, b| a == b) {
        let (look, below) = run[0];
        let (glyph, wide) = match frame.rows_in_line() {
            1 => (if frame.unicode { look.glyphs.0 } else { look.glyphs.1 }, 2),
            _ => ('\u{2580}', 1),
        };
        let text = glyph.to_string().repeat(run.len() * wide);
        if frame.color && glyph != ' ' {
            let ground = below.map(|look| Color::Ansi256(Ansi256Color(look.color)));
            let style = foreground(look).bg_color(ground);
            let _ = write!(out, "{style}{text}{style:#}");
        } else {
            out += &text;
        }
    }
    out.trim_end().to_owned()
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

    const FRAME: Frame = Frame { width: 80, height: 16, color: false, unicode: false };

    fn space(net: &str, marks: &[(&str, Mark)]) -> Space {
        let subnet = subnet(net);
        Space {
            subnet,
            allocatable: vec![crate::net::hosts(subnet)],
            bounds: vec![Span::from(subnet)],
            marks: marks.iter().map(|(a, m)| (a.parse().unwrap(), *m)).collect(),
        }
    }

    #[test]
    fn single_addresses() {
        let mut space = space(
            "10.0.0.0/28",
            &[
                ("10.0.0.2", Mark::Used),
                ("10.0.0.3", Mark::Reserved),
                ("10.0.0.4", Mark::Cooling),
                ("10.0.0.1", Mark::Gateway),
            ],
        );
        space.allocatable = vec![span("10.0.0.2", "10.0.0.8")];
        space.bounds = vec![span("10.0.0.1", "10.0.0.9")];
        let picture = draw(&space, &FRAME);
        assert_eq!(picture.cell, 32);
        assert_eq!(picture.lines, ["  GG", "RR##", "~~....", "....xx"]);
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
                for (color, unicode) in [(false, false), (true, true), (true, false)] {
                    let frame = Frame { width, height, color, unicode };
                    let first = subnet(net).first().to_string();
                    let picture = draw(&space(net, &[(&first, Mark::Used)]), &frame);
                    assert!(picture.lines.len() <= height, "{net} {frame:?}");
                    assert!(picture.counts.values().map(|c| c.used).sum::<u128>() == 1);
                    let plain = anstream::adapter::strip_str(&picture.lines[0]).to_string();
                    assert!(plain.chars().count() <= width.max(2), "{net} {frame:?} {plain:?}");
                }
            }
        }
    }

    #[test]
    fn the_shade_of_a_block_is_its_fill() {
        let full = Count { used: 6, allocatable: 6, within: 6, ..Count::default() };
        for (used, look) in [(0, Look::FREE), (1, Look::FEW), (2, Look::HALF), (4, Look::MOST)] {
            assert_eq!(Look::of(&Count { used, ..full }), look, "{used}");
        }
        assert_eq!(Look::of(&full), Look::FULL);
        // All leasable addresses are leased.
        assert_eq!(Look::of(&Count { used: 4, reserved: 2, ..full }), Look::FULL);
    }

    #[test]
    fn two_cells_share_a_character() {
        let frame = Frame { color: true, unicode: true, ..FRAME };
        let picture = draw(&space("10.0.0.0/28", &[("10.0.0.3", Mark::Used)]), &frame);
        assert_eq!((picture.columns, picture.lines.len()), (4, 2));
        let plain = anstream::adapter::strip_str(&picture.lines[0]).to_string();
        assert_eq!(plain, "\u{2580}".repeat(4));
        // One cell is full and the other is not, so one half of the character has the color.
        let full = format!("8;5;{}m", Look::FULL.color);
        assert!(picture.lines[0].contains(&full), "{:?}", picture.lines);
    }
}
