//! Tests a disk that is full, becomes full, or is read-only. A failed ADD must leave no lease, no existing
//! lease may be lost, and commands that only read must still work.
//!
//! The disk is a tmpfs in a mount namespace of its own. The test accesses it through `/proc/PID/root`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::lab::{Answer, Call, Lab, addresses, by_attachment, list, root};

/// A tmpfs of 4 MiB in a mount namespace of its own.
struct Disk {
    /// A shell that keeps the mount namespace alive. The test mounts the disk through this shell.
    shell: Child,
    answers: BufReader<ChildStdout>,
    place: String,
    path: PathBuf,
    _lab: Lab,
}

impl Disk {
    fn new() -> Disk {
        let lab = Lab::new();
        let place = lab.path().display().to_string();
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if !root() {
            command.arg("--map-root-user");
        }
        // `unshare` executes the shell in its own process, so the process ID of `unshare` is also that of the
        // shell in the namespace.
        let mut shell = command
            .arg("sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("unshare: {e}"));
        let answers = BufReader::new(shell.stdout.take().unwrap());
        let path = PathBuf::from(format!("/proc/{}/root{place}", shell.id()));
        let mut disk = Disk { shell, answers, place, path, _lab: lab };
        disk.mount("-t tmpfs -o size=4m none");
        fs::create_dir(disk.path.join("data")).unwrap();
        disk
    }

    fn mount(&mut self, how: &str) {
        writeln!(self.shell.stdin.as_ref().unwrap(), "mount {how} {}; echo $?", self.place)
            .unwrap();
        let mut status = String::new();
        self.answers.read_line(&mut status).unwrap();
        assert_eq!(status, "0\n", "mount {how}");
    }

    fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    fn store(&self) -> PathBuf {
        self.data().join("leases.redb")
    }

    /// Fills the disk, except for `left` KiB.
    fn fill(&self, left: u64) {
        let mut file = File::create(self.path.join("filler")).unwrap();
        let failure = loop {
            if let Err(e) = file.write_all(&[1; 4096]) {
                break e;
            }
        };
        assert_eq!(failure.kind(), ErrorKind::StorageFull, "{failure}");
        let len = file.metadata().unwrap().len();
        file.set_len(len.saturating_sub(left * 1024)).unwrap();
    }

    fn make_room(&self) {
        fs::remove_file(self.path.join("filler")).unwrap();
    }

    /// Makes a dual-stack network. With `sticky`, an ADD writes to both lease files (boot and durable).
    fn conf(&self, persist: &str, sticky: bool) -> Value {
        json!({
            "cniVersion": "1.1.0",
            "name": "mynet",
            "type": "bridge",
            "ipam": {
                "type": "sublet",
                "ranges": [[{"subnet": "10.4.0.0/16"}], [{"subnet": "fd04::/64"}]],
                "dataDir": self.data(),
                "persist": persist,
                "sticky": sticky
            }
        })
    }

    /// Checks that the error has code 11 and names the file.
    #[track_caller]
    fn try_again(&self, answer: &Answer) {
        let (code, msg) = answer.error();
        answer.check(code == 11, "code 11 was expected");
        answer.check(msg.contains(self.data().to_str().unwrap()), "which file?");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // When the shell's input ends, the shell ends. The namespace and the disk end with it.
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

fn call(command: &str, container: &str, conf: &Value) -> Call {
    let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME={container}");
    Call::cni(command, container, conf).env("CNI_ARGS", &args)
}

/// The leases of successful ADDs, as [`by_attachment`] returns them.
type Held = BTreeMap<String, Vec<String>>;

#[track_caller]
fn agrees(store: &Path, held: &Held, when: &str) {
    assert_eq!(by_attachment(&list(store)), *held, "{when}");
}

/// Tests a disk that is full before the first ADD. Each round leaves more free space on the disk, so the ADD
/// fails at a later step of creating the store.
fn full_before(persist: &str, sticky: bool) {
    let disk = Disk::new();
    let conf = disk.conf(persist, sticky);
    let (mut failures, mut successes) = (0, 0);
    for left in (0..40).map(|n| n * 4).chain([256, 512, 1024, 2048]) {
        disk.fill(left);
        let answer = call("ADD", "a", &conf).run();
        disk.make_room();
        let mut held = Held::new();
        if answer.succeeded() {
            successes += 1;
            held.insert("a/eth0".to_owned(), addresses(&answer.ok()));
        } else {
            failures += 1;
            disk.try_again(&answer);
        }
        agrees(&disk.store(), &held, &format!("{left} KiB were left"));
        let again = call("ADD", "a", &conf).run().ok();
        assert_eq!(addresses(&again), ["10.4.0.2", "fd04::2"], "{left} KiB were left");
        fs::remove_dir_all(disk.data()).unwrap();
        fs::create_dir(disk.data()).unwrap();
    }
    assert!(failures > 1 && successes > 1, "{failures} failures, {successes} successes");
}

#[test]
fn full_before_the_first_add_on_boot() {
    full_before("boot", false);
}

#[test]
fn full_before_the_first_add_on_disk() {
    full_before("disk", false);
}

#[test]
fn full_before_the_first_add_of_both_files() {
    full_before("boot", true);
}

/// Tests a disk that becomes full after the store has been created. ADDs run until one of them fails. Then
/// DELs run on the full disk, and then space is freed. Each round leaves a different amount of free space.
fn full_during(persist: &str, sticky: bool) {
    let disk = Disk::new();
    let conf = disk.conf(persist, sticky);
    let mut held = Held::new();
    let (mut failures, mut refused_dels) = (0, 0);
    let mut number = 0;
    let mut add = |held: &mut Held| {
        number += 1;
        let id = format!("c{number}");
        let answer = call("ADD", &id, &conf).run();
        if answer.succeeded() {
            held.insert(format!("{id}/eth0"), addresses(&answer.ok()));
        }
        answer
    };
    add(&mut held).ok();
    for round in 0..16 {
        let when = format!("round {round}");
        disk.fill(round * 4);
        for _ in 0..60 {
            let answer = add(&mut held);
            if !answer.succeeded() {
                failures += 1;
                disk.try_again(&answer);
                // Commands that only read must work although the disk is full.
                agrees(&disk.store(), &held, &when);
                break;
            }
        }
        let first = held.keys().next().unwrap().clone();
        let answer = call("DEL", first.trim_end_matches("/eth0"), &conf).run();
        if answer.succeeded() {
            answer.silent();
            held.remove(&first);
        } else {
            refused_dels += 1;
            disk.try_again(&answer);
        }
        disk.make_room();
        agrees(&disk.store(), &held, &when);
        add(&mut held).ok();
    }
    let all: Vec<&String> = held.values().flatten().collect();
    let mut distinct = all.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(all.len(), distinct.len(), "an address with two holders");
    assert!(failures > 0, "the disk was never full ({refused_dels} DELs were refused)");
}

#[test]
fn full_during_adds_on_boot() {
    full_during("boot", false);
}

#[test]
fn full_during_adds_on_disk() {
    full_during("disk", false);
}

#[test]
fn full_during_adds_of_both_files() {
    full_during("boot", true);
}

fn read_only(persist: &str) {
    let mut disk = Disk::new();
    let mut conf = disk.conf(persist, false);
    let result = call("ADD", "a", &conf).run().ok();
    disk.mount("-o remount,ro");
    let held = Held::from([("a/eth0".to_owned(), addresses(&result))]);
    agrees(&disk.store(), &held, "read-only");
    call("STATUS", "a", &conf).run().silent();
    conf["prevResult"] = result;
    call("CHECK", "a", &conf).run().silent();
    let (code, _) = call("CHECK", "b", &conf).run().error();
    assert_eq!(code, 103, "CHECK of a container without a lease");
    for (command, container) in [("ADD", "b"), ("DEL", "a")] {
        disk.try_again(&call(command, container, &conf).run());
    }
    agrees(&disk.store(), &held, "after ADD and DEL");
    disk.mount("-o remount,rw");
    call("DEL", "a", &conf).run().silent();
    agrees(&disk.store(), &Held::new(), "writable again");
}

#[test]
fn read_only_with_a_store_on_boot() {
    read_only("boot");
}

#[test]
fn read_only_with_a_store_on_disk() {
    read_only("disk");
}

#[test]
fn read_only_without_a_store() {
    let mut disk = Disk::new();
    let conf = disk.conf("boot", false);
    disk.mount("-o remount,ro");
    disk.try_again(&call("ADD", "a", &conf).run());
    // No ADD has ever succeeded on this disk, so `list` must report no leases.
    agrees(&disk.store(), &Held::new(), "no store");
    call("DEL", "a", &conf).run().silent();
    assert_eq!(fs::read_dir(disk.data()).unwrap().count(), 0);
}
