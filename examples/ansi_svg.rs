//! Reads the output of `sublet map NAME --color always` from standard input, and writes it to standard output
//! as an SVG. It supports only the colors and block characters that `sublet` uses.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};

/// The width of one character, in pixels. Its height is twice the width, so each half is a square cell of the
/// map.
const WIDE: usize = 9;
const HIGH: usize = 18;
const EDGE: usize = 12;

/// The style of a character: its colors, and whether it is bold or dim.
#[derive(Clone, Copy, Default, PartialEq)]
struct Pen {
    ink: Option<u8>,
    ground: Option<u8>,
    bold: bool,
    dim: bool,
}

impl Pen {
    /// Applies the codes of one `ESC [ ... m` sequence to the style.
    fn take(&mut self, codes: &str) {
        let mut codes = codes.split(';').map(|c| c.parse::<u8>().unwrap_or(0));
        while let Some(code) = codes.next() {
            match code {
                0 => *self = Pen::default(),
                1 => self.bold = true,
                2 => self.dim = true,
                30..=37 => self.ink = Some(code - 30),
                38 => self.ink = codes.nth(1),
                48 => self.ground = codes.nth(1),
                _ => {}
            }
        }
    }
}

/// Returns one of the 256 colors in CSS notation.
fn colour(index: u8) -> String {
    let (r, g, b) = match index {
        0..=15 => {
            let base = [
                (0x1c, 0x1c, 0x1c),
                (0xe0, 0x5f, 0x5f),
                (0x5f, 0xd7, 0x5f),
                (0xd7, 0xb8, 0x5f),
                (0x5f, 0x87, 0xff),
                (0xd7, 0x5f, 0xd7),
                (0x5f, 0xd7, 0xd7),
                (0xd0, 0xd0, 0xd0),
            ];
            base[usize::from(index % 8)]
        }
        16..=231 => {
            let step = |n: u8| if n == 0 { 0 } else { 55 + 40 * n };
            let n = index - 16;
            (step(n / 36), step(n / 6 % 6), step(n % 6))
        }
        232..=255 => {
            let grey = 8 + 10 * (index - 232);
            (grey, grey, grey)
        }
    };
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn rectangle(out: &mut String, x: usize, y: usize, wide: usize, high: usize, fill: u8) {
    let fill = colour(fill);
    let _ = writeln!(
        out,
        r#"<rect x="{x}" y="{y}" width="{wide}" height="{high}" fill="{fill}" shape-rendering="crispEdges"/>"#
    );
}

/// Returns the characters of a line with their styles.
fn pens(line: &str) -> Vec<(char, Pen)> {
    let mut pen = Pen::default();
    let mut cells = Vec::new();
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        if let Some((codes, after)) = rest.strip_prefix("\u{1b}[").and_then(|r| r.split_once('m')) {
            pen.take(codes);
            rest = after;
            continue;
        }
        cells.push((c, pen));
        rest = &rest[c.len_utf8()..];
    }
    cells
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    let lines: Vec<Vec<(char, Pen)>> = text.lines().map(pens).collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let (wide, high) = (columns * WIDE + 2 * EDGE, lines.len() * HIGH + 2 * EDGE);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{wide}\" height=\"{high}\" \
         viewBox=\"0 0 {wide} {high}\">\n<rect width=\"{wide}\" height=\"{high}\" rx=\"6\" \
         fill=\"#101010\"/>\n<g font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" \
         font-size=\"15\" fill=\"#d0d0d0\">\n"
    );
    for (row, cells) in lines.iter().enumerate() {
        let y = EDGE + row * HIGH;
        let mut column = 0;
        for run in cells.chunk_by(|a, b| a.1 == b.1 && is_block(a.0) == is_block(b.0)) {
            let (x, pen) = (EDGE + column * WIDE, run[0].1);
            column += run.len();
            let wide = run.len() * WIDE;
            if let Some(ground) = pen.ground {
                rectangle(&mut out, x, y, wide, HIGH, ground);
            }
            match (run[0].0, pen.ink) {
                ('\u{2580}', Some(ink)) => rectangle(&mut out, x, y, wide, HIGH / 2, ink),
                ('\u{2588}', Some(ink)) => rectangle(&mut out, x, y + 2, wide, HIGH - 4, ink),
                _ => {
                    let words: String = run.iter().map(|(c, _)| *c).collect();
                    if words.trim().is_empty() {
                        continue;
                    }
                    let bold = if pen.bold { " font-weight=\"bold\"" } else { "" };
                    let dim = if pen.dim { " opacity=\"0.7\"" } else { "" };
                    let fill = pen.ink.map(|i| format!(" fill=\"{}\"", colour(i)));
                    let _ = writeln!(
                        out,
                        "<text x=\"{x}\" y=\"{}\" textLength=\"{wide}\" xml:space=\"preserve\"{bold}{dim}{}>{}</text>",
                        y + HIGH - 5,
                        fill.unwrap_or_default(),
                        escaped(&words)
                    );
                }
            }
        }
    }
    out += "</g>\n</svg>\n";
    io::stdout().write_all(out.as_bytes())?;
    Ok(())
}

fn is_block(c: char) -> bool {
    matches!(c, '\u{2580}' | '\u{2588}')
}
