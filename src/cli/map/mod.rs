//! `sublet map`: shows the address space as a picture.
//!
//! This module chooses the part of the address space to draw, and reads the state of that part from the
//! store.
//! Invariant: the cost grows with the number of leases, never with the number of addresses.

mod page;
mod picture;

use anyhow::{Result, anyhow};
use clap::Args;
use serde::Serialize;

use super::screen::{Screen, visible};
use super::{Call, OpenStore};
use crate::alloc::Holder;
use crate::error::shown_network;
use crate::model::Kind;
use crate::net::{Addr, Family, Span, Subnet, parse_cidr};
use crate::telemetry::usage::Extent;
use page::Piece;
use picture::{Count, Frame, Mark, Space, draw};

/// Draw the addresses of a network or a prefix.
///
/// Each cell is an address or a block of addresses. For a large IPv6 range, only the smallest prefix that
/// contains all leases is drawn; --zoom draws another part.
#[derive(Debug, Args)]
pub struct Map {
    /// A network, a pool, or a prefix (draws the addresses of all networks in it)
    #[arg(value_name = "NETWORK|CIDR")]
    what: String,
    /// Draw only this prefix
    #[arg(long, value_name = "CIDR", value_parser = subnet)]
    zoom: Option<Subnet>,
    /// Width in columns [default: the terminal's width, otherwise 80]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    width: Option<u16>,
    /// Height in lines [default: the terminal's height, otherwise 24]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    height: Option<u16>,
}

/// Parses a prefix on the command line.
pub(super) fn subnet(text: &str) -> Result<Subnet, String> {
    let net = parse_cidr(text).ok_or("use a prefix such as 10.1.0.0/16 or fd00::/64")?;
    Ok(net.into())
}

/// A range with at most this many host bits is drawn completely.
const WHOLE: u8 = 32;

/// The store's data about the part of the address space to draw.
struct Known {
    title: String,
    extents: Vec<Extent>,
    marks: Vec<(Addr, Mark)>,
}

impl Map {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open()?;
        // If the argument is not a prefix, it is the name of a network or the ID of a pool. Like a prefix, a
        // pool ID contains a slash, so only parsing can distinguish them.
        let prefix = subnet(&self.what).ok();
        let known = known(&self.what, prefix, &mut open)?;
        let wholes = match (self.zoom, prefix) {
            (None, Some(prefix)) => vec![prefix],
            (None, None) => pieces(&known),
            (Some(zoom), _) => {
                let whole = prefix.map_or_else(|| pieces(&known), |prefix| vec![prefix]);
                if !whole.iter().any(|piece| Span::from(*piece).overlaps(zoom.into())) {
                    let whole: Vec<String> = whole.iter().map(Subnet::to_string).collect();
                    let whole = whole.join(" and ");
                    return Err(match prefix {
                        Some(prefix) => {
                            anyhow!("the prefix {zoom} of `--zoom` is outside {prefix}")
                        }
                        None => anyhow!(
                            "the prefix {zoom} of `--zoom` is outside {} ({whole})",
                            known.title
                        ),
                    });
                }
                vec![zoom]
            }
        };
        let drawn =
            |whole| if self.zoom.is_some() { whole } else { inhabited(whole, &known.marks) };
        let pieces: Vec<Piece> = wholes
            .into_iter()
            .map(|whole| Piece { whole, space: space(drawn(whole), &known) })
            .collect();
        let frame = self.frame(call.screen);
        if call.as_json {
            let shapes: Vec<Shape> = pieces.iter().map(|piece| shape(piece, &frame)).collect();
            return call.json(&shapes);
        }
        page::print(&known.title, &pieces, &frame, &call.screen, &mut *call.stdout)
    }

    fn frame(&self, screen: Screen) -> Frame {
        let found = if screen.width == usize::MAX { 80 } else { screen.width };
        let lines = screen.height.unwrap_or(24);
        Frame {
            width: self.width.map_or(found, usize::from),
            height: self.height.map_or(lines, usize::from),
            color: screen.color,
            unicode: screen.unicode,
        }
    }
}

