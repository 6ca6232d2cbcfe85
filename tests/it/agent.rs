//! Tests `sublet agent`, which installs sublet, keeps it installed, and searches for stale leases until it is
//! stopped.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::install::{FORMER, Host, is_sublet};
use crate::lab::{SUBLET, signal};

const PATIENCE: Duration = Duration::from_secs(30);

/// A running `sublet agent`. A thread reads each line of its output as soon as the agent prints the line.
pub struct Agent {
    child: Child,
    lines: Receiver<String>,
}

impl Agent {
    /// Starts a command that runs the agent.
    pub fn start(command: &mut Command) -> Agent {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().unwrap();
        let (sender, lines) = channel();
        let streams: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(stream).lines() {
                    // If the test has already ended, nothing receives the line.
                    let _ = sender.send(line.unwrap());
                }
            });
        }
        Agent { child, lines }
    }

    fn of(host: &Host, options: &[&str]) -> Agent {
        let at = |name: &str| host.lab.join(name).display().to_string();
        let mut command = Command::new(SUBLET);
        command.args(["agent", "--to", &at("bin"), "--conf-dir", &at("net.d")]);
        command.args(options).args(["--store", &host.lab.store().display().to_string()]);
        Agent::start(&mut command)
    }

    /// Reads the agent's output line by line, until one line contains all of these parts.
    #[track_caller]
    pub fn until(&self, parts: &[&str]) {
        let begin = Instant::now();
        let mut read = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE.saturating_sub(begin.elapsed())) {
            if parts.iter().all(|part| line.contains(part)) {
                return;
            }
            read.push(line);
        }
        panic!("no line with {parts:?}: {read:#?}");
    }

    /// Sends a signal to the agent, waits until it ends, and returns its exit status.
    fn end(&mut self, name: &str) -> Option<i32> {
        signal(&self.child, name);
        self.child.wait().unwrap().code()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Replaces a file by renaming a new file over it, as package managers do.
fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    fs::write(&next, text).unwrap();
    fs::rename(&next, path).unwrap();
}

/// Writes a configuration for the agent to install. It has the subnet 10.SECOND.0.0/24, and its file is
/// outside the runtime's folder.
fn source(host: &Host, second: u8) -> PathBuf {
    let path = host.lab.join("10-net.conf");
    let subnet = format!("10.{second}.0.0/24");
    let conf = json!({"cniVersion": "1.0.0", "name": "net", "type": "bridge",
                      "ipam": {"type": "sublet", "subnet": subnet}});
    replace(&path, &conf.to_string());
    path
}

#[test]
fn what_is_deleted_or_replaced_comes_back() {
    let host = Host::new();
    host.write_former("host-local");
    let source_of_conf = source(&host, 9);
    let conf = source_of_conf.to_str().unwrap();
    let mut agent = Agent::of(&host, &["--as", "host-local", "--conf", conf, "--gc-every", "0s"]);
    let installed = host.lab.join("net.d/10-net.conf");
    agent.until(&["bin/sublet: installed"]);
    agent.until(&["bin/host-local: replaced"]);
    agent.until(&["net.d/10-net.conf: installed"]);

    fs::remove_file(host.plugin("sublet")).unwrap();
    agent.until(&["bin/sublet: installed"]);
    assert_eq!(fs::read(host.plugin("sublet")).unwrap(), fs::read(SUBLET).unwrap());
    // Overwrite an installed plugin, as another program might: first `sublet`, then `host-local`. The agent
    // must reinstall sublet each time.
    for name in ["sublet", "host-local"] {
        replace(&host.plugin(name), "another");
        agent.until(&[&format!("bin/{name}: replaced"), &format!("bin/{name}.old")]);
        assert!(is_sublet(&host.plugin(name)), "{name}");
        assert_eq!(fs::read_to_string(host.plugin(&format!("{name}.old"))).unwrap(), "another");
    }
    // Overwrite the installed file in place. The file keeps its inode, but the agent must notice the change.
    fs::write(host.plugin("sublet"), FORMER).unwrap();
    agent.until(&["bin/sublet: replaced"]);
    assert!(is_sublet(&host.plugin("sublet")));
    fs::remove_file(&installed).unwrap();
    agent.until(&["net.d/10-net.conf: installed"]);

    // Change the configuration that the agent installs, first to an invalid one, then to a valid one.
    replace(&source_of_conf, r#"{"name": "net", "ipam": {"type": "sublet"}}"#);
    agent.until(&["sublet: ", "10-net.conf:1:"]);
    assert!(fs::read_to_string(&installed).unwrap().contains("10.9.0.0/24"));
    fs::remove_file(host.plugin("sublet")).unwrap();
    agent.until(&["bin/sublet: installed"]);
    source(&host, 8);
    agent.until(&["net.d/10-net.conf: replaced"]);
    assert!(fs::read_to_string(&installed).unwrap().contains("10.8.0.0/24"));
    assert_eq!(agent.end("TERM"), Some(0));
}

#[test]
fn what_cannot_be_restored_now_is_restored_later() {
    let host = Host::new();
    let agent = Agent::of(&host, &["--gc-every", "0s"]);
    agent.until(&["bin/sublet: installed"]);
    fs::remove_file(host.plugin("sublet")).unwrap();
    fs::create_dir(host.plugin("sublet")).unwrap();
    agent.until(&["sublet: ", "bin/sublet", "the path is a folder"]);
    fs::remove_dir(host.plugin("sublet")).unwrap();
    agent.until(&["bin/sublet: installed"]);
}

#[test]
fn it_searches_for_stale_leases_again_and_again() {
    let host = Host::new();
    let mut agent = Agent::of(&host, &["--gc-every", "10ms"]);
    // Without a store, only the search for stale leases may fail. The agent must keep installing files.
    agent.until(&["sublet: gc: ", "does not exist"]);
    let conf = crate::lab::conf(&host.lab.data_dir(), "10.4.0.0/24");
    crate::lab::Call::cni("ADD", "c1", &conf).run().ok();
    for _ in 0..2 {
        agent.until(&["0 stale, 0 freed, 1 undetermined, 0 in use"]);
    }
    assert_eq!(agent.end("INT"), Some(0));
}

#[test]
fn what_makes_no_sense_ends_it_at_once() {
    let host = Host::new();
    fs::create_dir(host.plugin("sublet")).unwrap();
    for (options, code) in [(&["--as", "bridge"][..], 2), (&["--json"], 2), (&[], 1)] {
        let mut agent = Agent::of(&host, options);
        assert_eq!(agent.child.wait().unwrap().code(), Some(code), "{options:?}");
    }
}
