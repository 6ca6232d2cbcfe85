//! A system call fails, or the process is killed at it: every one of an ADD and of a DEL that writes,
//! flushes, opens or names a file of the store's. The answer is right, and so is the store after it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use sublet::model::Persist;

use crate::lab::{Answer, Call, Lab, addresses, conf};
use crate::peers::power::trace::{CALLS, strace};
use crate::store_check::{self as check, Truth};

/// What each call may fail with; all may be the last one of a process.
const FAULTS: [(&str, &[&str]); 8] = [
    ("mkdir", &["ENOSPC", "EROFS", "EIO"]),
    ("openat", &["ENOSPC", "EROFS", "EMFILE", "EIO"]),
    ("write", &["ENOSPC", "EIO"]),
    ("pwrite64", &["ENOSPC", "EIO"]),
    ("ftruncate", &["ENOSPC", "EIO"]),
    ("fdatasync", &["ENOSPC", "EIO"]),
    ("fsync", &["ENOSPC", "EIO"]),
    ("rename", &["ENOSPC", "EROFS", "EIO"]),
];

struct Case {
    persist: &'static str,
    command: &'static str,
    container: &'static str,
    /// The folder before the call.
    before: Lab,
    truth: Truth,
}

/// One system call of the store's.
struct Step {
    name: &'static str,
    /// Among those of its name.
    n: usize,
    /// The commit is made by then.
    after_commit: bool,
    /// It writes the answer.
    answers: bool,
}

impl Case {
    fn new(persist: &'static str, command: &'static str, container: &'static str) -> Case {
        Case { persist, command, container, before: Lab::new(), truth: Truth::default() }
    }

    /// With leases of `a` and `b`.
    fn with_leases(mut self) -> Case {
        for container in ["a", "b"] {
            let answer = self.call("ADD", container, &self.before).run().ok();
            let address = addresses(&answer).remove(0);
            self.truth.acknowledged.insert(container.to_owned(), address);
        }
        self
    }

    fn call(&self, command: &str, container: &str, lab: &Lab) -> Call {
        let mut conf = conf(&lab.data_dir(), check::SUBNET);
        conf["ipam"]["persist"] = self.persist.into();
        Call::cni(command, container, &conf)
    }