fn mark(holder: &Holder) -> Option<Mark> {
    Some(match holder {
        Holder::Free => return None,
        Holder::Cooling(_) => Mark::Cooling,
        Holder::Leased(lease) => match lease.kind {
            Kind::Dynamic | Kind::Static | Kind::Named => Mark::Used,
            Kind::Gateway | Kind::Aux => Mark::Gateway,
            Kind::Reserved => Mark::Reserved,
        },
    })
}

/// Reads the state of a prefix in all networks, or the state of a network or pool.
fn known(name: &str, prefix: Option<Subnet>, open: &mut OpenStore) -> Result<Known> {
    let mut extents = Extent::all(&open.store.networks(&open.cx)?, &open.store.pools()?);
    extents.retain(|e| prefix.map_or(e.network == name, |prefix| e.range.overlaps(prefix.into())));
    let mut marks = Vec::new();
    open.store.occupancy(&open.cx, &mut |set, addr, holder| {
        let is_wanted = prefix.map_or_else(
            || {
                // If networks share a set of leases, an address that one of them has leased is in use for all
                // of them.
                let shared = extents.iter().any(|e| e.set == *set && e.range.contains(addr));
                shared || matches!(holder, Holder::Leased(lease) if shown_network(lease) == name)
            },
            |prefix| prefix.contains(addr),
        );
        if is_wanted {
            marks.extend(mark(holder).map(|mark| (addr, mark)));
        }
    })?;
    if prefix.is_some() {
        // Several networks may lease the same address. The picture shows the address only once.
        marks.sort_by_key(|(addr, _)| *addr);
        marks.dedup_by_key(|(addr, _)| *addr);
        return Ok(Known { title: "all networks".to_owned(), extents, marks });
    }
    if extents.is_empty() && marks.is_empty() {
        return Err(anyhow!(
            "{} is neither a prefix nor a known network or pool in {}; run `sublet pools` to list networks \
             and pools",
            visible(name),
            open.place
        ));
    }
    Ok(Known { title: format!("network {}", visible(name)), extents, marks })
}

/// Returns the prefixes to draw for a network's ranges. Ranges that are close together are drawn as one
/// prefix.
fn pieces(known: &Known) -> Vec<Subnet> {
    let mut pieces = Vec::new();
    for family in [Family::V4, Family::V6] {
        let ranges: Vec<Span> =
            known.extents.iter().map(|e| e.range).filter(|r| r.first.family() == family).collect();
        let mut apart: Vec<Subnet> =
            ranges.iter().map(|range| range.first.enclosing(range.last)).collect();
        apart.sort_by_key(|s| (s.first(), s.len()));
        apart.dedup();
        let of_family = || known.marks.iter().map(|(a, _)| *a).filter(|a| a.family() == family);
        let bounds = match (apart.first(), apart.iter().map(|s| s.last()).max()) {
            (Some(first), Some(last)) => Some((first.first(), last)),
            // No ranges are known, so the prefix is determined from the leases.
            _ => of_family().min().zip(of_family().max()),
        };
        let Some((first, last)) = bounds else { continue };
        let together = first.enclosing(last);
        let room = apart.iter().map(|s| Span::from(*s).size()).fold(0_u128, u128::saturating_add);
        if apart.len() < 2 || Span::from(together).size() / 4 <= room {
            pieces.push(together);
        } else {
            pieces.append(&mut apart);
        }
    }
    pieces
}

