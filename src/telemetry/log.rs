//! Formats log lines as text or JSON, and writes the daemon's log to standard error or to a file. The faces
//! decide which events are logged.
//!
//! Invariants: an event is one line and one write. Untrusted text cannot end a line, add a fact (a name and a
//! value) to a line, or control a terminal. If writing to the log fails, the error is ignored.

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

/// An event to be logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The severity.
    pub level: Level,
    /// Facts about the event, by name: the request, its caller, the address, the outcome.
    pub facts: Vec<(&'static str, String)>,
    /// The duration of the request.
    pub took: Option<Duration>,
    /// The part of the duration that was spent waiting for locks.
    pub waited: Option<Duration>,
    /// What happened and, if something is wrong, what to do.
    pub text: String,
}

impl Entry {
    /// Makes an event without facts.
    pub fn new(level: Level, text: impl Into<String>) -> Entry {
        Entry { level, facts: Vec::new(), took: None, waited: None, text: text.into() }
    }

    /// Adds a fact, unless its value is empty.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Entry {
        let value = value.into();
        if !value.is_empty() {
            self.facts.push((name, value));
        }
        self
    }

    /// Returns the durations with their names, in milliseconds.
    fn durations(&self) -> impl Iterator<Item = (&'static str, String)> {
        let all = [("ms", self.took), ("lockWaitMs", self.waited)];
        all.into_iter().filter_map(|(name, duration)| Some((name, millis(duration?))))
    }
}

/// The values at the beginning of a line.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// `sublet` or `subletd`.
    pub program: &'a str,
    /// The time; `None` if the reader of the log, such as the journal, adds the time.
    pub time: Option<Timestamp>,
}

/// Returns the line for an event, with its newline. As text, for example: `2026-11-21T10:31:05Z subletd[812]
/// info: command=RequestAddress pool=p ms=0.412: leased`.
pub fn line(format: LogFormat, stamp: Stamp<'_>, entry: &Entry) -> String {
    match format {
        LogFormat::Text => {
            let pid = std::process::id();
            let time = stamp.time.map(|t| utc(t) + " ").unwrap_or_default();
            format!("{time}{}[{pid}] {}: {}\n", stamp.program, entry.level.word(), body(entry))
        }
        LogFormat::Json => json(stamp, entry),
    }
}

/// Returns the facts, the durations and the text of an event, without a newline.
pub fn body(entry: &Entry) -> String {
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
        write!(line, "\"level\":\"{}\",\"program\":{program},\"pid\":{pid},", entry.level.word());
    for (name, value) in &entry.facts {
        let _ = write!(line, "{}:{},", text(name), text(value));
    }
    for (name, ms) in entry.durations() {
        let _ = write!(line, "\"{name}\":{ms},");
    }
    let _ = writeln!(line, "\"message\":{}}}", text(&entry.text));
    line
}

/// Returns a duration in milliseconds, with three decimal places.
fn millis(took: Duration) -> String {
    let micros = took.as_micros();
    format!("{}.{:03}", micros / 1000, micros % 1000)
}

/// Returns a single word unchanged, and any other value in quotes as in JSON.
fn quoted(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._:/@,+-".contains(&b);
    if !value.is_empty() && value.bytes().all(plain) && !value.ends_with(':') {
        return value.to_owned();
    }
    let quoted = serde_json::Value::from(value).to_string();
    visible(&quoted)
}

/// Escapes characters that could end a line or change the direction of text.
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

/// Appends a line to a log file. The file is opened for each event, so that it can be rotated at any time. It
/// is created with mode 0600, because it shows what runs on this host.
pub fn append(path: &Path, line: &str) {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        // Without this flag, opening a pipe without a reader would block.
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path);
    if let Ok(mut file) = file {
        let _ = file.write(line.as_bytes());
    }
}

/// The log of a daemon.
#[derive(Clone, Debug)]
pub struct Log {
    /// The lowest level that is written.
    pub level: Level,
    /// The format of the lines: text or JSON.
    pub format: LogFormat,
    /// The path of the log file; `None` for standard error.
    pub file: Option<PathBuf>,
    /// Whether standard error goes to the journal, which adds the time and the process.
    pub journal: bool,
    /// The name of the daemon.
    pub program: &'static str,
}

impl Log {
    /// Writes an event, if its level is high enough. If the event cannot be written, it is lost.
    pub fn write(&self, entry: &Entry) {
        if entry.level < self.level || self.level == Level::Off {
            return;
        }
        let stamp = Stamp { program: self.program, time: Some(host::now()) };
        if let Some(path) = &self.file {
            return append(path, &line(self.format, stamp, entry));
        }
        // If this fails, there is no other place to report the error.
        let _ = std::io::stderr().write_all(self.shown(stamp, entry).as_bytes());
    }

    /// Returns the line for standard error. For the journal, it begins with the priority.
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
            LogFormat::Text => format!("<{priority}>{}\n", body(entry)),
            LogFormat::Json => {
                format!("<{priority}>{}", json(Stamp { time: None, ..stamp }, entry))
            }
        }
    }
}

/// Formats a time as RFC 3339. (jiff is not used, because it would load its time zone code in every ADD.)
pub fn utc(seconds: Timestamp) -> String {
    let (days, clock) = (seconds / 86_400, seconds % 86_400);
    // Count years from March 1, so that a leap day is the last day of its year. From March 1 of year 0 to
    // January 1, 1970, there are 719,468 days.
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
    fn text_from_outside_adds_no_line_and_no_fact() {
        let hostile = "x outcome=ok\n1970-01-01T00:00:00Z sublet[1] info: \u{1b}[2J\u{202e}\"";
        let entry = Entry::new(Level::Warn, hostile).with("id", hostile).with("pool", "a: b");
        for format in [LogFormat::Text, LogFormat::Json] {
            let line = line(format, STAMP, &entry);
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert!(!line.contains('\u{1b}'), "{line}");
        }
        let text = body(&entry);
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
    fn a_file_can_be_rotated_and_a_pipe_does_not_block() {
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
