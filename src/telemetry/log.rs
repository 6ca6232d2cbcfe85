//! Log lines: what happened, to whom, for how long, how it ended.
//!
//! Owns: how an event is written (text or JSON), and the daemon's way to standard error or a file.
//! Does not own: which events there are, which is the faces'.
//! Invariant: an event is one line and one write, and nothing that a stranger named can end a line,
//! begin a fact of its own, or steer a terminal; a log that cannot be written stops nothing.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;

use crate::config::{Level, LogFormat};
use crate::model::Timestamp;
use crate::sys::host;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How much it matters.
    pub level: Level,
    /// Facts by name: who asked for what, which address, how it ended.
    pub facts: Vec<(&'static str, String)>,
    /// How long it took.
    pub took: Option<Duration>,
    /// How much of that was waiting for locks.
    pub waited: Option<Duration>,
    /// What happened, and if something is wrong, what to do.
    pub text: String,
}

impl Entry {
    /// An event without facts.
    pub fn new(level: Level, text: impl Into<String>) -> Entry {
        Entry { level, facts: Vec::new(), took: None, waited: None, text: text.into() }
    }

    /// The same with one more fact; one without a value is left out.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Entry {
        let value = value.into();
        if !value.is_empty() {
            self.facts.push((name, value));
        }
        self
    }

    /// The durations by name, in milliseconds.
    fn durations(&self) -> impl Iterator<Item = (&'static str, String)> {
        let all = [("ms", self.took), ("lockWaitMs", self.waited)];
        all.into_iter().filter_map(|(name, duration)| Some((name, millis(duration?))))
    }
}

/// What a line begins with.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// `sublet` or `subletd`.
    pub program: &'a str,
    /// When; `None` where the reader knows.
    pub time: Option<Timestamp>,
}

/// The word of a level.
pub const fn word(level: Level) -> &'static str {
    match level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warning",
        Level::Error => "error",
        Level::Off => "off",
    }
}

/// An event as a line with its end. Text is for a person:
/// `2026-11-21T10:31:05Z subletd[812] info: command=RequestAddress pool=p ms=0.412: leased`.
pub fn line(format: LogFormat, stamp: Stamp<'_>, entry: &Entry) -> String {
    match format {
        LogFormat::Text => {
            let pid = std::process::id();
            let time = stamp.time.map(|t| utc(t) + " ").unwrap_or_default();
            format!("{time}{}[{pid}] {}: {}\n", stamp.program, word(entry.level), told(entry))
        }
        LogFormat::Json => json(stamp, entry),
    }
}

/// Facts and text of an event, on one line.
pub fn told(entry: &Entry) -> String {
    let mut line = String::new();
    for (name, value) in &entry.facts {
        let _ = write!(line, "{name}={} ", quoted(value));
    }
    for (name, ms) in entry.durations() {
        let _ = write!(line, "{name}={ms} ");
    }
    if !line.is_empty() {
        line.pop();
        line.push_str(": ");
    }
    line + &visible(&entry.text)
}

fn json(stamp: Stamp<'_>, entry: &Entry) -> String {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let mut line = String::from("{");
    if let Some(time) = stamp.time {
        let _ = write!(line, "\"time\":\"{}\",", utc(time));
    }
    let (program, pid) = (text(stamp.program), std::process::id());
    let _ =
        write!(line, "\"level\":\"{}\",\"program\":{program},\"pid\":{pid},", word(entry.level));
    for (name, value) in &entry.facts {
        let _ = write!(line, "{}:{},", text(name), text(value));
    }
    for (name, ms) in entry.durations() {
        let _ = write!(line, "\"{name}\":{ms},");
    }
    let _ = writeln!(line, "\"message\":{}}}", text(&entry.text));
    line
}

/// Milliseconds, to the microsecond.
fn millis(took: Duration) -> String {
    let micros = took.as_micros();
    format!("{}.{:03}", micros / 1000, micros % 1000)
}

/// A value that is one word stays as it is; any other is quoted as JSON quotes.
fn quoted(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._:/@,+-".contains(&b);
    if !value.is_empty() && value.bytes().all(plain) && !value.ends_with(':') {
        return value.to_owned();
    }
    let quoted = serde_json::Value::from(value).to_string();
    visible(&quoted)
}

/// Text without anything that could end a line or turn its direction.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Appends to a log file, opened for this event: a file that was renamed away is let go of. One that is
/// not there is created for its owner alone (0600): it says what runs on this host.
pub fn append(path: &Path, line: &str) {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        // A pipe that nobody reads must not hold the event up.
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path);
    if let Ok(mut file) = file {
        let _ = file.write(line.as_bytes());
    }
}

/// The log of a process that runs for long.
#[derive(Clone, Debug)]
pub struct Log {
    /// The lowest level that is written.
    pub level: Level,
    /// How.
    pub format: LogFormat,
    /// To where; `None`: standard error.
    pub file: Option<PathBuf>,
    /// Standard error is the journal's, which knows time and process.
    pub journal: bool,
    /// Whose.
    pub program: &'static str,
}

