//! A host with containers, for plugins that create real interfaces. The host is a network namespace, and each
//! container is another network namespace. The namespaces are not visible outside the test. They end when the
//! `Host` is dropped or the test's process ends.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::lab::{Answer, Call};

/// A shell command that keeps the host's namespaces alive until its standard input is closed. It mounts a
/// private /run, because `ip netns` stores the names of namespaces there.
const HOLDER: &str = "mount -t tmpfs none /run && ip link set lo up && echo ready && exec cat";

/// Switches off duplicate address detection, which would delay the use of each IPv6 address.
const QUICK: &str = "for f in /proc/sys/net/ipv6/conf/*/accept_dad; do echo 0 > $f; done";

pub struct Host {
    holder: Child,
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

impl Host {
    /// Makes a host with containers that have these names.
    pub fn new(containers: &[&str]) -> Host {
        // Also create a user namespace, so that the test does not need root.
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "--mount", "--propagation", "private"])
            .args(["sh", "-c", HOLDER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare, of util-linux");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "no namespaces of our own: are user namespaces forbidden?");
        let host = Host { holder };
        host.quick(&[]);
        for name in containers {
            host.ip(&["netns", "add", name]);
            host.quick(&["ip", "netns", "exec", name]);
        }
        host
    }

    /// Runs a call in the namespaces of the host.
    pub fn on(&self, call: Call) -> Answer {
        let pid = self.holder.id().to_string();
        let options = ["--user", "--net", "--mount", "--preserve-credentials", "--target", &pid];
        call.under("nsenter", &options).run()
    }

    /// Runs a command that must succeed. Returns its standard output.
    #[track_caller]
    pub fn must(&self, words: &[&str]) -> String {
        let call = words[1..].iter().fold(Call::new(words[0]), |call, word| call.arg(word));
        let answer = self.on(call);
        answer.check(answer.succeeded(), "it has to succeed");
        answer.stdout
    }

    #[track_caller]
    pub fn ip(&self, words: &[&str]) -> String {
        self.must(&[&["ip"], words].concat())
    }

    fn quick(&self, under: &[&str]) {
        self.must(&[under, &["sh", "-c", QUICK]].concat());
    }

    /// Returns the path of a container's network namespace, in the form in which a runtime passes it.
    pub fn netns(container: &str) -> PathBuf {
        PathBuf::from("/run/netns").join(container)
    }

    /// Creates an interface that macvlan and ipvlan interfaces can use as their parent. It is one end of a
    /// veth pair; the other end is not used.
    pub fn uplink(&self, name: &str) {
        let peer = format!("{name}-peer");
        self.ip(&["link", "add", name, "type", "veth", "peer", "name", &peer]);
        self.ip(&["link", "set", name, "up"]);
        self.ip(&["link", "set", &peer, "up"]);
        self.quick(&[]);
    }

    #[track_caller]
    pub fn ping(&self, from: &str, to: &str) {
        self.must(&["ip", "netns", "exec", from, "ping", "-q", "-c", "1", "-W", "5", to]);
    }

    /// Returns the interfaces of a container, except those that the kernel creates.
    pub fn links(&self, container: &str) -> Vec<String> {
        self.ip(&["-n", container, "-o", "link", "show"])
            .lines()
            .filter_map(|line| line.split(": ").nth(1)?.split('@').next().map(str::to_owned))
            .filter(|name| !["lo", "sit0", "tunl0", "ip6tnl0"].contains(&name.as_str()))
            .collect()
    }
}
