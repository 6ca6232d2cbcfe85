//! A folder, programs that are run in it, and what they answered.
//!
//! Every run gets exactly the environment that is written down: nothing is inherited but PATH's
//! usual folders.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The program under test.
pub const SUBLET: &str = env!("CARGO_BIN_EXE_sublet");

/// Debian's host-local, the measure of what is compatible.
pub const HOST_LOCAL: &str = "/usr/lib/cni/host-local";

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Ends the test if Debian's host-local is not there: a missing peer is a failure, not a skip.
pub fn need_host_local() {
    assert!(
        Path::new(HOST_LOCAL).is_file(),
        "{HOST_LOCAL} is missing: install it as root with \
         `apt-get install containernetworking-plugins`"
    );
}

/// Whether the tests run as root.
pub fn root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A folder that goes away with the value.
pub struct Lab {
    dir: TempDir,
}

impl Lab {
    pub fn new() -> Lab {
        Lab { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `dataDir` as text, to be put into a configuration.
    pub fn data_dir(&self) -> String {
        self.join("data").display().to_string()
    }

    /// The store file that `dataDir` leads to.
    pub fn store(&self) -> PathBuf {
        self.join("data/leases.redb")
    }

    /// `sublet list --json`, its rows.
    pub fn list(&self) -> Vec<Value> {
        list(&self.store())
    }
}

/// `sublet list --json --store STORE`, its rows.
pub fn list(store: &Path) -> Vec<Value> {
    let answer = Call::sublet()
        .arg("list")
        .arg("--json")
        .arg("--store")
        .arg(&store.display().to_string())
        .run();
    assert_eq!(answer.code, Some(0), "sublet list: {answer:?}");
    let rows: Value = serde_json::from_str(&answer.stdout)
        .unwrap_or_else(|e| panic!("sublet list --json: {e}: {answer:?}"));
    rows.as_array().expect("an array").clone()
}

/// `container/ifname -> addresses` of rows of `sublet list --json`.
pub fn by_attachment(rows: &[Value]) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let key = format!("{}/{}", text("containerID"), text("ifname"));
        found.entry(key).or_default().push(text("address"));
    }
    found
}

/// A configuration with one IPv4 subnet.
pub fn conf(data_dir: &str, subnet: &str) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "mynet",
        "type": "bridge",
        "ipam": {"type": "sublet", "subnet": subnet, "dataDir": data_dir}
    })
}

/// One run of a program.
#[derive(Clone, Debug)]
pub struct Call {
    program: String,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    stdin: Vec<u8>,
}

impl Call {
    /// `program` with nothing but PATH in its environment.
    pub fn new(program: &str) -> Call {
        Call {
            program: program.to_owned(),
            args: Vec::new(),
            env: BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]),
            stdin: Vec::new(),
        }
    }

    pub fn sublet() -> Call {
        Call::new(SUBLET)
    }

    /// A CNI call of `sublet` for a container's eth0.
    pub fn cni(command: &str, container: &str, conf: &Value) -> Call {
        Call::sublet()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", "/var/run/netns/no-such-namespace")
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/usr/lib/cni")
            .stdin(&conf.to_string())
    }

    pub fn program(mut self, program: &str) -> Call {
        program.clone_into(&mut self.program);
        self
    }

    /// The same call, made by another program with options of its own.
    pub fn under(mut self, program: &str, options: &[&str]) -> Call {
        let own = std::mem::replace(&mut self.program, program.to_owned());
        let mut args: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        args.push(own);
        args.append(&mut self.args);
        Call { args, ..self }
    }

    pub fn arg(mut self, arg: &str) -> Call {
        self.args.push(arg.to_owned());
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Call {
        self.env.insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn stdin(mut self, text: &str) -> Call {
        text.as_bytes().clone_into(&mut self.stdin);
        self
    }

    /// Starts it, with its stdin written and closed.
    pub fn spawn(&self) -> Child {
        let mut child = Command::new(&self.program)
            .args(&self.args)
            .env_clear()
            .envs(&self.env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", self.program));
        // A program that answers without reading closes the pipe; that is its right.
        let _ = child.stdin.take().expect("piped").write_all(&self.stdin);
        child
    }

    pub fn run(&self) -> Answer {
        Answer::of(self.spawn())
    }
}

/// What a run answered.
#[derive(Debug)]
pub struct Answer {
    /// Exit status; none if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Answer {
    /// Waits for the end.
    pub fn of(child: Child) -> Answer {
        let output = child.wait_with_output().unwrap();
        Answer {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("UTF-8 on stdout"),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The one JSON document on stdout; anything before or after it is a failure.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("not one JSON document ({e}): {self:?}"))
    }

    /// The result of a call that has to succeed.
    pub fn ok(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.json()
    }

    /// Asserts success without an answer, as DEL, CHECK, GC and STATUS have it.
    pub fn silent(&self) {
        assert_eq!((self.code, self.stdout.as_str()), (Some(0), ""), "{self:?}");
    }

    /// Code and message of a call that has to fail, as one CNI error and nothing else.
    pub fn error(&self) -> (i64, String) {
        assert!(matches!(self.code, Some(code) if code != 0), "{self:?}");
        let error = self.json();
        let code = error["code"].as_i64();
        let msg = error["msg"].as_str();
        let (Some(code), Some(msg)) = (code, msg) else { panic!("not a CNI error: {self:?}") };
        for shout in ["panicked", "RUST_BACKTRACE"] {
            assert!(!self.stdout.contains(shout), "{self:?}");
        }
        (code, msg.to_owned())
    }
}

/// The addresses of a result of any version, without prefix, in their order.
pub fn addresses(result: &Value) -> Vec<String> {
    let bare = |v: &Value| v.as_str().and_then(|a| a.split('/').next().map(str::to_owned));
    match result["ips"].as_array() {
        Some(ips) => ips.iter().filter_map(|ip| bare(&ip["address"])).collect(),
        None => ["ip4", "ip6"].iter().filter_map(|family| bare(&result[*family]["ip"])).collect(),
    }
}

/// Numbers that look random and are the same in every run (splitmix64).
#[derive(Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `n` - 1.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let n = u64::try_from(from.len()).unwrap();
        &from[usize::try_from(self.below(n)).unwrap()]
    }
}