impl Log {
    /// Writes an event, if it matters enough. What cannot be written is lost.
    pub fn write(&self, entry: &Entry) {
        if entry.level < self.level || self.level == Level::Off {
            return;
        }
        let stamp = Stamp { program: self.program, time: Some(host::now()) };
        if let Some(path) = &self.file {
            return append(path, &line(self.format, stamp, entry));
        }
        // Nobody is left to be told if this fails.
        let _ = std::io::stderr().write_all(self.shown(stamp, entry).as_bytes());
    }

    /// The line on standard error: for the journal with the priority it sorts by.
    fn shown(&self, stamp: Stamp<'_>, entry: &Entry) -> String {
        if !self.journal {
            return line(self.format, stamp, entry);
        }
        let priority = match entry.level {
            Level::Debug => 7,
            Level::Info => 6,
            Level::Warn => 4,
            Level::Error | Level::Off => 3,
        };
        match self.format {
            LogFormat::Text => format!("<{priority}>{}\n", told(entry)),
            LogFormat::Json => {
                format!("<{priority}>{}", json(Stamp { time: None, ..stamp }, entry))
            }
        }
    }
}

/// RFC 3339. (jiff would be a time zone's worth of code on the way of every ADD.)
pub fn utc(seconds: Timestamp) -> String {
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

    fn entry() -> Entry {
        let mut entry = Entry::new(Level::Info, "leased 10.1.0.2/24")
            .with("command", "ADD")
            .with("container", "c1")
            .with("ifname", "")
            .with("address", "10.1.0.2/24,fd00::2/64");
        entry.took = Some(Duration::from_micros(1_204));
        entry.waited = Some(Duration::from_micros(30));
        entry
    }

    const STAMP: Stamp<'static> = Stamp { program: "sublet", time: Some(0) };

    #[test]
    fn an_event_as_text_and_as_json() {
        let pid = std::process::id();
        assert_eq!(
            line(LogFormat::Text, STAMP, &entry()),
            format!(
                "1970-01-01T00:00:00Z sublet[{pid}] info: command=ADD container=c1 \
                 address=10.1.0.2/24,fd00::2/64 ms=1.204 lockWaitMs=0.030: leased 10.1.0.2/24\n"
            )
        );
        assert_eq!(
            line(LogFormat::Json, STAMP, &entry()),
            format!(
                "{{\"time\":\"1970-01-01T00:00:00Z\",\"level\":\"info\",\"program\":\"sublet\",\
                 \"pid\":{pid},\"command\":\"ADD\",\"container\":\"c1\",\
                 \"address\":\"10.1.0.2/24,fd00::2/64\",\"ms\":1.204,\
                 \"lockWaitMs\":0.030,\"message\":\"leased 10.1.0.2/24\"}}\n"
            )
        );
    }

    #[test]
    fn a_stranger_forges_no_line_and_no_fact() {
        let hostile = "x outcome=ok\n1970-01-01T00:00:00Z sublet[1] info: \u{1b}[2J\u{202e}\"";
        let entry = Entry::new(Level::Warn, hostile).with("id", hostile).with("pool", "a: b");
        for format in [LogFormat::Text, LogFormat::Json] {
            let line = line(format, STAMP, &entry);
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert!(!line.contains('\u{1b}'), "{line}");
        }
        let text = told(&entry);
        assert!(text.starts_with("id=\"x outcome=ok\\n1970"), "{text}");
        assert!(text.contains("\\u{202e}") && text.contains(" pool=\"a: b\": x"), "{text}");
        let json: serde_json::Value =
            serde_json::from_str(&line(LogFormat::Json, STAMP, &entry)).unwrap();
        assert_eq!(json["id"], hostile);
        assert_eq!(json["message"], hostile);
        assert!(json.get("outcome").is_none());
    }

    #[test]
    fn the_journal_gets_priorities_and_no_time() {
        let log = |format| Log {
            level: Level::Info,
            format,
            file: None,
            journal: true,
            program: "subletd",
        };
        let entry = Entry::new(Level::Warn, "a").with("pool", "p");
        assert_eq!(log(LogFormat::Text).shown(STAMP, &entry), "<4>pool=p: a\n");
        let json = log(LogFormat::Json).shown(STAMP, &entry);
        assert!(json.starts_with("<4>{\"level\":\"warning\",") && json.ends_with("}\n"), "{json}");
    }

    #[test]
    fn a_file_may_be_rotated_and_a_pipe_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let file = Some(path.clone());
        let log =
            Log { level: Level::Info, format: LogFormat::Text, file, journal: false, program: "x" };
        log.write(&Entry::new(Level::Info, "one"));
        log.write(&Entry::new(Level::Debug, "too fine"));
        std::fs::rename(&path, dir.path().join("log.1")).unwrap();
        log.write(&Entry::new(Level::Info, "two"));
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(read("log.1").ends_with("info: one\n") && read("log").ends_with("info: two\n"));
        let pipe = dir.path().join("pipe");
        crate::sys::files::make_pipe(&pipe);
        append(&pipe, "nobody reads\n");
        append(Path::new("/proc/nope/log"), "nowhere\n");
    }
}
