//! Tests `sublet watch`, which runs until it is interrupted.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::commands::golden;
use crate::lab::{Call, Lab, SUBLET, conf, signal};

const PATIENCE: Duration = Duration::from_secs(20);

struct Watch {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Watch {
    fn start(lab: &Lab, more: &[&str]) -> Watch {
        let mut child = Command::new(SUBLET)
            .args(["watch", "--interval", "50ms", "--store"])
            .arg(lab.store())
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Watch { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }

    fn end(&mut self) -> Option<i32> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(begin.elapsed() < PATIENCE, "it does not end");
            #[allow(clippy::disallowed_methods, reason = "a bounded wait for another process")]
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `watch` has read the store once. It does not show events that happened before its first read.
fn settled() {
    #[allow(clippy::disallowed_methods, reason = "no event shows that another process waits")]
    std::thread::sleep(Duration::from_millis(700));
}

#[test]
fn watch_tells_what_happens() {
    for by_leases in [false, true] {
        let lab = Lab::new();
        // `watch` must also start if the store does not exist yet.
        let more: &[&str] = if by_leases { &["--leases"] } else { &[] };
        let mut watch = Watch::start(&lab, more);
        settled();
        let conf = conf(&lab.data_dir(), "10.4.0.0/24");
        Call::cni("ADD", "one", &conf).run().ok();
        let line = watch.line();
        assert!(
            line.ends_with(" added 10.4.0.2 of network mynet, container one (eth0)\n"),
            "{line}"
        );
        Call::cni("DEL", "one", &conf).run().silent();
        let line = watch.line();
        assert!(
            line.ends_with(" deleted 10.4.0.2 of network mynet, container one (eth0)\n"),
            "{line}"
        );
    }
}

/// Compares the output of `watch`, as text and as JSON, with golden files, as `commands` does. The golden
/// files do not contain the times, which differ from run to run.
#[test]
fn watch_prints_what_it_printed() {
    let mut faults = Vec::new();
    for (form, option) in [("plain", "--color=never"), ("json", "--json")] {
        let lab = Lab::new();
        let mut watch = Watch::start(&lab, &[option]);
        settled();
        let conf = conf(&lab.data_dir(), "10.4.0.0/24");
        let call = |command| {
            let pod = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;IgnoreUnknown=1";
            Call::cni(command, "one", &conf).env("CNI_ARGS", pod).env("NODE_ID", "node-1").run()
        };
        call("ADD").ok();
        let added = watch.line();
        if form == "json" {
            crate::schema::check("watch", &serde_json::from_str(&added).unwrap());
        }
        call("DEL").silent();
        let said = timeless(&added) + &timeless(&watch.line());
        faults.extend(golden(&format!("watch.{form}"), &said));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Replaces the time at the beginning of a line with `TIME`.
fn timeless(line: &str) -> String {
    let begin = line.find("20").unwrap();
    let end = begin + line[begin..].find('Z').unwrap() + 1;
    assert!(line[begin..end].parse::<jiff::Timestamp>().is_ok(), "{line}");
    format!("{}TIME{}", &line[..begin], &line[end..])
}

#[test]
fn watch_in_json_and_of_one_network() {
    let lab = Lab::new();
    let mut watch = Watch::start(&lab, &["--json", "--network", "other"]);
    settled();
    let mut conf = conf(&lab.data_dir(), "10.4.0.0/24");
    Call::cni("ADD", "one", &conf).run().ok();
    conf["name"] = json!("other");
    Call::cni("ADD", "two", &conf).run().ok();
    let event: Value = serde_json::from_str(&watch.line()).unwrap();
    assert_eq!((&event["event"], &event["network"]), (&json!("added"), &json!("other")));
    assert_eq!((&event["containerID"], &event["face"]), (&json!("two"), &json!("cni")));
}

#[test]
fn watch_ends_when_nobody_reads_or_somebody_interrupts() {
    let lab = Lab::new();
    let mut watch = Watch::start(&lab, &[]);
    settled();
    signal(&watch.child, "INT");
    assert_eq!(watch.end(), None, "by the signal");
    let shell = format!("{SUBLET} watch --interval 50ms --store {} | true", lab.store().display());
    let begin = Instant::now();
    let answer = Call::new("bash").arg("-c").arg(&shell).run();
    assert!(answer.succeeded() && begin.elapsed() < PATIENCE, "{answer:?}");
    assert!(!fs::exists(lab.store()).unwrap());
}
