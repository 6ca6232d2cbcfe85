//! Compares sublet with Debian's host-local. The configurations and sequences of commands are random, but the
//! same in every run of the test. Both programs get the same input, except for `dataDir`. The exit status,
//! the addresses, the JSON and the beginning of each message must be the same. [`WANTED`] lists the
//! exceptions, and each exception must occur.
//!
//! A failed ADD of sublet changes nothing, but a failed ADD of host-local may move cursors and remove leases.
//! The test therefore restores host-local's folder after each failed or repeated ADD, and can then continue
//! the comparison.

mod conf;

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use serde_json::{Value, json};

use self::conf::Conf;
use crate::lab::{Answer, Call, Dice, HOST_LOCAL, Lab, SUBLET, addresses, need_host_local};

const CASES: u64 = 320;

/// The intended differences, each with its reason.
const WANTED: &[(&str, &str)] = &[
    (
        "code",
        "host-local returns code 999 for nearly every error; sublet returns the codes of the \
         specification and the codes 100 to 103",
    ),
    (
        "order of what is left",
        "host-local lists, in a random order, the requested addresses that no range set has used; sublet \
         lists them in the order of the request",
    ),
    (
        "pod identity",
        "sublet accepts the arguments with which Kubernetes names the pod, and stores them in the \
         lease; host-local refuses them unless IgnoreUnknown is set",
    ),
    ("way out", "sublet's messages consist of host-local's message and what to do"),
    (
        "empty dns",
        "for CNI 1.0.0, host-local 1.1.1 prints \"dns\":{}; the specification and newer versions of \
         host-local leave it out",
    ),
    ("repeated ADD", "if an ADD is repeated, sublet returns the existing lease of the owner"),
    (
        "second address",
        "sublet refuses a repeated ADD that requests a different address; host-local leases a second \
         address",
    ),
    (
        "refused repeat",
        "with onDuplicate \"error\", sublet's message always names the existing lease; host-local's \
         message names the requested address, or host-local leases a second address",
    ),
    (
        "failed ADD",
        "in sublet, a failed ADD changes nothing; host-local moves its cursors, and may free the \
         container's existing lease",
    ),
    ("broken DEL", "sublet's DEL works even if the configuration has become invalid"),
    (
        "two in one set",
        "if two addresses of one range set are requested, host-local leases a random one; sublet \
         always leases the first one",
    ),
    ("small subnet", "sublet can lease addresses of a /31, /32, /127 or /128"),
    (
        "start behind end",
        "sublet refuses a rangeStart after the default rangeEnd; host-local leases addresses outside \
         the subnet",
    ),
    (
        "nothing to give",
        "sublet refuses a range set that contains only gateways as an invalid configuration; \
         host-local reports it as full",
    ),
];

/// How often each difference in [`WANTED`] occurred.
type Seen = Mutex<BTreeMap<&'static str, u64>>;

fn seen(seen: &Seen, name: &'static str) {
    assert!(WANTED.iter().any(|(n, _)| *n == name), "{name} is not listed");
    *seen.lock().unwrap().entry(name).or_default() += 1;
}

