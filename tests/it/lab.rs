//! A folder in which tests run programs, and the results of these programs.
//!
//! A program gets only the environment variables that the test sets, and a PATH with the usual folders.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The path of the program under test. `SUBLET_PROGRAM` can name another build of the program; it must be set
/// when the tests are compiled.
pub const SUBLET: &str = match option_env!("SUBLET_PROGRAM") {
    Some(path) => path,
    None => env!("CARGO_BIN_EXE_sublet"),
};

/// Debian's host-local, with which sublet is compared.
pub const HOST_LOCAL: &str = "/usr/lib/cni/host-local";

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Fails the test if Debian's host-local is missing. Skipping the test would hide that nothing was compared.
pub fn need_host_local() {
    assert!(
        Path::new(HOST_LOCAL).is_file(),
        "{HOST_LOCAL} is missing: install it as root with \
         `apt-get install containernetworking-plugins`"
    );
}

/// Returns whether the tests run as root.
pub fn root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Sends a signal to a program. `name` is, for example, `STOP` or `TERM`. This function uses the shell's
/// builtin `kill`, so it needs no package.
pub fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    let sent = Command::new("sh").args(["-c", "kill -s $0 $1", name, &pid]).status().unwrap();
    assert!(sent.success(), "kill -s {name} {pid}");
}

/// A dual-stack network that both sublet and host-local can serve, because sublet's store is in host-local's
/// `dataDir`.
pub struct Network {
    pub lab: Lab,
    pub conf: Value,
}

impl Network {
    /// Makes a network in which no address is leased yet.
    pub fn new() -> Network {
        need_host_local();
        let lab = Lab::new();
        let conf = json!({
            "cniVersion": "1.0.0",
            "name": "mynet",
            "type": "bridge",
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8:1::/64"}]],
                "dataDir": lab.data_dir()
            }
        });
        Network { lab, conf }
    }

    /// Returns a call of sublet.
    pub fn sublet(&self, command: &str, container: &str) -> Call {
        Call::cni(command, container, &self.conf)
    }

    /// Returns a call of Debian's host-local with the same command, container and configuration as
    /// [`Network::sublet`].
    pub fn host_local(&self, command: &str, container: &str) -> Call {
        self.sublet(command, container).program(HOST_LOCAL)
    }
}

/// A temporary folder, which is removed when the value is dropped.
pub struct Lab {
    dir: TempDir,
}

impl Lab {
    pub fn new() -> Lab {
        Lab { dir: tempfile::tempdir().unwrap() }
    }

    /// Makes a folder on tmpfs, for files that are written and removed thousands of times.
    pub fn in_memory() -> Lab {
        Lab { dir: TempDir::new_in("/dev/shm").unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the path of the subfolder that configurations use as their `dataDir`.
    pub fn data_dir(&self) -> String {
        self.join("data").display().to_string()
    }

    /// Returns the path of the durable lease file in the lab's `dataDir`.
    pub fn store(&self) -> PathBuf {
        self.join("data/leases.redb")
    }

    /// Returns the path of the file that contains the boot leases of the current boot.
    pub fn boot_file(&self) -> PathBuf {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        self.join(&format!("data/leases.redb.boot-{}", id.trim()))
    }

    /// Runs `sublet release --yes`.
    pub fn release(&self, address: &str) {
        let store = self.store().display().to_string();
        let call = Call::sublet().arg("release").arg(address).arg("--yes");
        let answer = call.arg("--store").arg(&store).run();
        answer.check(answer.succeeded(), "release");
    }

    /// Runs `sublet list --json` and returns its rows.
    pub fn list(&self) -> Vec<Value> {
        list(&self.store())
    }
}

/// Runs `sublet list --json --store STORE` and returns its rows. Returns no rows if the store does not exist.
pub fn list(store: &Path) -> Vec<Value> {
    let store = store.display().to_string();
    let answer = Call::sublet().arg("list").arg("--json").arg("--store").arg(&store).run();
    if answer.is_without_store() { Vec::new() } else { answer.rows() }
}

/// Returns the addresses by `container/ifname`, from the rows of `sublet list --json`.
pub fn by_attachment(rows: &[Value]) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let key = format!("{}/{}", text("containerID"), text("ifname"));
        found.entry(key).or_default().push(text("address"));
    }
    found
}

/// Makes a configuration with one IPv4 subnet.
pub fn conf(data_dir: &str, subnet: &str) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "mynet",
        "type": "bridge",
        "ipam": {"type": "sublet", "subnet": subnet, "dataDir": data_dir}
    })
}

