//! Simulates a kill and several power cuts after every file system operation of the program.
//!
//! The test runs the real program, records its file system operations, and then replays them. Each power cut
//! leaves a different subset of the unflushed changes on the disk. The test opens, reads and writes each
//! resulting image, as the next process would. `disk` is the model of the disk, `trace` records the
//! operations, and `store_check` contains the conditions.

mod boot;
mod controls;
mod disk;
mod stories;
pub mod trace;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use sublet::alloc::Context;
use sublet::model::Persist;
use tempfile::TempDir;

use self::disk::{Choice, Disk, Image};
use self::trace::Op;
use crate::lab::{Call, Dice, Lab, addresses, conf};
use crate::store_check::{self as check, Truth};

/// How many combinations of the unflushed changes the test tries for each power cut.
#[derive(Clone, Copy, Debug)]
pub struct Depth {
    /// If there are at most this many combinations, the test tries all of them.
    bound: usize,
    /// Whether, with more combinations than `bound`, the test tries each change alone and all changes but
    /// one, in each state.
    singles: bool,
    /// With more combinations than `bound`, the number of random combinations that the test tries in
    /// addition.
    random: usize,
}

/// The depth for a sequence that the test replays once.
pub const DEEP: Depth = Depth { bound: 256, singles: true, random: 40 };

/// The depth for a sequence with many unflushed changes.
pub const RANDOM: Depth = Depth { bound: 64, singles: false, random: 60 };

/// The depth for a sequence that is one of many.
pub const SHALLOW: Depth = Depth { bound: 32, singles: false, random: 12 };

/// The result of a replay.
#[derive(Debug, Default)]
pub struct Found {
    pub kills: usize,
    pub cuts: usize,
    /// The number of different images. Each different image is checked only once.
    pub images: usize,
    pub failed_kills: usize,
    pub failed_cuts: usize,
    pub example: Option<String>,
}

impl Found {
    /// Adds the counts of another replay to these counts.
    pub fn and(&mut self, other: Found) {
        self.kills += other.kills;
        self.cuts += other.cuts;
        self.images += other.images;
        self.failed_kills += other.failed_kills;
        self.failed_cuts += other.failed_cuts;
        self.example = self.example.take().or(other.example);
    }

    pub fn percent(&self) -> f64 {
        100.0 * f64::from(u32::try_from(self.failed_cuts).unwrap())
            / f64::from(u32::try_from(self.cuts).unwrap())
    }

    /// Asserts that no kill and no power cut lost a lease.
    pub fn nothing_wrong(&self, name: &str) {
        tell(&format!("{name}: {} kills, {} cuts, {} images", self.kills, self.cuts, self.images));
        assert_eq!((self.failed_kills, self.failed_cuts), (0, 0), "{name}: {:?}", self.example);
        assert!(self.cuts > 100 && self.images > 20, "{name}: hardly anything was tried: {self:?}");
    }
}

/// Prints a line to the test's output.
#[allow(clippy::print_stderr, reason = "prints figures to the output of the test")]
fn tell(text: &str) {
    eprintln!("{text}");
}

/// One call of the plugin, its file system operations and its result.
struct Step {
    container: String,
    adds: bool,
    /// The address that the call returned, if it is a successful ADD.
    address: Option<String>,
    ops: Vec<Op>,
    lived: bool,
}

/// A sequence of calls on one store.
pub struct Story {
    lab: Lab,
    persist: &'static str,
    begin: Disk,
    truth: Truth,
    steps: Vec<Step>,
}

impl Story {
    /// Begins a sequence in an empty folder. `prepare` may first write files to the folder, and returns the
    /// state that the test expects.
    pub fn new(persist: &'static str, prepare: impl FnOnce(&Lab) -> Truth) -> Story {
        let lab = Lab::new();
        let truth = prepare(&lab);
        let begin = Disk::of(lab.path());
        Story { lab, persist, begin, truth, steps: Vec::new() }
    }

