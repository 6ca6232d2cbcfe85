//! The log of one call, which is written to standard error and to the log file.
//!
//! The log collects facts about the call, such as the network and the container, and writes them in each
//! line. It never writes to standard output.

use std::io::Write;
use std::time::Instant;

use crate::config::{Level, Log, LogFormat};
use crate::model::Timestamp;
use crate::telemetry::log::{Entry, Stamp};
use crate::telemetry::{counters, log};

/// The log of one call.
pub struct Journal<'a> {
    stderr: &'a mut dyn Write,
    file: Log,
    now: Timestamp,
    began: Instant,
    /// The facts about the call.
    call: Vec<(&'static str, String)>,
}

impl<'a> Journal<'a> {
    /// Makes a log that writes only to standard error, until [`Journal::attach`] is called.
    pub fn new(stderr: &'a mut dyn Write) -> Journal<'a> {
        let (file, began) = (Log::default(), Instant::now());
        Journal { stderr, file, now: 0, began, call: vec![("face", "cni".to_owned())] }
    }

    /// Makes the log write to the file that the configuration names, in addition to standard error. The lines
    /// in the file contain the time.
    pub fn attach(&mut self, file: &Log, network: &str, now: Timestamp) {
        self.file = file.clone();
        self.now = now;
        self.learn("network", network);
    }

    /// Adds a fact about the call.
    pub fn learn(&mut self, name: &'static str, value: impl Into<String>) {
        self.call.retain(|(known, _)| *known != name);
        self.call.push((name, value.into()));
    }

    /// Returns whether an event of this level is written to the log file. If not, the caller need not format
    /// the event, unless it is a warning or an error.
    pub fn is_written(&self, level: Level) -> bool {
        self.file.file.is_some() && self.file.level <= level
    }

    /// Logs that the call succeeded.
    pub fn done(&mut self, level: Level, text: impl Into<String>) {
        self.write(Entry::new(level, text).with("outcome", "ok"));
    }

    /// Logs one event. Warnings and errors are also written to standard error.
    pub fn write(&mut self, mut entry: Entry) {
        let shown = matches!(entry.level, Level::Warn | Level::Error);
        let filed = self.is_written(entry.level);
        if !shown && !filed {
            return;
        }
        let mut facts = self.call.clone();
        facts.retain(|(_, value)| !value.is_empty());
        facts.append(&mut entry.facts);
        entry.facts = facts;
        entry.took = Some(self.began.elapsed());
        entry.waited = Some(counters::now().waits.sum).filter(|waited| !waited.is_zero());
        let line =
            log::line(self.file.format, Stamp { program: "sublet", time: Some(self.now) }, &entry);
        if shown {
            // The runtime adds these lines to its own log, so leave out facts that the runtime already knows.
            let short = match self.file.format {
                LogFormat::Text => {
                    let body = log::body(&Entry::new(entry.level, entry.text));
                    format!("sublet: {}: {body}\n", entry.level.word())
                }
                LogFormat::Json => line.clone(),
            };
            // If this write fails, there is no other place to report the error.
            let _ = self.stderr.write_all(short.as_bytes());
        }
        if let Some(path) = self.file.file.as_ref().filter(|_| filed) {
            log::append(path, &line);
        }
    }

    /// Prints a description of the program, for a user who started it by hand.
    pub fn about(&mut self, text: &str) {
        let _ = self.stderr.write_all(text.as_bytes());
    }

    /// Logs a warning for the operator.
    pub fn warn(&mut self, event: &str) {
        self.write(Entry::new(Level::Warn, event));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_event_is_one_line_and_goes_where_its_level_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut stderr = Vec::new();
        let mut journal = Journal::new(&mut stderr);
        journal.done(Level::Info, "before a file is known");
        journal.learn("command", "ADD");
        let file = Log { file: Some(path.clone()), level: Level::Info, format: LogFormat::Text };
        journal.attach(&file, "mynet", 0);
        journal.done(Level::Debug, "too fine");
        journal.done(Level::Info, "leased");
        journal.warn("two\nlines");
        assert_eq!(stderr, b"sublet: warning: two\\nlines\n");
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let at = format!("1970-01-01T00:00:00Z sublet[{}]", std::process::id());
        let call = "face=cni command=ADD network=mynet";
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].starts_with(&format!("{at} info: {call} outcome=ok ms=")), "{text}");
        assert!(lines[0].ends_with(": leased"), "{text}");
        assert!(lines[1].starts_with(&format!("{at} warning: {call} ms=")), "{text}");
        assert!(lines[1].ends_with(": two\\nlines"), "{text}");
    }

    #[test]
    fn json_goes_to_standard_error_too() {
        let mut stderr = Vec::new();
        let mut journal = Journal::new(&mut stderr);
        let file = Log { format: LogFormat::Json, ..Log::default() };
        journal.attach(&file, "mynet", 60);
        counters::waited(Duration::from_millis(5));
        journal.write(Entry::new(Level::Error, "no").with("code", "100"));
        let line: serde_json::Value = serde_json::from_slice(&stderr).unwrap();
        assert_eq!(line["code"], "100");
        assert!(line["lockWaitMs"].as_f64().unwrap() >= 5.0, "{line}");
        assert_eq!(line["network"], "mynet");
        assert_eq!(line["time"], "1970-01-01T00:01:00Z");
    }
}