/// Returns the folder testdata.
pub fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

/// A call of a program: its arguments, its environment and its input.
#[derive(Clone, Debug)]
pub struct Call {
    program: String,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    stdin: Vec<u8>,
    stdout: Option<PathBuf>,
    dir: Option<PathBuf>,
}

impl Call {
    /// Returns a call of `program`, with only PATH in its environment.
    pub fn new(program: &str) -> Call {
        Call {
            program: program.to_owned(),
            args: Vec::new(),
            env: BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]),
            stdin: Vec::new(),
            stdout: None,
            dir: None,
        }
    }

    pub fn sublet() -> Call {
        Call::new(SUBLET)
    }

    /// Returns a CNI call of sublet for the interface eth0 of a container.
    pub fn cni(command: &str, container: &str, conf: &Value) -> Call {
        Call::sublet()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", "/var/run/netns/no-such-namespace")
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/usr/lib/cni")
            .stdin(&conf.to_string())
    }

    /// Returns a CNI call in a folder. The folder is the working directory and contains the store.
    pub fn plugin(dir: &Path, command: &str) -> Call {
        let mut call = Call::cni(command, "dummy", &Value::Null)
            .env("CNI_NETNS", "/var/run/netns/x")
            .env("IPAM_DB_PATH", &dir.join("leases.redb").display().to_string());
        call.dir = Some(dir.to_owned());
        call
    }

    pub fn program(mut self, program: &str) -> Call {
        program.clone_into(&mut self.program);
        self
    }

    /// Returns a call that runs this program under another one, such as `strace`, with these options.
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

    pub fn args(mut self, args: &[&str]) -> Call {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Call {
        self.env.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets environment variables from a JSON object; `null` removes a variable.
    pub fn envs(mut self, changes: &Value) -> Call {
        for (name, value) in changes.as_object().into_iter().flatten() {
            match value.as_str() {
                Some(text) => self.env.insert(name.clone(), text.to_owned()),
                None => self.env.remove(name),
            };
        }
        self
    }

    pub fn stdin(mut self, text: &str) -> Call {
        text.as_bytes().clone_into(&mut self.stdin);
        self
    }

    /// Redirects standard output to this file.
    pub fn stdout(mut self, path: &str) -> Call {
        self.stdout = Some(path.into());
        self
    }

    /// Starts the program, writes its standard input and closes it.
    pub fn spawn(&self) -> Child {
        let stdout = match &self.stdout {
            Some(path) => File::options().write(true).open(path).unwrap().into(),
            None => Stdio::piped(),
        };
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().envs(&self.env);
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", self.program));
        // A program may end without reading its input. The pipe is then closed, which is not a failure.
        let _ = child.stdin.take().expect("piped").write_all(&self.stdin);
        child
    }

    /// Runs the program until it ends. If it is ended by a signal, the test fails.
    pub fn run(&self) -> Answer {
        let answer = self.answer(self.spawn());
        answer.check(answer.code.is_some(), "ended by a signal");
        answer
    }

    /// Waits for a process that [`Call::spawn`] started. Unlike [`Call::run`], accepts that a signal ends it.
    pub fn answer(&self, child: Child) -> Answer {
        let output = child.wait_with_output().unwrap();
        Answer {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("UTF-8 on stdout"),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            call: self.clone(),
        }
    }
}

/// The result of running a program.
pub struct Answer {
    /// The exit status; `None` if a signal ended the process.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    call: Call,
}

/// Leaves out the call, because it would be repeated in every printed result.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("code", &self.code)
            .field("stdout", &self.stdout)
            .field("stderr", &self.stderr)
            .finish_non_exhaustive()
    }
}

impl Answer {
    /// Fails the test with this reason, and prints the call and its whole result.
    #[track_caller]
    pub fn fail(&self, why: impl fmt::Display) -> ! {
        let Call { program, args, env, stdin, dir, .. } = &self.call;
        let mut text = format!("{why}\n\ncall:   {program} {args:?}\n");
        for (name, value) in env {
            let _ = writeln!(text, "env:    {name}={value}");
        }
        let _ = writeln!(text, "stdin:  {}", String::from_utf8_lossy(stdin));
        let _ = writeln!(text, "status: {:?}", self.code);
        let _ = writeln!(text, "stdout: {}", self.stdout);
        let _ = writeln!(text, "stderr: {}", self.stderr);
        let mut files = Vec::new();
        if let Some(dir) = dir {
            walk(dir, &mut files);
        }
        for file in files {
            let _ = writeln!(text, "file:   {}", file.display());
        }
        panic!("{text}");
    }

