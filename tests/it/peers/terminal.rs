//! Tests the command line on a terminal (tmux): maps, colors, questions, tables, and progress.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::lab::{Call, Lab, SUBLET, conf};

const PATIENCE: Duration = Duration::from_secs(20);

/// A terminal in tmux. It is closed when the value is dropped.
struct Screen {
    lab: Lab,
}

impl Screen {
    fn new(columns: u16, lines: u16, locale: &str, shell: &str) -> Screen {
        let screen = Screen { lab: Lab::new() };
        let size = [columns.to_string(), lines.to_string()];
        let done = screen
            .tmux(&["-u", "-f", "/dev/null", "new-session", "-d", "-x", &size[0], "-y", &size[1]])
            .env("LC_ALL", locale)
            .arg(format!("{shell}; read wait"))
            .status()
            .expect("tmux is missing: install it as root with `apt-get install tmux`");
        assert!(done.success());
        screen
    }

    fn tmux(&self, args: &[&str]) -> Command {
        let mut tmux = Command::new("tmux");
        tmux.arg("-S").arg(self.lab.join("socket")).args(args);
        tmux.env_remove("TMUX").env_remove("NO_COLOR").env_remove("COLUMNS").env_remove("LINES");
        tmux
    }

    /// Waits until the screen contains `word`. Returns the content of the screen, including escape sequences
    /// if `escapes` is set.
    fn read(&self, word: &str, escapes: bool) -> String {
        let begin = Instant::now();
        loop {
            let mut capture = self.tmux(&["capture-pane", "-p", "-J"]);
            if escapes {
                capture.arg("-e");
            }
            let output = capture.output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            if text.contains(word) {
                return text;
            }
            assert!(begin.elapsed() < PATIENCE, "no {word:?} in\n{text}");
            #[allow(clippy::disallowed_methods, reason = "a terminal can only be polled")]
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]).status();
    }
}

/// Makes a network with an IPv4 /24 and an IPv6 /64, and leases 100 addresses from each.
fn leased() -> Lab {
    let lab = Lab::new();
    let mut small = conf(&lab.data_dir(), "10.4.0.0/24");
    small["ipam"]["ranges"] = json!([[{"subnet": "fd04::/64"}]]);
    for n in 0..100 {
        Call::cni("ADD", &format!("c{n}"), &small).run().ok();
    }
    lab
}

fn map(lab: &Lab, more: &str) -> String {
    format!("{SUBLET} map mynet {more} --store {}", lab.store().display())
}

/// Returns the number of block characters in each line of a map. Ignores lines with fewer than eight.
fn picture(text: &str) -> Vec<usize> {
    let blocks = |l: &str| {
        l.chars().filter(|c| "\u{2580}\u{2588}\u{2591}\u{2592}\u{2593}".contains(*c)).count()
    };
    text.lines().map(blocks).filter(|n| *n >= 8).collect()
}

#[test]
fn typed_without_arguments_it_prints_its_usage() {
    let screen = Screen::new(120, 50, "C.UTF-8", &format!("{SUBLET}; echo status $?"));
    let text = screen.read("status 2", false);
    assert!(text.contains("Usage: sublet") && text.contains("doctor"), "{text}");
}

#[test]
fn a_map_fits_its_screen() {
    let lab = leased();
    for (columns, lines) in [(80, 24), (200, 50)] {
        let screen = Screen::new(columns, lines, "C.UTF-8", &map(&lab, "--zoom 10.4.0.0/24"));
        // The legend is printed last, so wait for it.
        let text = screen.read("\u{2588} free", false);
        // Each cell of the map is one address. There are 16 by 16 cells, and each character shows two of
        // them, one above the other.
        assert_eq!(picture(&text), [16; 8], "{text}");
        assert!(text.contains("network mynet, 10.4.0.0/24: 100 of 253 leased"), "{text}");
        assert!(text.contains("\u{2588} leased") && text.contains("\u{2588} free"), "{text}");
        let large = Screen::new(columns, lines, "C.UTF-8", &map(&lab, "--zoom 10.0.0.0/8"));
        let text = large.read("a cell is", false);
        // The map consists of two squares side by side.
        let wide: usize = if lines == 24 { 64 } else { 128 };
        assert_eq!(picture(&text), vec![wide; wide / 4], "{text}");
        assert!(text.contains("network mynet, 10.0.0.0/8"), "the title scrolled away:\n{text}");
    }
}

