//! Makes each system call of a command fail, or kills the process at that call. Afterwards, no lease may be
//! lost, and no address may have two holders.
//!
//! strace counts the system calls of an undisturbed run, and then injects the faults. With `SUBLET_LONG`, all
//! faults are injected into every call. Otherwise, the test injects EIO only into calls that use the folder,
//! and into the first call that writes the result. It kills the process only at calls that change something.
//! After each run, the test makes two more ADDs, runs `list` and `doctor`, and repeats the command.

mod aftermath;
mod cases;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use self::aftermath::Claim;
use self::cases::Case;
use self::state::{State, fingerprint};
use crate::lab::Answer;
use crate::peers::power::trace::need_strace;

/// The faults that strace injects.
const FAULTS: [&str; 5] =
    ["signal=KILL", "error=EIO", "error=ENOSPC", "error=ENOMEM", "error=ESTALE"];

/// Faults that are not injected into certain system calls. Each entry contains the system call, the beginning
/// of the faults' names, and the reason.
const EXEMPT: [(&str, &str, &str); 3] = [
    ("execve", "", "strace starts the program with it, and reports the failure as its own"),
    ("futex", "", "the thread that shows progress sleeps and wakes: how often depends on the time"),
    (
        "close",
        "error",
        "the kernel closes even where it reports an error; strace leaves it open and locked",
    ),
];

/// The panics that the test accepts, because the standard library causes them: it cannot get a seed for a
/// hash map, or cannot start the thread that prints the progress.
const PANICS: [&str; 2] = ["failed to generate random data", "failed to spawn thread"];

/// A command is long if it makes more than this many calls that use the folder. In a long command, only one
/// in [`STRIDE`] of the calls that change nothing gets a fault, unless `SUBLET_LONG` is set.
const MANY: usize = 400;
const STRIDE: usize = 5;

/// A system call of the command.
struct Syscall {
    name: String,
    /// The number of this call among the calls with the same name, starting at 1.
    n: usize,
    reach: Reach,
}

/// How a system call uses the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    /// The call does not use the folder.
    Elsewhere,
    /// The call reads, locks or searches something in the folder.
    Looks,
    /// The call changes or flushes something in the folder, or it is the first call that writes the result.
    Changes,
}

/// The system calls that change or flush files. An `open` that creates a file also counts as a change.
const CHANGES: &str = "mkdir write pwrite64 ftruncate fsync fdatasync link linkat rename renameat2 unlink \
                       unlinkat rmdir";

#[expect(clippy::disallowed_methods, reason = "a test's own setting")]
fn long() -> bool {
    std::env::var_os("SUBLET_LONG").is_some()
}