#[test]
fn answers_as_host_local_does() {
    need_host_local();
    let tally = Seen::default();
    let failed: Mutex<Vec<u64>> = Mutex::default();
    thread::scope(|scope| {
        for half in 0..2 {
            let (tally, failed) = (&tally, &failed);
            scope.spawn(move || {
                for number in (0..CASES).filter(|n| n % 2 == half) {
                    // Continue after a failed comparison, so that the test reports all differences.
                    let play = AssertUnwindSafe(|| Case::new(number, tally).play());
                    if catch_unwind(play).is_err() {
                        failed.lock().unwrap().push(number);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} cases differ: {failed:?}", failed.len());
    let tally = tally.into_inner().unwrap();
    let missing: Vec<&str> =
        WANTED.iter().map(|(name, _)| *name).filter(|name| !tally.contains_key(name)).collect();
    assert!(missing.is_empty(), "listed and never seen: {missing:?}, of {tally:?}");
}

/// A configuration, and a folder for each of the two programs.
struct Case<'a> {
    number: u64,
    dice: Dice,
    conf: Conf,
    /// The addresses that a step may request.
    pool: Vec<String>,
    ours: Lab,
    theirs: Lab,
    /// The results of the ADDs whose leases still exist, by `container/ifname`.
    held: BTreeMap<String, Value>,
    log: Vec<String>,
    seen: &'a Seen,
}

/// One command, which both programs run.
struct Step {
    command: &'static str,
    container: String,
    ifname: &'static str,
    args: Option<String>,
    conf: Value,
    /// The requested addresses. CNI offers three ways to request addresses, and a step may use any of them.
    asked: Vec<String>,
}

impl Case<'_> {
    fn new(number: u64, seen: &Seen) -> Case<'_> {
        let mut dice = Dice(number);
        let (conf, pool) = Conf::random(&mut dice);
        Case {
            number,
            dice,
            conf,
            pool,
            ours: Lab::new(),
            theirs: Lab::new(),
            held: BTreeMap::new(),
            log: Vec::new(),
            seen,
        }
    }

    fn play(mut self) {
        for _ in 0..4 + self.dice.below(10) {
            let step = self.step();
            if !self.compare(&step) {
                break;
            }
        }
    }

    fn step(&mut self) -> Step {
        let dice = &mut self.dice;
        let command = *dice.pick(&["ADD", "ADD", "ADD", "ADD", "DEL", "DEL", "CHECK"]);
        let container = format!("c{}", dice.below(6));
        let ifname = *dice.pick(&["eth0", "eth0", "eth0", "net1"]);
        let mut conf = self.conf.0.clone();
        let mut args = None;
        let mut asked = Vec::new();
        if command == "ADD" && dice.once_in(3) {
            for _ in 0..=dice.below(2) {
                let address = dice.pick(&self.pool).clone();
                let text = if dice.once_in(4) { format!("{address}/24") } else { address.clone() };
                match dice.below(3) {
                    0 if args.is_none() => args = Some(format!("IgnoreUnknown=1;IP={text}")),
                    1 => push(&mut conf["args"]["cni"]["ips"], &text),
                    _ => push(&mut conf["runtimeConfig"]["ips"], &text),
                }
                asked.push(address.parse::<IpAddr>().unwrap().to_string());
            }
        } else if dice.once_in(12) {
            let text = *dice.pick(&["K8S_POD_NAME=x", "IP=nonsense", "IgnoreUnknown=1;", "IP"]);
            args = Some(text.to_owned());
        }
        if command == "CHECK"
            && let Some(previous) = self.held.get(&format!("{container}/{ifname}"))
        {
            conf["prevResult"] = previous.clone();
        }
        Step { command, container, ifname, args, conf, asked }
    }

    fn run(program: &str, lab: &Lab, step: &Step) -> Answer {
        let mut conf = step.conf.clone();
        conf["ipam"]["dataDir"] = json!(lab.data_dir());
        if conf["ipam"]["resolvConf"] == json!("@") {
            let path = lab.join("resolv.conf");
            fs::write(&path, "search a.example b.example\nnameserver 192.0.2.3\n").unwrap();
            conf["ipam"]["resolvConf"] = json!(path.display().to_string());
        }
        let mut call = Call::cni(step.command, &step.container, &conf)
            .program(program)
            .env("CNI_IFNAME", step.ifname);
        if let Some(args) = &step.args {
            call = call.env("CNI_ARGS", args);
        }
        call.run()
    }

    /// Runs a step with both programs and compares the results. Returns false if the case cannot continue.
    fn compare(&mut self, step: &Step) -> bool {
        self.log.push(format!(
            "{} {}/{} args {:?} asked {:?}",
            step.command, step.container, step.ifname, step.args, step.asked
        ));
        let folder = self.theirs.join("data");
        let before = snapshot(&folder);
        let theirs = Self::run(HOST_LOCAL, &self.theirs, step);
        let ours = Self::run(SUBLET, &self.ours, step);
        self.log.push(format!("  theirs {theirs:?}\n  ours   {ours:?}"));
        match step.command {
            "ADD" => self.compare_add(step, &theirs, &ours, &before, &folder),
            "DEL" => self.compare_del(step, &theirs, &ours),
            _ => self.compare_check(step, &theirs, &ours),
        }
    }

    fn compare_add(
        &mut self,
        step: &Step,
        theirs: &Answer,
        ours: &Answer,
        before: &Files,
        folder: &Path,
    ) -> bool {
        let owner = format!("{}/{}", step.container, step.ifname);
        if self.pod_identity(step, theirs) {
            // host-local refuses the pod's name before it reads its leases, but sublet accepts the name.
            // After this, the stores differ.
            return false;
        }
        if let Some(previous) = self.held.get(&owner).cloned()
            && !self.refuses_input(theirs)
        {
            self.compare_repeat(step, theirs, ours, &previous);
            restore(before, folder);
            return true;
        }
        if theirs.code == Some(0) {
            if self.conf.starts_behind_end() {
                seen(self.seen, "start behind end");
                let (code, msg) = self.failed(ours);
                self.check(code == 7 && msg.contains("not in network"), "start behind end");
                return false;
            }
            self.check(ours.code == Some(0), "host-local succeeded");
            let (mut theirs, ours) = (theirs.json(), ours.json());
            if theirs["cniVersion"] == json!("1.0.0") && theirs["dns"] == json!({}) {
                seen(self.seen, "empty dns");
                theirs.as_object_mut().unwrap().remove("dns");
            }
            self.check(theirs == ours, "another result");
            self.held.insert(owner, ours);
            return true;
        }
        let after = snapshot(folder);
        if after != *before {
            seen(self.seen, "failed ADD");
            restore(before, folder);
        }
        let (_, text) = self.failed(theirs);
        if text.contains("too small to allocate from") {
            seen(self.seen, "small subnet");
            return false;
        }
        let (code, msg) = self.failed(ours);
        if msg.contains("no allocatable address is left in") {
            seen(self.seen, "nothing to give");
            self.check(code == 7 && text.starts_with("failed to allocate"), "nothing to give");
            return false;
        }
        if self.conf.two_in_one_set(&step.asked) && !self.refuses_input(theirs) {
            // Count this difference as seen, even if both programs happen to choose the same address.
            seen(self.seen, "two in one set");
            if !msg.starts_with(&text) {
                self.check(matches!(code, 101 | 102), "code of two in one set");
                return true;
            }
        }
        if self.conf.starts_behind_end() {
            seen(self.seen, "start behind end");
            self.check(matches!(code, 4 | 7), "start behind end");
            return false;
        }
        self.same_failure((code, msg), theirs);
        true
    }

    /// Returns whether host-local refused a step because its arguments contain a pod's name. sublet accepts
    /// them; this difference is intended.
    fn pod_identity(&self, step: &Step, theirs: &Answer) -> bool {
        let refused = step.args.as_deref() == Some("K8S_POD_NAME=x")
            && theirs.code != Some(0)
            && theirs.error().1 == r#"ARGS: unknown args ["K8S_POD_NAME=x"]"#;
        if refused {
            seen(self.seen, "pod identity");
        }
        refused
    }

    /// Compares the results of a repeated ADD, that is, of an ADD whose owner already has a lease.
    fn compare_repeat(&mut self, step: &Step, theirs: &Answer, ours: &Answer, previous: &Value) {
        let had = addresses(previous);
        if self.conf.0["ipam"]["onDuplicate"] == json!("error") {
            let (code, msg) = self.failed(ours);
            let start = format!(
                "failed to allocate for range 0: {} has been allocated to {}, duplicate allocation \
                 is not allowed",
                had[0], step.container
            );
            self.check(code == 101 && msg.starts_with(&start), "refused repeat");
            if theirs.code == Some(0) || !theirs.error().1.starts_with(&start) {
                self.check(!step.asked.is_empty(), "another refusal without a reason");
                seen(self.seen, "refused repeat");
            }
            return;
        }
        let other = step.asked.iter().any(|a| !had.contains(a));
        if other {
            seen(self.seen, "second address");
            let (code, _) = self.failed(ours);
            self.check(matches!(code, 101 | 102), "second address");
        } else {
            self.check(theirs.code != Some(0), "host-local repeated an ADD");
            seen(self.seen, "repeated ADD");
            self.check(ours.code == Some(0), "repeated ADD");
            self.check(ours.json() == *previous, "repeated ADD: another answer");
        }
    }

    fn compare_del(&mut self, step: &Step, theirs: &Answer, ours: &Answer) -> bool {
        if theirs.code != Some(0) && theirs.error().0 == 1 {
            // Both programs must refuse an unknown version for every command.
            self.same_failure(self.failed(ours), theirs);
            return true;
        }
        self.check((ours.code, ours.stdout.as_str()) == (Some(0), ""), "DEL");
        if theirs.code != Some(0) {
            seen(self.seen, "broken DEL");
            // sublet has freed the lease, but host-local has not. The stores differ now, so the case cannot
            // continue.
            return false;
        }
        self.held.remove(&format!("{}/{}", step.container, step.ifname));
        true
    }

    fn compare_check(&mut self, step: &Step, theirs: &Answer, ours: &Answer) -> bool {
        if self.pod_identity(step, theirs) {
            return true;
        }
        self.check((theirs.code == Some(0)) == (ours.code == Some(0)), "CHECK");
        if theirs.code == Some(0) {
            self.check(ours.stdout.is_empty(), "CHECK speaks");
            let owner = format!("{}/{}", step.container, step.ifname);
            self.check(self.held.contains_key(&owner), "CHECK of nothing");
        } else if !self.conf.small() {
            let (code, msg) = self.failed(ours);
            if self.conf.starts_behind_end() || msg.contains("no allocatable address is left in") {
                self.check(matches!(code, 4 | 7), "CHECK of a configuration we refuse");
            } else {
                self.same_failure((code, msg), theirs);
            }
        }
        true
    }

    /// Checks that sublet's message begins with host-local's message, and that sublet's error code is the
    /// intended one.
    fn same_failure(&self, (code, msg): (i64, String), theirs: &Answer) {
        let (their_code, text) = self.failed(theirs);
        let text = text.trim_start_matches("host-local: ");
        let left = |text: &str| -> Option<Vec<String>> {
            let list = text.strip_prefix("failed to allocate all requested IPs: ")?;
            let list = list.split(';').next()?.split(' ');
            let mut list: Vec<String> = list.map(str::to_owned).collect();
            list.sort();
            Some(list)
        };
        if let Some(theirs) = left(text).filter(|l| l.len() > 1) {
            seen(self.seen, "order of what is left");
            self.check(left(&msg) == Some(theirs), "other addresses are left");
        } else if msg != text {
            seen(self.seen, "way out");
            self.check(msg.starts_with(text), "another message");
        }
        if code != their_code {
            seen(self.seen, "code");
            self.check(their_code == 999, "another code");
            let expected: &[i64] = match text {
                t if t.contains("no IP addresses available in range set") => &[100],
                t if t.contains("is not available in range set") => &[101],
                t if t.contains("failed to allocate all requested IPs") => &[102],
                t if t.contains("is subnet's gateway") => &[102],
                t if t.contains("Failed to find address added by") => &[103],
                t if t.starts_with("ARGS") => &[4, 7],
                _ => &[6, 7],
            };
            self.check(expected.contains(&code), "not the code of this message");
        }
    }

    fn failed(&self, answer: &Answer) -> (i64, String) {
        self.check(answer.code != Some(0), "an answer where an error is expected");
        answer.error()
    }

    /// Returns whether host-local refuses the input of a step before it reads any lease.
    fn refuses_input(&self, theirs: &Answer) -> bool {
        theirs.code != Some(0) && {
            let (code, msg) = self.failed(theirs);
            code != 999 || !msg.starts_with("failed to allocate")
        }
    }

    fn check(&self, holds: bool, what: &str) {
        assert!(holds, "{what}: case {}\n{}\n{}", self.number, self.conf.0, self.log.join("\n"));
    }
}

fn push(place: &mut Value, text: &str) {
    match place.as_array_mut() {
        Some(list) => list.push(json!(text)),
        None => *place = json!([text]),
    }
}

/// The content of each file in a folder, by file name.
type Files = BTreeMap<String, Vec<u8>>;

fn snapshot(folder: &Path) -> Files {
    let mut files = Files::new();
    for network in fs::read_dir(folder).into_iter().flatten() {
        let network = network.unwrap().path();
        for file in fs::read_dir(&network).into_iter().flatten() {
            let file = file.unwrap().path();
            let name = file.strip_prefix(folder).unwrap().display().to_string();
            if !name.ends_with("/lock") {
                files.insert(name, fs::read(&file).unwrap());
            }
        }
    }
    files
}

fn restore(files: &Files, folder: &Path) {
    for name in snapshot(folder).keys() {
        fs::remove_file(folder.join(name)).unwrap();
    }
    for (name, bytes) in files {
        fs::write(folder.join(name), bytes).unwrap();
    }
}