    pub fn call(&self, command: &str, container: &str) -> Call {
        Call::cni(command, container, &self.conf())
    }

    fn conf(&self) -> serde_json::Value {
        let mut conf = conf(&self.lab.data_dir(), check::SUBNET);
        conf["ipam"]["persist"] = self.persist.into();
        conf
    }

    /// Adds a call that must succeed.
    pub fn call_and(mut self, command: &str, container: &str) -> Story {
        let call = self.call(command, container);
        let (answer, ops) = trace::record(&call, self.lab.path(), None);
        assert_eq!(answer.code, Some(0), "{command} {container}: {answer:?}");
        let adds = command == "ADD";
        let address = adds.then(|| addresses(&answer.ok()).remove(0));
        assert_eq!(ops.contains(&Op::Answer), adds, "{command} {container}: {ops:?}");
        let container = container.to_owned();
        self.steps.push(Step { container, adds, address, ops, lived: true });
        self
    }

    /// Adds a call that is killed at the n-th system call with this name. Returns whether the call was
    /// killed.
    pub fn killed_at(&mut self, command: &str, container: &str, name: &str, n: usize) -> bool {
        let call = self.call(command, container);
        let inject = format!("inject={name}:signal=KILL:when={n}");
        let (answer, ops) = trace::record(&call, self.lab.path(), Some(&inject));
        let (container, adds) = (container.to_owned(), command == "ADD");
        let lived = answer.code == Some(0);
        let address = (lived && adds).then(|| addresses(&answer.ok()).remove(0));
        self.steps.push(Step { container, adds, address, ops, lived });
        !lived
    }

    /// Returns the operations of all calls, each with the index of its call. A control test uses these to
    /// leave some of the operations out.
    pub fn ops(&self) -> Vec<(usize, &Op)> {
        let all = self.steps.iter().enumerate();
        all.flat_map(|(n, step)| step.ops.iter().map(move |op| (n, op))).collect()
    }

    /// Replays the sequence, but leaves out the operations with the indexes in `left_out`. Checks the state
    /// after each operation from the index `from` on.
    pub fn replay(&self, left_out: &[usize], from: usize, depth: Depth) -> Found {
        let mut replay = Replay {
            found: Found::default(),
            seen: HashMap::new(),
            dice: Dice(1),
            persist: if self.persist == "disk" { Persist::Disk } else { Persist::Boot },
            // The folder is on tmpfs, because the test writes and removes its files thousands of times.
            folder: TempDir::new_in("/dev/shm").unwrap(),
            depth,
        };
        let mut disk = self.begin.clone();
        let mut truth = self.truth.clone();
        let mut number = 0;
        for step in &self.steps {
            truth.open.insert(step.container.clone());
            for op in &step.ops {
                if !left_out.contains(&number) {
                    disk.apply(op);
                }
                if *op == Op::Answer {
                    step.settle(&mut truth);
                }
                if number >= from {
                    replay.look(&disk, &truth);
                }
                number += 1;
            }
            if step.lived {
                step.settle(&mut truth);
                if number > from {
                    replay.look(&disk, &truth);
                }
            }
        }
        replay.found
    }
}

impl Step {
    /// Records the result of a call that has returned: from now on, its effect must be present.
    fn settle(&self, truth: &mut Truth) {
        truth.open.remove(&self.container);
        match &self.address {
            Some(address) => {
                truth.acknowledged.insert(self.container.clone(), address.clone());
            }
            None => assert!(truth.acknowledged.remove(&self.container).is_some() || !self.adds),
        }
    }
}

struct Replay {
    found: Found,
    seen: HashMap<(u64, bool, Truth), Option<String>>,
    dice: Dice,
    persist: Persist,
    folder: TempDir,
    depth: Depth,
}