/// Injects each fault into each system call of the command.
fn enumerate(case: &Case) {
    need_strace();
    case.save();
    let undisturbed = Undisturbed::of(case);
    let reaching = undisturbed.calls.iter().filter(|call| call.reach > Reach::Elsewhere).count();
    let stride = if reaching > MANY { STRIDE } else { 1 };
    let faults = |place: usize, call: &Syscall| match call.reach {
        _ if long() => &FAULTS[..],
        Reach::Changes => &FAULTS[..2],
        // Leave out the kill at this call. It would leave the same files as a kill at the next call that
        // changes something.
        Reach::Looks if place.is_multiple_of(stride) => &FAULTS[1..2],
        _ => &[],
    };
    let mut missed = Vec::new();
    let mut wrong = String::new();
    let mut seen = BTreeSet::new();
    for (place, call) in undisturbed.calls.iter().enumerate() {
        let Syscall { name, n, .. } = call;
        let exempt = |fault: &str| {
            EXEMPT.iter().any(|(exempt, of, _)| exempt == name && fault.starts_with(of))
        };
        for fault in faults(place, call).iter().filter(|fault| !exempt(fault)) {
            case.restore();
            let inject = format!("inject={name}:{fault}:when={n}");
            let only = format!("trace={name}");
            // `--seccomp-bpf` makes strace faster, but with this option strace 6.1 does not send the injected
            // signals.
            let (how, done) = if fault.starts_with("signal") {
                (&["-e"][..], "+++ killed by SIGKILL +++")
            } else {
                (&["-f", "--seccomp-bpf", "-e"][..], "(INJECTED)")
            };
            let (answer, trace) = strace(case, &[how, &[&only, "-e", &inject]].concat());
            if !trace.contains(done) {
                missed.push(inject.clone());
            }
            let claim = Claim::of(&answer);
            // The checks depend only on the content of the folder and on what the command reported, so each
            // combination is checked only once.
            let known = !seen.insert((fingerprint(&case.data()), claim));
            let says = |text: &str| answer.stderr.contains(text);
            let bug = says("bug in sublet") && !PANICS.iter().any(|text| says(text));
            let checked = match () {
                () if bug => Err("a bug".to_owned()),
                () if claim == Claim::Done && ips(&answer) != undisturbed.ips => {
                    Err(format!("another answer than {:?}", undisturbed.ips))
                }
                () if known => Ok(()),
                () => undisturbed.check(case, claim),
            };
            if let Err(why) = checked {
                let _ = writeln!(wrong, "{inject}: {why}\n    {answer:?}");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(missed.is_empty(), "these calls were counted, and not injected: {missed:?}");
    assert!(reaching > 20, "only {reaching} calls reach the folder");
}

/// Runs the command of a case under strace. Returns the command's result and the trace.
fn strace(case: &Case, options: &[&str]) -> (Answer, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let name = file.path().to_str().unwrap();
    let options = [&["-q", "-o", name], options].concat();
    let traced = case.placed(case.call.clone().under("strace", &options));
    let answer = traced.answer(traced.spawn());
    (answer, fs::read_to_string(file.path()).unwrap())
}

/// The calls and results of a run without a fault.
struct Undisturbed {
    calls: Vec<Syscall>,
    /// The state of the folder before the command; `None` if the store cannot be read.
    before: Option<State>,
    after: State,
    /// If the command is an ADD, the addresses that it returned.
    ips: Option<Vec<String>>,
}

fn ips(answer: &Answer) -> Option<Vec<String>> {
    answer.stdout.contains("\"ips\"").then(|| answer.ips())
}

impl Undisturbed {
    fn of(case: &Case) -> Undisturbed {
        let before = case.state().ok();
        // `list` may have created a lock file, so restore the folder once more.
        case.restore();
        let (answer, trace) = strace(case, &["-y"]);
        answer.check(answer.succeeded(), "the undisturbed run");
        let after = case.state().unwrap();
        assert!(before.is_some() || case.refusal.is_some());
        let shm = case.lab.path().parent().unwrap().to_str().unwrap();
        let mut counts = BTreeMap::new();
        let mut answered = false;
        let mut calls = Vec::new();
        for (name, rest) in trace.lines().filter_map(|line| line.split_once('(')) {
            let n = counts.entry(name.to_owned()).or_insert(0);
            *n += 1;
            let answers = name == "write" && rest.starts_with("1<");
            let changes = CHANGES.split_whitespace().any(|change| name == change);
            let (there, changes) = (rest.contains(shm), changes || rest.contains("O_CREAT"));
            let reach = match (there, changes) {
                (true, true) => Reach::Changes,
                (true, false) => Reach::Looks,
                (false, _) if answers && !answered => Reach::Changes,
                (false, _) => Reach::Elsewhere,
            };
            answered |= answers;
            calls.push(Syscall { name: name.to_owned(), n: *n, reach });
        }
        Undisturbed { calls, before, after, ips: ips(&answer) }
    }
}

macro_rules! tests {
    ($($case:ident)*) => {$(
        mod $case {
            #[test]
            fn boot() {
                super::enumerate(&super::cases::$case("boot"));
            }

            #[test]
            fn disk() {
                super::enumerate(&super::cases::$case("disk"));
            }
        }
    )*};
}

tests! {
    add_first_of_a_network
    add_first_of_a_boot
    add_first_of_all
    add_another
    add_takeover
    add_repeated
    add_sticky
    del
    reserve
    unreserve
    import_host_local
    export_host_local
    doctor_repair
    import_ecs_ipam
}
