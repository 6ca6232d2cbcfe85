//! Running the built program, and showing all of it when a test fails.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// A call of `sublet`. Its environment is what is given here and nothing else.
#[derive(Clone, Debug)]
pub struct Sublet {
    args: Vec<OsString>,
    env: BTreeMap<String, String>,
    stdin: String,
    stdout: Option<PathBuf>,
    dir: PathBuf,
}

/// What came of a call.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    call: Sublet,
}

impl Sublet {
    /// In this folder, which is also the working directory.
    pub fn new(dir: &Path) -> Sublet {
        Sublet {
            args: Vec::new(),
            env: BTreeMap::new(),
            stdin: String::new(),
            stdout: None,
            dir: dir.to_owned(),
        }
    }

    /// As a runtime calls it: the usual variables, and a store in the folder.
    pub fn plugin(dir: &Path, command: &str) -> Sublet {
        Sublet::new(dir)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", "dummy")
            .env("CNI_NETNS", "/var/run/netns/x")
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin")
            .env("IPAM_DB_PATH", dir.join("leases.redb").to_str().unwrap())
    }

    pub fn arg(mut self, arg: impl Into<OsString>) -> Sublet {
        self.args.push(arg.into());
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Sublet {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Sets variables from an object; `null` unsets.
    pub fn envs(mut self, changes: &Value) -> Sublet {
        for (name, value) in changes.as_object().into_iter().flatten() {
            match value.as_str() {
                Some(text) => self.env.insert(name.clone(), text.to_owned()),
                None => self.env.remove(name),
            };
        }
        self
    }

    pub fn stdin(mut self, text: impl Into<String>) -> Sublet {
        self.stdin = text.into();
        self
    }

    /// Standard output goes to this file instead of to the test.
    pub fn stdout(mut self, path: impl Into<PathBuf>) -> Sublet {
        self.stdout = Some(path.into());
        self
    }

    pub fn spawn(&self) -> Child {
        let stdout = match &self.stdout {
            Some(path) => File::options().write(true).open(path).unwrap().into(),
            None => Stdio::piped(),
        };
        let mut child = Command::new(env!("CARGO_BIN_EXE_sublet"))
            .args(&self.args)
            .env_clear()
            .envs(&self.env)
            .current_dir(&self.dir)
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Who answers without reading has closed the pipe; that is no failure.
        let _ = child.stdin.take().unwrap().write_all(self.stdin.as_bytes());
        child
    }

    pub fn run(self) -> Ran {
        let output = self.spawn().wait_with_output().unwrap();
        assert_eq!(output.status.signal(), None, "{self:?}");
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            call: self,
        }
    }
}

impl Ran {
    /// Fails the test, and tells all that is known.
    pub fn fail(&self, why: impl std::fmt::Display) -> ! {
        let mut text = format!("{why}\n\ncall:   sublet {:?}\n", self.call.args);
        for (name, value) in &self.call.env {
            let _ = writeln!(text, "env:    {name}={value}");
        }
        let _ = writeln!(text, "stdin:  {}", self.call.stdin);
        let _ = writeln!(text, "status: {:?}", self.code);
        let _ = writeln!(text, "stdout: {}", self.stdout);
        let _ = writeln!(text, "stderr: {}", self.stderr);
        let mut files = Vec::new();
        walk(&self.call.dir, &mut files);
        for file in files {
            let _ = writeln!(text, "file:   {}", file.display());
        }
        panic!("{text}");
    }

    #[track_caller]
    pub fn check(&self, holds: bool, why: impl std::fmt::Display) {
        if !holds {
            self.fail(why);
        }
    }

    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// Standard output, which must be one JSON document.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| self.fail(format!("stdout is not one JSON document: {e}")))
    }

    /// The addresses of an ADD's answer, in their order, whatever its version.
    pub fn ips(&self) -> Vec<String> {
        self.of_ips("address", "ip")
    }

    /// The gateways beside them.
    pub fn gateways(&self) -> Vec<String> {
        self.of_ips("gateway", "gateway")
    }

    fn of_ips(&self, key: &str, nested: &str) -> Vec<String> {
        let answer = self.json();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match answer["ips"].as_array() {
            Some(ips) => ips.iter().filter_map(|ip| text(&ip[key])).collect(),
            None => {
                ["ip4", "ip6"].iter().filter_map(|family| text(&answer[family][nested])).collect()
            }
        }
    }

    /// The routes, whatever the answer's version.
    pub fn routes(&self) -> Vec<Value> {
        let answer = self.json();
        let of = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let mut routes = of(&answer["routes"]);
        routes.extend(of(&answer["ip4"]["routes"]));
        routes.extend(of(&answer["ip6"]["routes"]));
        routes
    }

    /// `code` and `msg` of the error, which must be whole and the only thing on standard output.
    pub fn error(&self) -> (u64, String) {
        let error = self.json();
        self.check(self.code == Some(1), "a failure exits with 1");
        match (error["code"].as_u64(), error["msg"].as_str()) {
            (Some(code), Some(msg)) if error["cniVersion"].is_string() => (code, msg.to_owned()),
            _ => self.fail("stdout is no CNI error"),
        }
    }
}

/// The leases in a store, as `sublet list --json` tells them.
pub fn leases(dir: &Path, store: &str) -> Vec<Value> {
    let ran = Sublet::new(dir).arg("list").arg("--json").env("IPAM_DB_PATH", store).run();
    ran.check(ran.ok(), "cannot list the leases");
    match ran.json() {
        Value::Array(leases) => leases,
        _ => ran.fail("the list is no array"),
    }
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

/// The program's test data.
pub fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}