    #[track_caller]
    pub fn check(&self, holds: bool, why: impl fmt::Display) {
        if !holds {
            self.fail(why);
        }
    }

    pub fn succeeded(&self) -> bool {
        self.code == Some(0)
    }

    #[track_caller]
    pub fn check_success(&self) {
        self.check(self.succeeded(), "it has to succeed");
    }

    /// Returns whether the command failed, and its message contains this text.
    pub fn is_failure_of(&self, says: &str) -> bool {
        self.code == Some(1) && self.stderr.contains(says)
    }

    /// Returns the JSON document on standard output. Fails the test if standard output contains anything
    /// else.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| self.fail(format!("stdout is not one JSON document: {e}")))
    }

    /// Returns the result of a call. Fails the test if the call failed.
    #[track_caller]
    pub fn ok(&self) -> Value {
        self.check_success();
        self.json()
    }

    /// Returns the rows of a list. Fails the test if the command failed.
    #[track_caller]
    pub fn rows(&self) -> Vec<Value> {
        match self.ok() {
            Value::Array(rows) => rows,
            _ => self.fail("the list is no array"),
        }
    }

    /// Returns whether the command failed because its store does not exist.
    pub fn is_without_store(&self) -> bool {
        self.is_failure_of("does not exist; name a different file")
    }

    /// Asserts that the call succeeded and printed nothing, as DEL, CHECK, GC and STATUS do.
    #[track_caller]
    pub fn silent(&self) {
        self.check(self.succeeded() && self.stdout.is_empty(), "silent success was expected");
    }

    /// Returns the code and the message of a failed call, which must print a single CNI error. sublet's error
    /// must contain the CNI version, and sublet's exit code must be 1. host-local's error contains no
    /// version.
    #[track_caller]
    pub fn error(&self) -> (i64, String) {
        self.check(matches!(self.code, Some(code) if code != 0), "a failure was expected");
        for shout in ["panicked", "RUST_BACKTRACE"] {
            self.check(!self.stdout.contains(shout), "stdout tells of a panic");
        }
        let error = self.json();
        if self.call.program == SUBLET {
            self.check(self.code == Some(1), "a failure exits with 1");
            self.check(error["cniVersion"].is_string(), "an error without its version");
        }
        match (error["code"].as_i64(), error["msg"].as_str()) {
            (Some(code), Some(msg)) => (code, msg.to_owned()),
            _ => self.fail("stdout is no CNI error"),
        }
    }

    /// Returns the addresses in the result of an ADD with their prefix lengths, in order. The result may have
    /// any CNI version.
    pub fn ips(&self) -> Vec<String> {
        of_ips(&self.json(), "address", "ip")
    }

    /// Returns the gateways in the result of an ADD, in order.
    pub fn gateways(&self) -> Vec<String> {
        of_ips(&self.json(), "gateway", "gateway")
    }

    /// Returns the routes in the result, which may have any CNI version.
    pub fn routes(&self) -> Vec<Value> {
        let answer = self.json();
        let of = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let mut routes = of(&answer["routes"]);
        routes.extend(of(&answer["ip4"]["routes"]));
        routes.extend(of(&answer["ip6"]["routes"]));
        routes
    }
}

/// Returns one field of each address in a result. In new CNI versions, the field is `key` in a list. In old
/// versions, it is `nested` in the object of each address family.
fn of_ips(result: &Value, key: &str, nested: &str) -> Vec<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match result["ips"].as_array() {
        Some(ips) => ips.iter().filter_map(|ip| text(&ip[key])).collect(),
        None => ["ip4", "ip6"].iter().filter_map(|family| text(&result[*family][nested])).collect(),
    }
}

/// Returns the addresses in a result of any CNI version, without prefix lengths, in order.
pub fn addresses(result: &Value) -> Vec<String> {
    let bare = |ip: String| ip.split('/').next().unwrap_or_default().to_owned();
    of_ips(result, "address", "ip").into_iter().map(bare).collect()
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in dir.read_dir().into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, files);
        } else {
            files.push(path);
        }
    }
    files.sort();
}

/// Pseudo-random numbers that are the same in every run (splitmix64).
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

    /// Returns a number from 0 to `n` - 1.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Returns true once in `n` calls on average.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let n = u64::try_from(from.len()).unwrap();
        &from[usize::try_from(self.below(n)).unwrap()]
    }
}