    /// A copy of the folder.
    fn lab(&self) -> Lab {
        let lab = Lab::new();
        let folder = self.before.join("data");
        if folder.exists() {
            fs::create_dir(lab.join("data")).unwrap();
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), lab.join("data").join(entry.file_name())).unwrap();
            }
        }
        lab
    }

    /// The system calls of an undisturbed run, in their order.
    fn steps(&self) -> Vec<Step> {
        let lab = self.lab();
        let trace = format!("trace={CALLS}");
        let call = self.call(self.command, self.container, &lab);
        let (answer, text) = strace(&call, &["-y", "-e", &trace]);
        assert_eq!(answer.code, Some(0), "{answer:?}");
        let root = lab.path().to_str().unwrap();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut steps = Vec::new();
        let lines: Vec<&str> = text.lines().collect();
        // The header is written once more when all pages are: that is the commit.
        let commit = |line: &str| {
            let store = line.contains("leases.redb") && line.contains(">, \"redb");
            store && line.starts_with("pwrite64(")
        };
        let commit = lines.iter().rposition(|line| commit(line)).unwrap();
        for (at, line) in lines.into_iter().enumerate() {
            let name = line.split('(').next().unwrap();
            let Some((name, _)) = FAULTS.iter().find(|(n, _)| *n == name) else { continue };
            let n = counts.entry(name).or_default();
            *n += 1;
            let answers = *name == "write" && line.contains("<pipe:");
            if line.contains(root) || answers {
                steps.push(Step { name, n: *n, after_commit: at > commit, answers });
            }
        }
        steps
    }

    /// All faults at all steps; how many there were, and how many of them were refused.
    fn run(&self) -> (usize, usize) {
        let (mut count, mut refused) = (0, 0);
        for step in self.steps() {
            let (_, errors) = FAULTS.iter().find(|(name, _)| *name == step.name).unwrap();
            let faults = errors.iter().map(|e| format!("error={e}"));
            for fault in faults.chain(["signal=KILL".to_owned()]) {
                let inject = format!("inject={}:{fault}:when={}", step.name, step.n);
                let name =
                    format!("{} {} {}: {inject}", self.persist, self.command, self.container);
                refused += usize::from(self.with_fault(&step, &inject, &name));
                count += 1;
            }
        }
        (count, refused)
    }

    fn with_fault(&self, step: &Step, inject: &str, name: &str) -> bool {
        let lab = self.lab();
        let call = self.call(self.command, self.container, &lab);
        let (answer, text) = strace(&call, &["-e", &format!("trace={CALLS}"), "-e", inject]);
        assert!(text.contains("INJECTED") || text.contains("= ?"), "{name}: nothing happened");
        let killed = inject.contains("KILL");
        let adds = self.command == "ADD";
        let mut truth = self.truth.clone();
        match answer.code {
            Some(0) if adds => {
                let address = addresses(&answer.ok()).remove(0);
                truth.acknowledged.insert(self.container.to_owned(), address);
            }
            Some(0) => {
                answer.silent();
                truth.acknowledged.remove(self.container);
            }
            _ => {
                if killed {
                    assert!(answer.code != Some(1), "{name}: {answer:?}");
                } else if !step.answers {
                    is_error(&answer, name);
                }
                // Killed after the commit, or failed: it may have happened, and then stands.
                if killed || step.after_commit && !step.answers {
                    truth.open.insert(self.container.to_owned());
                }
            }
        }
        let persist = if self.persist == "disk" { Persist::Disk } else { Persist::Boot };
        self.repeat(&lab, persist, &truth, name);
        answer.code == Some(1)
    }

    /// What is there now is right, and stays so when the call is made again.
    fn repeat(&self, lab: &Lab, persist: Persist, truth: &Truth, name: &str) {
        let store = &mut *check::open(&lab.store(), persist);
        let rows: BTreeMap<_, _> = check::list(store, &check::now())
            .unwrap_or_else(|e| panic!("{name}: {e}"))
            .iter()
            .map(check::row)
            .collect();
        let again = self.call(self.command, self.container, lab).run();
        assert_eq!(again.code, Some(0), "{name}: again: {again:?}");
        let mut then = truth.clone();
        then.open.clear();
        if self.command == "ADD" {
            let address = addresses(&again.ok()).remove(0);
            if let Some(before) = rows.get(self.container) {
                assert_eq!(address, *before, "{name}: again");
            }
            then.acknowledged.insert(self.container.to_owned(), address);
        } else {
            then.acknowledged.remove(self.container);
        }
        same(&rows, truth, name);
        check::store(&lab.store(), persist, &check::now(), &then)
            .unwrap_or_else(|e| panic!("{name}: after it: {e}"));
    }
}

/// What is listed is what was answered; only an open call may be there or not.
fn same(rows: &BTreeMap<String, String>, truth: &Truth, name: &str) {
    let settled = |(container, _): &(&String, &String)| !truth.open.contains(*container);
    let left: Vec<_> = rows.iter().filter(settled).collect();
    let right: Vec<_> = truth.acknowledged.iter().filter(settled).collect();
    assert_eq!(left, right, "{name}");
}

/// One JSON error: try again, or the store is damaged.
fn is_error(answer: &Answer, name: &str) {
    let (code, msg) = answer.error();
    assert!(matches!(code, 11 | 104), "{name}: {code} {msg}");
    assert!(!msg.is_empty(), "{name}");
}

fn all(case: &Case) {
    let (count, refused) = case.run();
    // Some are no harm: a hint that could not be left, a lock file that is there already.
    assert!(count > 20 && refused > 10, "{count} faults, {refused} refused");
    assert!(Path::new(&case.before.data_dir()).exists() || case.truth == Truth::default());
}

#[test]
fn first_add_on_disk() {
    all(&Case::new("disk", "ADD", "c"));
}

#[test]
fn add_on_disk() {
    all(&Case::new("disk", "ADD", "c").with_leases());
}

#[test]
fn del_on_disk() {
    all(&Case::new("disk", "DEL", "a").with_leases());
}

#[test]
fn first_add_of_a_boot() {
    all(&Case::new("boot", "ADD", "c"));
}

#[test]
fn add_of_a_boot() {
    all(&Case::new("boot", "ADD", "c").with_leases());
}

#[test]
fn del_of_a_boot() {
    all(&Case::new("boot", "DEL", "a").with_leases());
}
