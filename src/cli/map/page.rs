//! Prints the output of `sublet map`: pictures with their labels, and one legend.
//!
//! Invariant: if a page shows one or two pieces of the address space, and the terminal has at least 80
//! columns and 24 lines, the page fits on the terminal.

use std::io::Write;

use anstream::adapter::strip_str;
use anyhow::Result;

use super::picture::{Count, Frame, LEGEND, Look, Picture, Space, draw};
use crate::cli::screen::{Screen, Tone};
use crate::cli::tables::count;
use crate::net::Subnet;

/// A piece of the address space, and the part of it that is drawn.
pub struct Piece {
    /// The whole piece.
    pub whole: Subnet,
    /// The part of the piece that is drawn.
    pub space: Space,
}

/// The number of columns between two adjacent pictures.
const GAP: usize = 2;

/// The number of lines besides the picture: the title, notes, the legend (two lines if it is long), and the
/// next prompt.
const OTHER_LINES: usize = 6;

/// Prints the pieces. `frame` is the size of the whole screen.
pub fn print(
    title: &str,
    pieces: &[Piece],
    frame: &Frame,
    screen: &Screen,
    out: &mut dyn Write,
) -> Result<()> {
    let pictures = if let [piece] = pieces {
        let picture = draw(&piece.space, &alone(frame));
        let head = screen.paint(Tone::Head, &format!("{title}, {}", piece.space.subnet));
        writeln!(out, "{head}: {}", used(&picture))?;
        write_lines(out, &picture.lines)?;
        let way = format!("{}, in {CURVE}", unit(piece, &picture));
        writeln!(out, "{}", screen.paint(Tone::Dim, &way))?;
        vec![picture]
    } else {
        writeln!(out, "{}", screen.paint(Tone::Head, title))?;
        let across = draw_rows(pieces, frame, 2);
        let (pictures, rows) = match across {
            Some(drawn) => drawn,
            None => draw_rows(pieces, frame, 1).unwrap_or_default(),
        };
        write_lines(out, &rows)?;
        writeln!(out, "{}", screen.paint(Tone::Dim, &format!("cells are in {CURVE}")))?;
        pictures
    };
    for Piece { whole, .. } in pieces.iter().filter(|piece| piece.space.subnet != piece.whole) {
        writeln!(
            out,
            "the rest of {whole} is not in use; pass `--zoom {whole}` to draw all of it"
        )?;
    }
    let single = pieces.iter().zip(&pictures).all(|(piece, picture)| is_single(piece, picture));
    write_lines(out, &legend(&pictures, single, frame))
}

/// Returns the area of a screen that is left for a single picture.
pub fn alone(frame: &Frame) -> Frame {
    Frame { height: frame.height.saturating_sub(OTHER_LINES).max(1), ..*frame }
}

const CURVE: &str = "a Hilbert curve from the top left to the top right";

fn write_lines(out: &mut dyn Write, lines: &[String]) -> Result<()> {
    Ok(lines.iter().try_for_each(|line| writeln!(out, "{line}"))?)
}

/// Draws the pieces in rows of `across` pictures. Returns `None` if a label is wider than its picture's share
/// of the row.
fn draw_rows(
    pieces: &[Piece],
    frame: &Frame,
    across: usize,
) -> Option<(Vec<Picture>, Vec<String>)> {
    let rows = pieces.len().div_ceil(across).max(1);
    let notes = pieces.iter().filter(|piece| piece.space.subnet != piece.whole).count();
    // Each row has two lines of labels. An empty line separates two rows.
    let lines = frame.height.saturating_sub(OTHER_LINES - 1 + notes + 3 * rows - 1);
    let width = frame.width.saturating_sub(GAP * (across - 1)) / across;
    let each = Frame { width, height: (lines / rows).max(1), ..*frame };
    let pictures: Vec<Picture> = pieces.iter().map(|piece| draw(&piece.space, &each)).collect();
    let mut page = Vec::new();
    let drawn: Vec<(&Piece, &Picture)> = pieces.iter().zip(&pictures).collect();
    for row in drawn.chunks(across) {
        if !page.is_empty() {
            page.push(String::new());
        }
        let blocks: Vec<Vec<String>> =
            row.iter().map(|(piece, picture)| block(piece, picture)).collect();
        let wide = |block: &Vec<String>| block.iter().map(|line| shown_width(line)).max();
        let columns = blocks.iter().filter_map(wide).max().unwrap_or_default();
        if across > 1 && columns > width {
            return None;
        }
        for y in 0..blocks.iter().map(Vec::len).max().unwrap_or_default() {
            let mut line = String::new();
            for (x, block) in blocks.iter().enumerate() {
                let shown = shown_width(&line);
                line.extend(std::iter::repeat_n(' ', (x * (columns + GAP)).saturating_sub(shown)));
                line.push_str(block.get(y).map_or("", |text| text));
            }
            line.truncate(line.trim_end().len());
            page.push(line);
        }
    }
    Some((pictures, page))
}

fn block(piece: &Piece, picture: &Picture) -> Vec<String> {
    let labels =
        [piece.space.subnet.to_string(), format!("{}; {}", used(picture), unit(piece, picture))];
    labels.into_iter().chain(picture.lines.iter().cloned()).collect()
}

/// Returns the width of a line on the screen.
fn shown_width(line: &str) -> usize {
    strip_str(line).to_string().chars().count()
}

fn used(picture: &Picture) -> String {
    let sum =
        |of: fn(&Count) -> u128| picture.counts.values().map(of).fold(0, u128::saturating_add);
    format!("{} of {} leased", count(sum(|c| c.used)), count(sum(|c| c.allocatable)))
}

fn is_single(piece: &Piece, picture: &Picture) -> bool {
    picture.cell == piece.space.subnet.family().bits()
}

fn unit(piece: &Piece, picture: &Picture) -> String {
    if is_single(piece, picture) {
        "a cell is an address".to_owned()
    } else {
        format!("a cell is a /{}", picture.cell)
    }
}

/// Returns the legend, which explains all kinds of cells in the pictures, in lines that fit on the screen.
fn legend(pictures: &[Picture], single: bool, frame: &Frame) -> Vec<String> {
    let is_drawn = |look: &&Look| pictures.iter().any(|picture| picture.looks.contains(look));
    let mut lines: Vec<String> = vec![String::new()];
    for look in LEGEND.iter().filter(is_drawn) {
        let item = format!("{} {}", look.sample(frame), look.name(single));
        let room = frame.width.saturating_sub(shown_width(&item) + 2);
        match lines.last_mut() {
            Some(line) if line.is_empty() => *line = item,
            Some(line) if shown_width(line) <= room => *line = format!("{line}  {item}"),
            _ => lines.push(item),
        }
    }
    lines
}