impl Replay {
    /// Checks the effect of a kill and of power cuts after an operation.
    fn look(&mut self, disk: &Disk, truth: &Truth) {
        self.found.kills += 1;
        if let Some(wrong) = self.check(&disk.killed(), truth, &check::now()) {
            self.found.failed_kills += 1;
            self.found.example.get_or_insert(format!("killed: {wrong}"));
        }
        // A power cut ends the boot, and therefore the boot leases.
        let after = match self.persist {
            Persist::Disk => truth.clone(),
            Persist::Boot => Truth::default(),
        };
        for choice in self.choices(&disk.states()) {
            self.found.cuts += 1;
            if let Some(wrong) = self.check(&disk.cut(&choice), &after, &check::rebooted()) {
                self.found.failed_cuts += 1;
                self.found.example.get_or_insert(format!("cut to {choice:?}: {wrong}"));
            }
        }
    }

    /// Returns the combinations of unflushed changes to try. If there are only a few combinations, these are
    /// all of them. Otherwise these are: no changes, all changes, each change alone, all changes but one, all
    /// changes up to each change, and random subsets with many or few changes.
    fn choices(&mut self, states: &[usize]) -> Vec<Choice> {
        let open: Vec<usize> = (0..states.len()).filter(|i| states[*i] > 1).collect();
        let count = open.iter().try_fold(1, |n: usize, i| {
            n.checked_mul(states[*i]).filter(|n| *n <= self.depth.bound)
        });
        let nothing = vec![0; states.len()];
        let mut all = Vec::new();
        if let Some(count) = count {
            for mut n in 0..count {
                let mut choice = nothing.clone();
                for i in &open {
                    choice[*i] = n % states[*i];
                    n /= states[*i];
                }
                all.push(choice);
            }
            return all;
        }
        let whole: Choice = states.iter().map(|n| n - 1).collect();
        if self.depth.singles {
            for i in &open {
                for state in 0..states[*i] {
                    for others in [&nothing, &whole] {
                        let mut choice = others.clone();
                        choice[*i] = state;
                        all.push(choice);
                    }
                }
            }
        }
        let step = if self.depth.singles { 1 } else { 1 + open.len() / 16 };
        for i in open.iter().step_by(step) {
            let prefix = |j: usize| if j <= *i { whole[j] } else { 0 };
            all.push((0..states.len()).map(prefix).collect());
        }
        for _ in 0..self.depth.random {
            let share = 1 + self.dice.below(9);
            let mut choice = nothing.clone();
            for i in &open {
                if self.dice.below(10) < share {
                    let others = u64::try_from(states[*i] - 1).unwrap();
                    choice[*i] = 1 + usize::try_from(self.dice.below(others)).unwrap();
                }
            }
            all.push(choice);
        }
        all.push(nothing);
        all.push(whole);
        all
    }

    /// Checks an image. Returns a description of what is wrong; `None` if the image is correct.
    fn check(&mut self, image: &Image, truth: &Truth, cx: &Context) -> Option<String> {
        let key = (image.hash(), cx.boot == check::now().boot, truth.clone());
        if let Some(before) = self.seen.get(&key) {
            return before.clone();
        }
        self.found.images += 1;
        let folder = self.folder.path().join("image");
        fs::create_dir(&folder).unwrap();
        image.write(&folder);
        let file = folder.join("data/leases.redb");
        let check = || check::store(&file, self.persist, cx, truth);
        let wrong = check::quietly(check).err();
        fs::remove_dir_all(&folder).unwrap();
        self.seen.insert(key, wrong.clone());
        wrong
    }
}

/// Leases addresses through the library.
fn lease(file: &Path, containers: &[&str]) -> Truth {
    let store = &mut *check::open(file, Persist::Disk);
    let given = |c: &&str| ((*c).to_owned(), check::given(store, c, &check::now()).unwrap());
    let acknowledged: BTreeMap<_, _> =
        containers.iter().map(given).map(|(c, a)| (c, a.to_string())).collect();
    Truth { acknowledged, ..Truth::default() }
}