#[test]
fn a_map_has_colors_where_they_are_wanted() {
    let lab = leased();
    let colored = Screen::new(80, 24, "C.UTF-8", &map(&lab, "--zoom 10.4.0.0/24"));
    let text = colored.read("a cell is", true);
    // Check for the colors of a character that shows a leased cell above a free cell.
    assert!(text.contains("38;5;40") && text.contains("48;5;240"), "{text:?}");
    let plain =
        Screen::new(80, 24, "C.UTF-8", &format!("NO_COLOR=1 {}", map(&lab, "--zoom 10.4.0.0/24")));
    let text = plain.read("a cell is", true);
    assert!(!text.contains("38;5;") && text.contains("\u{2588}\u{2588}"), "{text:?}");
    // If the locale does not support block characters, the map must contain none.
    let ascii = Screen::new(80, 24, "C", &format!("LC_ALL=C {}", map(&lab, "--zoom 10.4.0.0/24")));
    let text = ascii.read("a cell is", false);
    assert!(text.is_ascii() && text.contains("####"), "{text:?}");
}

#[test]
fn a_sparse_range_is_drawn_where_somebody_is() {
    let lab = leased();
    let screen = Screen::new(80, 50, "C.UTF-8", &map(&lab, ""));
    let text = screen.read("--zoom fd04::/64", false);
    assert!(text.contains("fd04::/120") && text.contains("100 of 254 leased"), "{text}");
}

#[test]
fn a_question_is_asked_on_a_terminal() {
    let lab = leased();
    let store = lab.store();
    let shell = format!("{SUBLET} release 10.4.0.2 --store {}; echo ended $?", store.display());
    for (answer, there) in [("n", true), ("y", false)] {
        let screen = Screen::new(80, 24, "C.UTF-8", &shell);
        screen.read("Release 10.4.0.2 of network mynet (container c0)? [y/N]", false);
        assert!(screen.tmux(&["send-keys", answer, "Enter"]).status().unwrap().success());
        screen.read("ended 0", false);
        assert_eq!(lab.list().iter().any(|row| row["address"] == "10.4.0.2"), there);
    }
}

#[test]
fn what_takes_long_says_so() {
    let lab = leased();
    let lock = format!("{}.boot.lock", lab.store().display());
    let shell = format!(
        "flock {lock} sleep 3 & sleep 0.3; {SUBLET} list --store {}",
        lab.store().display()
    );
    let screen = Screen::new(80, 24, "C.UTF-8", &shell);
    screen.read("reading the leases, 1 s", false);
    let after = screen.read("c99", false);
    assert!(!after.contains("reading the leases"), "{after}");
}

#[test]
fn a_table_is_cut_to_its_terminal() {
    let lab = leased();
    let shell = format!(
        "{SUBLET} list --store {} | head -5; {SUBLET} list --store {0} | tail -3",
        lab.store().display()
    );
    // Output to a pipe must not be cut to the width of the terminal.
    let text = Screen::new(60, 24, "C.UTF-8", &shell).read("c99", false);
    assert!(text.contains("AGE"), "{text}");
    let shell = format!("{SUBLET} pools --store {}", lab.store().display());
    let text = Screen::new(60, 24, "C.UTF-8", &shell).read("mynet", false);
    assert!(text.contains("USED") && !text.contains("COOLING"), "{text}");
}
