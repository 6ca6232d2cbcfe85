//! Formats tables so that they fit on the screen: shortens columns and, if necessary, leaves out the last
//! ones. Cells can have a color.
//!
//! Invariant: no line is wider than the screen, unless the screen is too narrow for two columns.

use std::fmt::Display;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::screen::{Screen, Tone, visible};

/// A table that prints each row as one line.
pub struct Table<'a, T> {
    rows: Box<dyn Iterator<Item = T> + 'a>,
    columns: Vec<Column<'a, T>>,
}

struct Column<'a, T> {
    title: &'static str,
    right: bool,
    /// The minimum width to which the column may be cut, in characters.
    least: usize,
    cell: Box<dyn Fn(&T) -> Cell + 'a>,
}

/// The text of one cell, and its color.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    tone: Option<Tone>,
}

/// Makes a cell with this text. Characters that could control a terminal are escaped.
pub fn cell(text: impl Display) -> Cell {
    Cell { text: visible(&text.to_string()), tone: None }
}

/// Makes a cell that is empty for `None`.
pub fn maybe(text: Option<impl Display>) -> Cell {
    text.map_or_else(|| cell(""), cell)
}

impl Cell {
    /// Returns the same cell in another color.
    pub fn toned(self, tone: Tone) -> Cell {
        Cell { tone: Some(tone), ..self }
    }
}

const GAP: usize = 2;

impl<'a, T> Table<'a, T> {
    /// Makes a table without columns.
    pub fn of<I: IntoIterator<Item = T, IntoIter: 'a>>(rows: I) -> Table<'a, T> {
        Table { rows: Box::new(rows.into_iter()), columns: Vec::new() }
    }

    /// Adds a column that is never cut.
    pub fn whole(self, title: &'static str, cell: impl Fn(&T) -> Cell + 'a) -> Table<'a, T> {
        self.text(title, usize::MAX, cell)
    }

    /// Adds a column of numbers.
    pub fn number(self, title: &'static str, cell: impl Fn(&T) -> Cell + 'a) -> Table<'a, T> {
        let mut table = self.whole(title, cell);
        if let Some(column) = table.columns.last_mut() {
            column.right = true;
        }
        table
    }

    /// Adds a column that may be cut to `least` characters.
    pub fn text(
        mut self,
        title: &'static str,
        least: usize,
        cell: impl Fn(&T) -> Cell + 'a,
    ) -> Table<'a, T> {
        self.columns.push(Column { title, right: false, least, cell: Box::new(cell) });
        self
    }

    /// Returns the lines of the table, each with its newline; an empty string if there are no rows.
    pub fn render(self, screen: &Screen) -> String {
        self.render_page(screen, &mut Vec::new())
    }

    /// Returns the lines of one page of a long table. Only the first page has the heading. `before` contains
    /// the column widths of the previous page. This page's columns are at least as wide, and `before` is set
    /// to their widths.
    pub fn render_page(self, screen: &Screen, before: &mut Vec<usize>) -> String {
        let columns = &self.columns;
        let head = columns.iter().map(|column| cell(column.title).toned(Tone::Head)).collect();
        let head = before.is_empty().then_some(head);
        let cells = |row| columns.iter().map(|column| (column.cell)(&row)).collect();
        let mut rows = self.rows.map(cells).peekable();
        if rows.peek().is_none() {
            return String::new();
        }
        let all: Vec<Vec<Cell>> = head.into_iter().chain(rows).collect();
        let widths = widths(columns, &all, screen.width, before);
        before.clone_from(&widths);
        let mut out = String::new();
        for row in all {
            let mut pending = 0;
            for ((cell, column), width) in row.iter().zip(columns).zip(&widths) {
                let shown = cut(&cell.text, *width, screen.unicode);
                let space = width - shown.width();
                let (before, after) = if column.right { (space, 0) } else { (0, space) };
                if shown.is_empty() {
                    pending += width + GAP;
                } else {
                    out.extend(std::iter::repeat_n(' ', pending + before));
                    out +=
                        &cell.tone.map_or_else(|| shown.clone(), |tone| screen.paint(tone, &shown));
                    pending = after + GAP;
                }
            }
            out.push('\n');
        }
        out
    }
}

/// Computes the width of each column that is shown.
fn widths<T>(
    columns: &[Column<'_, T>],
    rows: &[Vec<Cell>],
    screen: usize,
    before: &[usize],
) -> Vec<usize> {
    // If the previous page left out columns, this page leaves out the same columns.
    let shown = if before.is_empty() { columns.len() } else { before.len() };
    let mut widths = before.to_vec();
    widths.resize(shown, 0);
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
            // Cut the widest column only to the width of the next widest column, so that two long columns
            // share the space.
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

/// Cuts the text to `width` columns of the screen.
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

    fn table(width: usize) -> String {
        let rows = [
            ("10.0.0.1/24", "0123456789abcdef", 7, Some("x")),
            ("fd00::1/64", "\u{30c6}\u{30b9}\u{30c8}", 12, None),
        ];
        Table::of(&rows)
            .whole("ADDRESS", |row| cell(row.0))
            .text("CONTAINER", 9, |row| cell(row.1))
            .number("N", |row| cell(row.2))
            .whole("LAST", |row| maybe(row.3))
            .render(&Screen { width, ..Screen::PLAIN })
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
    fn a_further_page_has_the_widths_of_the_page_before() {
        let mut widths = Vec::new();
        let mut page = |rows: &[(&str, &str)]| {
            let table = Table::of(rows).whole("A", |row| cell(row.0)).whole("B", |row| cell(row.1));
            table.render_page(&Screen::PLAIN, &mut widths)
        };
        assert_eq!(page(&[("long", "x")]), "A     B\nlong  x\n");
        assert_eq!(page(&[("s", "y")]), "s     y\n");
        assert_eq!(page(&[("longer", "z")]), "longer  z\n");
        assert_eq!(page(&[]), "");
    }

    #[test]
    fn color_takes_no_room() {
        let screen = Screen { color: true, ..Screen::PLAIN };
        let table = Table::of(&[()]).whole("X", |()| cell("a").toned(Tone::Bad));
        let text = table.whole("Y", |()| cell("b")).render(&screen);
        let plain: String =
            text.split('\u{1b}').map(|p| p.split_once('m').map_or(p, |x| x.1)).collect();
        assert_eq!(plain, "X  Y\na  b\n");
    }
}
