//! Code that several fuzz targets share: a folder with a store, and functions that run sublet and check its
//! output.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;

use serde_json::{Value, json};
use sublet::cli::screen::Screen;
use sublet::cli::{self, Terminal};
use sublet::model::{History, Persist, StoreSpec, Wait};
use sublet::sys::{host, panic};
use sublet::{cni, store};
use tempfile::TempDir;

/// A folder on tmpfs for one lease file and the files beside it.
pub struct Lab(TempDir);

impl Lab {
    /// Makes an empty folder.
    pub fn new() -> Lab {
        static HOOK: Once = Once::new();
        // libFuzzer's panic hook ends the process at every panic. Replace this hook, because sublet catches
        // the panics that a damaged file causes in redb. sublet reports any other panic in its output, which
        // the fuzz targets check.
        HOOK.call_once(panic::record);
        let lab = Lab(tempfile::tempdir_in("/dev/shm").expect("/dev/shm is writable"));
        // Change the working directory to this folder, so that a relative path in the input stays in the
        // folder.
        std::env::set_current_dir(lab.path()).expect("the folder is there");
        lab
    }

    /// Returns the folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Returns the path of the lease file.
    pub fn file(&self) -> PathBuf {
        self.path().join("leases.redb")
    }

    /// Returns the specification of the store in the folder.
    pub fn spec(&self) -> StoreSpec {
        let (persist, wait) = (Persist::Disk, Wait::Try);
        StoreSpec::Embedded { path: self.file(), persist, wait, history: History::Standing }
    }

    /// Returns a network configuration with this store.
    pub fn conf(&self) -> Value {
        json!({
            "cniVersion": "1.1.0",
            "name": "net",
            "ipam": {
                "type": "sublet", "persist": "disk", "subnet": "10.0.0.0/24", "dataDir": self.path()
            },
        })
    }

    /// Calls the plugin. Its output must be empty or a single JSON document, and must not report a panic.
    /// Returns the exit code.
    pub fn plugin(&self, command: &str, more: &[(&str, &str)], stdin: &[u8]) -> u8 {
        let all = [("CNI_COMMAND", command), ("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "eth0")];
        let rest = [("CNI_NETNS", "/run/netns/c"), ("CNI_PATH", "/opt/cni/bin")];
        // `IPAM_DB_PATH` names the lease file that a configuration in the dialect of ecs-ipam uses.
        let file = self.file().display().to_string();
        let env = |name: &str| {
            if name == "IPAM_DB_PATH" {
                return Some(OsString::from(&file));
            }
            let mut set = more.iter().chain(&all).chain(&rest);
            set.find(|(other, _)| *other == name).map(|(_, value)| OsString::from(value))
        };
        let mut stdout = Vec::new();
        let code = cni::run(cni::World {
            env: &env,
            stdin: &mut &*stdin,
            stdout: &mut stdout,
            stderr: &mut Vec::new(),
            facts: &|| host::facts(&|_| None),
        });
        if !stdout.is_empty() {
            let answer: Result<Value, _> = serde_json::from_slice(&stdout);
            let is_right = answer.is_ok_and(|answer| answer["code"] != 999);
            check(is_right, &String::from_utf8_lossy(&stdout));
        }
        code
    }

    /// Runs an operator's command on the store. It must not report a panic. Returns the exit code.
    pub fn command(&self, args: &[&str]) -> u8 {
        let file = self.file();
        let args = [&["sublet"], args, &["--store"]].concat().into_iter().map(OsString::from);
        run(args.chain([file.into()]).collect())
    }

    /// Writes a file whose name is the lease file's name plus `ending`. With an empty `ending`, this is the
    /// lease file itself.
    pub fn write(&self, ending: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(format!("leases.redb{ending}"));
        fs::write(&path, bytes).expect("/dev/shm is writable");
        path
    }

    /// Opens the store in the folder.
    pub fn open(&self) -> Box<dyn store::Store> {
        store::open(&self.spec()).expect("nothing is read yet")
    }
}

/// If `is_right` is false, prints `text` and aborts the process, which libFuzzer counts as a failure.
pub fn check(is_right: bool, text: &str) {
    if !is_right {
        eprintln!("found: {text}");
        std::process::abort();
    }
}

/// Checks that sublet's output does not report a panic.
pub fn no_bug(text: &str) {
    check(!text.contains("this is a bug in sublet"), text);
}

/// Runs a command line of sublet, which must not report a panic. Returns the exit code.
pub fn run(args: Vec<OsString>) -> u8 {
    let facts = host::facts(&|_| None);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let screen = Screen::find(&|_| None);
    let mut terminal = Terminal { stdout: &mut stdout, stderr: &mut stderr, screen };
    let code = cli::run(args, cli::World { env: &|_| None, facts: &facts }, &mut terminal);
    no_bug(&String::from_utf8_lossy(&stderr));
    code
}
