//! Determines the properties of the terminal: color, size, and whether it shows Unicode.
//!
//! Invariant: by default, output to a pipe or a file has no escape sequences, and its tables are not cut.

use std::fmt;
use std::io;
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Color, Effects, Style};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::sys::host::Env;

/// The properties of the terminal to which the output is written.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// Whether standard output has color.
    pub color: bool,
    /// Whether standard error has color.
    pub alert: bool,
    /// The number of characters in a line; `usize::MAX` without a terminal.
    pub width: usize,
    /// The number of lines of the terminal; `None` without a terminal.
    pub height: Option<usize>,
    /// Whether block characters can be shown.
    pub unicode: bool,
}

/// When to use color.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// On a terminal, unless `NO_COLOR` is set
    #[default]
    Auto,
    /// Everywhere
    Always,
    /// Nowhere
    Never,
}

/// The meaning of a color.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// The text is a heading.
    Head,
    /// The text is less important.
    Dim,
    /// The text is an error.
    Bad,
    /// The text is a warning.
    Odd,
    /// The text reports a success.
    Good,
    /// The address is leased, or the range is full.
    Used,
    /// The address is reserved.
    Reserved,
    /// The address is a gateway.
    Gateway,
    /// The address is cooling down.
    Cooling,
}

impl Tone {
    fn style(self) -> Style {
        let color = |color: AnsiColor| Style::new().fg_color(Some(Color::Ansi(color)));
        match self {
            Tone::Head => Style::new().effects(Effects::BOLD),
            Tone::Dim => Style::new().effects(Effects::DIMMED),
            Tone::Bad => color(AnsiColor::Red).effects(Effects::BOLD),
            Tone::Odd => color(AnsiColor::Yellow),
            Tone::Good | Tone::Used => color(AnsiColor::Green),
            Tone::Reserved => color(AnsiColor::Magenta),
            Tone::Gateway => color(AnsiColor::Blue),
            Tone::Cooling => color(AnsiColor::Cyan),
        }
    }
}

impl Screen {
    /// A screen without color and of unlimited width that shows only ASCII.
    pub const PLAIN: Screen =
        Screen { color: false, alert: false, width: usize::MAX, height: None, unicode: false };

    /// Determines the screen of this process. `COLUMNS` and `LINES` override the terminal's size.
    pub fn find(env: &Env<'_>) -> Screen {
        let word = |name: &str| env(name)?.into_string().ok();
        let number = |name: &str| word(name)?.trim().parse::<u16>().ok().filter(|n| *n > 0);
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
        let columns = number("COLUMNS").or(size.map(|s| s.ws_col)).filter(|n| *n > 0);
        let lines = number("LINES").or(size.map(|s| s.ws_row)).filter(|n| *n > 0);
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().filter_map(|name| word(name));
        let locale = locale.into_iter().find(|value| !value.is_empty()).unwrap_or_default();
        let locale = locale.to_ascii_lowercase().replace('-', "");
        Screen {
            color: AutoStream::choice(&io::stdout()) != ColorChoice::Never,
            alert: AutoStream::choice(&io::stderr()) != ColorChoice::Never,
            width: columns.map_or(usize::MAX, usize::from),
            height: lines.map(usize::from),
            unicode: locale.contains("utf8"),
        }
    }

    /// Returns the same screen with color switched on or off, as requested.
    #[must_use]
    pub fn with(self, when: When) -> Screen {
        match when {
            When::Auto => self,
            When::Always => Screen { color: true, alert: true, ..self },
            When::Never => Screen { color: false, alert: false, ..self },
        }
    }

    /// Returns the text with the color for `tone`, if the screen has color.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        let style = tone.style();
        if self.color { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

/// Escapes the characters in an untrusted text that could control a terminal.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || steers(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// Breaks a text into lines of at most `width` characters. All lines but the first are indented. A word
/// that is longer than `width` is not broken.
pub fn wrapped(text: &str, width: usize) -> String {
    let (mut shown, mut used) = (String::with_capacity(text.len()), 0);
    for word in text.split(' ') {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > width {
            shown.push_str("\n  ");
            used = 2;
        } else if used > 0 {
            shown.push(' ');
            used += 1;
        }
        shown.push_str(word);
        used += length;
    }
    shown
}

/// Returns whether a character could move or hide the characters after it. These are line and paragraph
/// separators, bidirectional controls, zero-width characters, the byte order mark, and tags.
pub fn steers(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A progress line on standard error, for work that takes longer than a second. It is shown only on a
/// terminal. Dropping the value removes the line, so drop it before you write anything else.
pub struct Progress(ProgressBar);

/// How long to wait before progress is shown.
const PATIENCE: Duration = Duration::from_secs(1);
/// The width of a progress bar, in characters.
const WIDTH: usize = 30;

impl Progress {
    /// Starts to measure the progress of `total` steps. `None` means that the number of steps is unknown.
    pub fn new(total: Option<usize>, what: &'static str) -> Progress {
        let total = total.map(|n| u64::try_from(n).unwrap_or(u64::MAX));
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        let late = move |state: &ProgressState, out: &mut dyn fmt::Write| {
            let elapsed = state.elapsed();
            if elapsed >= PATIENCE {
                let _ = write!(out, "{what}, {} s", elapsed.as_secs());
                if let Some(total) = state.len() {
                    let share = state.pos().saturating_mul(WIDTH as u64) / total.max(1);
                    let done = usize::try_from(share).unwrap_or(WIDTH).min(WIDTH);
                    let bar = format!("{:.<WIDTH$}", "#".repeat(done));
                    let _ = write!(out, ": {} of {total} [{bar}]", state.pos());
                }
            }
        };
        let style = ProgressStyle::with_template("{late}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
        bar.set_style(style.with_key("late", late));
        if !bar.is_hidden() {
            bar.enable_steady_tick(PATIENCE / 4);
        }
        Progress(bar)
    }

    /// Counts a step that has finished.
    pub fn step(&self) {
        self.0.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_locale_tells_of_block_characters() {
        let of = |pairs: &'static [(&str, &str)]| {
            let env =
                move |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).into());
            Screen::find(&env).unicode
        };
        assert!(of(&[("LANG", "C.UTF-8")]) && of(&[("LANG", "C"), ("LC_CTYPE", "de_DE.utf8")]));
        assert!(!of(&[("LC_ALL", "C"), ("LANG", "C.UTF-8")]) && !of(&[]));
    }

    #[test]
    fn a_width_that_is_none_is_left_out() {
        let width = |columns: &'static str| {
            Screen::find(&move |name: &str| (name == "COLUMNS").then(|| columns.into())).width
        };
        assert_eq!(width("40"), 40);
        // The result must not depend on the terminal in which this test runs.
        assert_eq!(width("0"), width("wide"));
    }

    #[test]
    fn long_text_is_broken_between_words() {
        let text = "range 10.0.0.0/29 of network edge is full";
        assert_eq!(wrapped(text, usize::MAX), text);
        assert_eq!(wrapped(text, 20), "range 10.0.0.0/29 of\n  network edge is\n  full");
        assert_eq!(wrapped("a verylongword", 5), "a\n  verylongword");
    }

    #[test]
    fn without_color_nothing_is_added() {
        assert_eq!(Screen::PLAIN.paint(Tone::Bad, "x"), "x");
        let shown = Screen::PLAIN.with(When::Always).paint(Tone::Bad, "x");
        assert!(shown.starts_with("\u{1b}[") && shown.ends_with("\u{1b}[0m"), "{shown:?}");
    }
}
