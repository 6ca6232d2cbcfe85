//! Tables that fit the screen.
//!
//! Owns: the width of columns. Libraries that colour a cell bring a terminal's input along with it;
//! this needs a dozen lines instead.
//! Invariant: no line is wider than the screen, unless that is too narrow for what must not be cut;
//! then the last columns are left out.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::screen::{Screen, Tone};

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    title: &'static str,
    right: bool,
    /// It may be cut to this many characters.
    least: usize,
}

/// A column that is shown whole.
pub const fn whole(title: &'static str) -> Column {
    Column { title, right: false, least: usize::MAX }
}

/// A column of numbers.
pub const fn number(title: &'static str) -> Column {
    Column { title, right: true, least: usize::MAX }
}

/// A column that may be cut to `least` characters.
pub const fn text(title: &'static str, least: usize) -> Column {
    Column { title, right: false, least }
}

/// What stands in one row and column.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl Cell {
    /// In a colour.
    pub fn toned(text: impl Into<String>, tone: Option<Tone>) -> Cell {
        Cell { text: text.into(), tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell { text: text.into(), tone: None }
    }
}

const GAP: usize = 2;

/// The lines of a table, each with its line feed.
pub fn render(columns: &[Column], rows: &[Vec<Cell>], screen: &Screen) -> String {
    let widths = widths(columns, rows, screen.width);
    let mut out = String::new();
    let head: Vec<Cell> = columns.iter().map(|c| Cell::toned(c.title, Some(Tone::Head))).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut pending = 0;
        for ((cell, column), width) in row.iter().zip(columns).zip(&widths) {
            let shown = cut(&cell.text, *width, screen.unicode);
            let space = width - shown.width();
            let (before, after) = if column.right { (space, 0) } else { (0, space) };
            if shown.is_empty() {
                pending += width + GAP;
            } else {
                out.extend(std::iter::repeat_n(' ', pending + before));
                out += &cell.tone.map_or_else(|| shown.clone(), |tone| screen.paint(tone, &shown));
                pending = after + GAP;
            }
        }
        out.push('\n');
    }
    out
}

/// A width for each column that is shown.
fn widths(columns: &[Column], rows: &[Vec<Cell>], screen: usize) -> Vec<usize> {
    let mut widths: Vec<usize> = columns.iter().map(|c| c.title.width()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.text.width());
        }
    }
    loop {
        let total: usize = widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
        let Some(excess) = total.checked_sub(screen).filter(|n| *n > 0) else {
            return widths;
        };
        let least = |i: usize| columns[i].least.max(columns[i].title.width());
        let widest =
            (0..widths.len()).filter(|i| widths[*i] > least(*i)).max_by_key(|i| widths[*i]);
        match widest {
            // Not below the next widest, so that two long columns share.
            Some(i) => {
                let others = (0..widths.len()).filter(|o| *o != i && widths[*o] > least(*o));
                let next = others.map(|o| widths[o]).max().unwrap_or(0);
                let floor = next.max(least(i)).min(widths[i] - 1);
                widths[i] = floor.max(widths[i].saturating_sub(excess));
            }
            None if widths.len() > 2 => {
                widths.pop();
            }
            None => return widths,
        }
    }
}

/// The text in at most `width` columns.
fn cut(text: &str, width: usize, unicode: bool) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut used = 1;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= width
    };
    let mut shown: String = text.chars().take_while(fits).collect();
    shown.push(if unicode { '\u{2026}' } else { '~' });
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] =
        &[whole("ADDRESS"), text("CONTAINER", 9), number("N"), whole("LAST")];

    fn table(width: usize) -> String {
        let rows = [
            vec!["10.0.0.1/24".into(), "0123456789abcdef".into(), "7".into(), "x".into()],
            vec![
                "fd00::1/64".into(),
                Cell::toned("\u{30c6}\u{30b9}\u{30c8}", Some(Tone::Bad)),
                "12".into(),
                "".into(),
            ],
        ];
        render(COLUMNS, &rows, &Screen { width, ..Screen::PLAIN })
    }

    #[test]
    fn all_of_it_where_there_is_room() {
        let want = "ADDRESS      CONTAINER          N  LAST\n\
                    10.0.0.1/24  0123456789abcdef   7  x\n\
                    fd00::1/64   \u{30c6}\u{30b9}\u{30c8}            12\n";
        assert_eq!(table(usize::MAX), want);
        assert_eq!(table(39), want);
    }

    #[test]
    fn the_longest_text_is_cut_first_and_columns_go_last() {
        for width in 5..60 {
            let table = table(width);
            let widest = table.lines().map(UnicodeWidthStr::width).max().unwrap();
            assert!(widest <= width.max(22), "{width}: {table}");
        }
        assert!(table(34).contains("0123456789~   7  x"), "{}", table(34));
        assert!(!table(28).contains("LAST") && table(28).contains("CONTAINER"), "{}", table(28));
    }

    #[test]
    fn colour_takes_no_room() {
        let screen = Screen { colour: true, ..Screen::PLAIN };
        let rows = [vec![Cell::toned("a", Some(Tone::Bad)), "b".into()]];
        let text = render(&[whole("X"), whole("Y")], &rows, &screen);
        let plain: String =
            text.split('\u{1b}').map(|p| p.split_once('m').map_or(p, |x| x.1)).collect();
        assert_eq!(plain, "X  Y\na  b\n");
    }
}
