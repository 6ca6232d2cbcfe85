//! What a run tells besides its answer.
//!
//! Owns: standard error and the log file. Does not own: standard output, ever.
//! Invariant: an event is one line and one write, so lines of many processes do not mix; a log
//! that cannot be written stops nothing.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;

use crate::config::{Level, Log};
use crate::model::Timestamp;

/// The log of one run.
pub struct Journal<'a> {
    stderr: &'a mut dyn Write,
    file: Log,
    now: Timestamp,
}

impl<'a> Journal<'a> {
    /// To standard error alone, until [`Journal::attach`].
    pub fn new(stderr: &'a mut dyn Write) -> Journal<'a> {
        Journal { stderr, file: Log::default(), now: 0 }
    }

    /// To the configuration's file too. Its lines carry the time.
    pub fn attach(&mut self, file: &Log, now: Timestamp) {
        self.file = file.clone();
        self.now = now;
    }

    /// Whether a lease given or freed is worth putting into words.
    pub fn tells_leases(&self) -> bool {
        self.file.file.is_some() && self.file.level <= Level::Info
    }

    /// One event. Standard error gets what an operator should look at.
    pub fn write(&mut self, level: Level, event: &str) {
        let (word, shown) = match level {
            Level::Debug => ("debug", false),
            Level::Info => ("info", false),
            Level::Warn => ("warning", true),
            Level::Error => ("error", true),
            Level::Off => return,
        };
        // An event may quote what a stranger wrote.
        let event: String = event.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if shown {
            // Nobody is left to be told if this fails.
            let _ = self.stderr.write_all(format!("sublet: {word}: {event}\n").as_bytes());
        }
        if let Some(path) = &self.file.file
            && level >= self.file.level
            && let Ok(mut file) = OpenOptions::new()
                .append(true)
                .create(true)
                // A pipe that nobody reads must not hold the call up.
                .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
                .open(path)
        {
            let pid = std::process::id();
            let line = format!("{} sublet[{pid}] {word}: {event}\n", utc(self.now));
            let _ = file.write_all(line.as_bytes());
        }
    }

    /// What the program is, for a person who started it by hand.
    pub fn about(&mut self, text: &str) {
        let _ = self.stderr.write_all(text.as_bytes());
    }

    /// Something an operator should look at.
    pub fn warn(&mut self, event: &str) {
        self.write(Level::Warn, event);
    }
}

/// RFC 3339.
fn utc(seconds: Timestamp) -> String {
    let (days, clock) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March have their leap day at the end; 719,468 days lie between the first
    // of March of year 0 and 1970.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!(
        "{:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        year + era * 400 + carry,
        clock / 3_600,
        clock / 60 % 60,
        clock % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }

    #[test]
    fn an_event_is_one_line_and_goes_where_its_level_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut stderr = Vec::new();
        let mut journal = Journal::new(&mut stderr);
        journal.write(Level::Info, "before a file is known");
        let file = Log { file: Some(path.clone()), level: Level::Info };
        journal.attach(&file, 0);
        journal.write(Level::Debug, "too fine");
        journal.write(Level::Info, "leased");
        journal.warn("two\nlines");
        assert_eq!(stderr, b"sublet: warning: two lines\n");
        let pid = std::process::id();
        let at = format!("1970-01-01T00:00:00Z sublet[{pid}]");
        assert_eq!(
            std::fs::read_to_string(path).unwrap(),
            format!("{at} info: leased\n{at} warning: two lines\n")
        );
    }

    #[test]
    fn a_log_that_cannot_be_written_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        crate::plain_file::make_pipe(&pipe);
        for path in ["/proc/nope/log".into(), pipe] {
            let mut stderr = Vec::new();
            let mut journal = Journal::new(&mut stderr);
            journal.attach(&Log { file: Some(path), level: Level::Debug }, 0);
            journal.write(Level::Info, "x");
            assert!(stderr.is_empty());
        }
    }
}