/// Returns the part of a prefix to draw: the whole prefix or, if it is too large, the smallest prefix that
/// contains all addresses in use.
fn inhabited(whole: Subnet, marks: &[(Addr, Mark)]) -> Subnet {
    let bits = whole.family().bits();
    let inside = || marks.iter().map(|(addr, _)| *addr).filter(|addr| whole.contains(*addr));
    let (Some(first), Some(last)) = (inside().min(), inside().max()) else { return whole };
    if bits - whole.len() <= WHOLE {
        return whole;
    }
    // Draw at least 256 addresses.
    let len = first.enclosing(last).len().min(bits - 8).max(whole.len());
    Subnet::masked(first, len).unwrap_or(whole)
}

fn space(subnet: Subnet, known: &Known) -> Space {
    let mut bounds: Vec<Span> = known.extents.iter().map(|e| e.range).collect();
    let mut allocatable: Vec<Span> = known.extents.iter().flat_map(|e| e.gives.clone()).collect();
    if bounds.is_empty() {
        bounds.push(subnet.into());
        allocatable.push(subnet.into());
    }
    let inside = |(addr, _): &&(Addr, Mark)| subnet.contains(*addr);
    let marks = known.marks.iter().filter(inside).copied().collect();
    Space { subnet, allocatable: union(allocatable), bounds: union(bounds), marks }
}

/// Merges spans that overlap, so that the returned spans are disjoint.
fn union(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut all: Vec<Span> = Vec::new();
    for span in spans {
        match all.last_mut().filter(|last| last.overlaps(span)) {
            Some(last) => last.last = last.last.max(span.last),
            None => all.push(span),
        }
    }
    all
}

fn shape(piece: &Piece, frame: &Frame) -> Shape {
    let picture = draw(&piece.space, &page::alone(frame));
    let row = |(index, count): (&usize, &Count)| Cell {
        block: picture.block(piece.space.subnet, *index),
        count: *count,
        excluded: count.within.saturating_sub(count.allocatable),
    };
    Shape {
        space: piece.whole.to_string(),
        drawn: piece.space.subnet.to_string(),
        columns: picture.columns,
        cell_prefix: picture.cell,
        cells: picture.counts.iter().map(row).collect(),
    }
}

/// A picture as it is printed in JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    space: String,
    drawn: String,
    columns: usize,
    cell_prefix: u8,
    cells: Vec<Cell>,
}

/// A cell that is not empty, as it is printed in JSON.
#[derive(Serialize)]
struct Cell {
    block: String,
    #[serde(flatten)]
    count: Count,
    excluded: u128,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Addr {
        text.parse().unwrap()
    }

    #[test]
    fn the_smallest_prefix() {
        for (first, last, net) in [
            ("10.0.0.1", "10.0.0.254", "10.0.0.0/24"),
            ("10.0.0.1", "10.0.0.1", "10.0.0.1/32"),
            ("0.0.0.0", "255.255.255.255", "0.0.0.0/0"),
            ("fd00::1", "fd00::ffff", "fd00::/112"),
            ("::", "ffff::", "::/0"),
        ] {
            assert_eq!(addr(first).enclosing(addr(last)).to_string(), net);
        }
    }

    #[test]
    fn a_large_space_is_drawn_where_somebody_is() {
        let whole = subnet("fd00::/64").unwrap();
        let marks = [(addr("fd00::2"), Mark::Used), (addr("fd00::1:3"), Mark::Used)];
        assert_eq!(inhabited(whole, &marks).to_string(), "fd00::/111");
        assert_eq!(inhabited(whole, &marks[..1]).to_string(), "fd00::/120");
        assert_eq!(inhabited(whole, &[]), whole);
        let four = subnet("10.0.0.0/8").unwrap();
        assert_eq!(inhabited(four, &[(addr("10.0.0.2"), Mark::Used)]), four);
    }

    #[test]
    fn a_prefix_on_the_command_line() {
        assert_eq!(subnet("10.1.2.3/16").unwrap().to_string(), "10.1.0.0/16");
        for bad in ["10.1.2.3", "10.1.2.3/33", "/8", "x/8", "::/129", "10.0.0.0/-1"] {
            assert!(subnet(bad).is_err(), "{bad}");
        }
    }
}
