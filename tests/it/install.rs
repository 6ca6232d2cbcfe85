//! Tests `sublet install` and `sublet uninstall`. They must not lose any lease, and a plugin must exist under
//! its name at every moment.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::lab::{Answer, Call, Lab, SUBLET, addresses, list};
use crate::schema;
use crate::tidy::root;

/// A simulated host: a folder of plugins, and the other files that an installation may change.
pub struct Host {
    pub lab: Lab,
}

/// The content of a plugin that sublet replaces.
pub const FORMER: &str = "#!/bin/sh\necho former\n";

impl Host {
    pub fn new() -> Host {
        let host = Host { lab: Lab::new() };
        fs::create_dir_all(host.bin()).unwrap();
        host
    }

    /// Returns the folder of the plugins.
    pub fn bin(&self) -> PathBuf {
        self.lab.join("bin")
    }

    pub fn plugin(&self, name: &str) -> PathBuf {
        self.bin().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.lab.join(name).display().to_string()
    }

    fn command(&self, program: &str, command: &str, options: &[&str]) -> Call {
        let call = Call::new(program).args(&[command, "--to", &self.path("bin")]);
        options.iter().fold(call, |call, option| call.arg(&option.replace('@', &self.path(""))))
    }

    /// Returns a call of `sublet install` with these options. `@` in an option stands for the test's folder.
    pub fn install(&self, options: &[&str]) -> Call {
        self.command(SUBLET, "install", options)
    }

    pub fn uninstall(&self, options: &[&str]) -> Call {
        let own = ["--conf-dir", "@net.d", "--networks", "@networks"];
        self.command(SUBLET, "uninstall", &[&own, options].concat())
    }

    /// Writes a plugin that sublet is going to replace.
    pub fn write_former(&self, name: &str) {
        fs::write(self.plugin(name), FORMER).unwrap();
        fs::set_permissions(self.plugin(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Writes a network configuration with this `ipam` section to a file in the runtime's folder.
    pub fn network(&self, name: &str, ipam: &Value) -> Value {
        let conf = json!({"cniVersion": "1.0.0", "name": name, "type": "bridge", "ipam": ipam});
        fs::create_dir_all(self.lab.join("net.d")).unwrap();
        fs::write(self.lab.join(&format!("net.d/{name}.conf")), conf.to_string()).unwrap();
        conf
    }
}

/// Returns the names of the files in a folder.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub fn is_sublet(program: &Path) -> bool {
    let call = Call::new(program.to_str().unwrap()).env("CNI_COMMAND", "VERSION");
    let answer = call.run();
    answer.succeeded() && answer.stdout.contains("1.1.0")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

/// Returns the name of each file in a report of `install` or `uninstall`, with what the command did to it.
fn actions(answer: &Answer) -> Vec<(String, String)> {
    let report = answer.ok();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let name = |value: &Value| text(value).rsplit('/').next().unwrap().to_owned();
    let files = report["files"].as_array().unwrap().iter();
    files.map(|row| (name(&row["file"]), text(&row["action"]))).collect()
}

#[track_caller]
fn check_actions(answer: &Answer, expected: &[(&str, &str)]) {
    let found = actions(answer);
    let found: Vec<(&str, &str)> = found.iter().map(|(n, a)| (&**n, &**a)).collect();
    assert_eq!(found, expected);
}

#[test]
fn into_a_folder_that_is_not_there_yet() {
    let host = Host { lab: Lab::new() };
    let answer = host.install(&["--json"]).run();
    check_actions(&answer, &[("sublet", "installed")]);
    schema::check("install", &answer.json());
    assert_eq!(names(&host.bin()), ["sublet"]);
    let installed = host.plugin("sublet");
    assert_eq!(fs::read(&installed).unwrap(), fs::read(SUBLET).unwrap());
    assert_eq!(fs::metadata(&installed).unwrap().permissions().mode() & 0o777, 0o755);
    // If the installed program installs itself again, it must change nothing.
    let again = host.command(installed.to_str().unwrap(), "install", &["--json"]).run();
    check_actions(&again, &[("sublet", "unchanged")]);
    let text = host.install(&[]).run().stdout;
    assert_eq!(text, format!("{}: up to date\n", installed.display()));
    assert_eq!(names(&host.bin()), ["sublet"]);
}

#[test]
fn what_was_there_is_kept_and_comes_back() {
    let host = Host::new();
    for name in ["sublet", "ecs-ipam", "bridge"] {
        host.write_former(name);
    }
    symlink("elsewhere", host.plugin("consul")).unwrap();
    let as_all = ["--as", "ecs-ipam", "--as", "consul", "--as", "host-local", "--json"];
    let expected = ["replaced", "replaced", "replaced", "installed"];
    for expected in [expected, ["unchanged"; 4]] {
        let answer = host.install(&as_all).run();
        let rows = actions(&answer);
        assert_eq!(rows.iter().map(|row| &*row.1).collect::<Vec<_>>(), expected);
        for (name, former) in
            [("sublet", true), ("ecs-ipam", true), ("consul", true), ("host-local", false)]
        {
            assert!(is_sublet(&host.plugin(name)), "{name}");
            assert_eq!(host.plugin(&format!("{name}.old")).is_symlink(), name == "consul");
            assert_eq!(fs::symlink_metadata(host.plugin(&format!("{name}.old"))).is_ok(), former);
        }
        assert_eq!(read(&host.plugin("ecs-ipam.old")), FORMER);
        assert_eq!(fs::read_link(host.plugin("consul.old")).unwrap(), Path::new("elsewhere"));
    }
    // Restore only one name first, and then all names.
    let one = host.uninstall(&["--as", "ecs-ipam", "--json"]).run();
    check_actions(&one, &[("ecs-ipam", "restored")]);
    assert!(is_sublet(&host.plugin("sublet")) && is_sublet(&host.plugin("consul")));
    let all = host.uninstall(&["--json", "--store", "@leases.redb"]);
    // To restore host-local, `uninstall` needs the leases of host-local's networks. It must fail, because the
    // named store does not exist.
    assert!(all.run().is_failure_of("does not exist; name a different file"));
    let conf = host.network("net", &json!({"type": "host-local", "subnet": "10.9.0.0/24"}));
    let store = host.path("leases.redb");
    Call::cni("ADD", "c1", &conf).env("IPAM_DB_PATH", &store).run().ok();
    let answer = all.run();
    schema::check("uninstall", &answer.json());
    let expected = [("host-local", "removed"), ("consul", "restored"), ("sublet", "removed")];
    check_actions(&answer, &expected);
    assert_eq!(names(&host.bin()), ["bridge", "consul", "ecs-ipam"]);
    assert_eq!(read(&host.plugin("ecs-ipam")), FORMER);
    assert_eq!(read(&host.lab.join("networks/net/10.9.0.2")), "c1\r\neth0");
    check_actions(&all.run(), &[]);
}

/// If a plugin's name is a symbolic link, sublet must replace the link, and never the file to which the link
/// leads. It must not keep a link that leads to sublet as NAME.old.
#[test]
fn links() {
    let host = Host::new();
    let elsewhere = host.lab.join("elsewhere");
    fs::write(&elsewhere, FORMER).unwrap();
    symlink(&elsewhere, host.plugin("sublet")).unwrap();
    symlink(host.plugin("sublet"), host.plugin("host-local")).unwrap();
    host.install(&[]).run().check_success();
    assert_eq!(read(&elsewhere), FORMER);
    assert_eq!(fs::read_link(host.plugin("sublet.old")).unwrap(), elsewhere);
    let answer = host.install(&["--as", "host-local", "--json"]).run();
    check_actions(&answer, &[("sublet", "unchanged"), ("host-local", "unchanged")]);
    // A link that a package has made to the installed program must stay.
    fs::create_dir(host.lab.join("other-bin")).unwrap();
    symlink(host.plugin("sublet"), host.lab.join("other-bin/sublet")).unwrap();
    let to = host.path("other-bin");
    let call = Call::sublet().args(&["install", "--json", "--to", &to, "--as", "host-local"]);
    check_actions(&call.run(), &[("sublet", "unchanged"), ("host-local", "installed")]);
    assert!(is_sublet(&host.lab.join("other-bin/host-local")));
    assert!(host.lab.join("other-bin/sublet").is_symlink());
    // The plugin folder may be a symbolic link.
    symlink(host.bin(), host.lab.join("link")).unwrap();
    let answer = Call::sublet().args(&["install", "--json", "--to", &host.path("link")]).run();
    check_actions(&answer, &[("sublet", "unchanged")]);
}

#[test]
fn the_former_program_installs_itself_again() {
    let host = Host::new();
    fs::copy(other_build(&host.lab), host.plugin("sublet")).unwrap();
    let former = fs::read(host.plugin("sublet")).unwrap();
    host.install(&[]).run().check_success();
    let old = host.plugin("sublet.old").display().to_string();
    host.command(&old, "install", &[]).run().check_success();
    assert_eq!(fs::read(host.plugin("sublet")).unwrap(), former);
    assert_eq!(fs::read(host.plugin("sublet.old")).unwrap(), fs::read(SUBLET).unwrap());
    assert_eq!(names(&host.bin()), ["sublet", "sublet.old"]);
}

/// Makes a file that differs from sublet but runs like sublet. The additional bytes are after the end of the
/// ELF data, so they are never read.
pub fn other_build(lab: &Lab) -> PathBuf {
    let path = lab.join("other");
    fs::copy(SUBLET, &path).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes.push(0);
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn on_path_with_a_configuration() {
    let host = Host::new();
    let conf = json!({"cniVersion": "1.0.0", "name": "net", "type": "bridge",
                      "ipam": {"type": "sublet", "subnet": "10.9.0.0/24"}});
    fs::write(host.lab.join("10-net.conf"), conf.to_string()).unwrap();
    fs::create_dir(host.lab.join("net.d")).unwrap();
    fs::write(host.lab.join("net.d/10-net.conf"), "former").unwrap();
    let options = ["--bin", "@path", "--conf", "@10-net.conf", "--json"];
    let install = host.install(&[&options[..], &["--conf-dir", "@net.d"]].concat());
    let expected = [
        ("sublet", "installed"),
        ("subletd", "installed"),
        ("sublet", "installed"),
        ("10-net.conf", "replaced"),
    ];
    check_actions(&install.run(), &expected);
    assert_eq!(names(&host.lab.join("path")), ["sublet", "subletd"]);
    let version = Call::new(&host.path("path/sublet")).arg("version").run();
    version.check(version.succeeded(), "on PATH");
    let installed = host.lab.join("net.d/10-net.conf");
    assert_eq!(read(&installed), conf.to_string());
    assert_eq!(names(&host.lab.join("net.d")), ["10-net.conf", "10-net.conf.old"]);
    assert!(actions(&install.run()).iter().all(|(_, action)| action == "unchanged"));
    // An installed configuration that an operator has changed must stay. `uninstall` must list the networks
    // that still use sublet.
    fs::write(&installed, conf.to_string().replace("10.9", "10.8")).unwrap();
    let answer = host.uninstall(&options).run();
    let expected = [("sublet", "removed"), ("subletd", "removed"), ("sublet", "removed")];
    check_actions(&answer, &expected);
    answer.check(answer.stderr.contains("network net still uses sublet"), "not named");
    assert_eq!(names(&host.lab.join("net.d")), ["10-net.conf", "10-net.conf.old"]);
    assert!(names(&host.lab.join("path")).is_empty() && names(&host.bin()).is_empty());
    // If the installed configuration is unchanged, `uninstall` must restore the former configuration.
    fs::write(&installed, conf.to_string()).unwrap();
    check_actions(&host.uninstall(&options).run(), &[("10-net.conf", "restored")]);
    assert_eq!(names(&host.lab.join("net.d")), ["10-net.conf"]);
    assert_eq!(read(&installed), "former");
    check_actions(&host.uninstall(&options).run(), &[]);
    assert_eq!(read(&installed), "former");
}

#[test]
fn what_cannot_be_installed_changes_nothing() {
    let host = Host::new();
    fs::create_dir(host.plugin("ecs-ipam")).unwrap();
    host.write_former("sublet");
    fs::write(host.lab.join("wrong.conf"), r#"{"name": "net", "ipam": {"type": "sublet"}}"#)
        .unwrap();
    let alone = host.lab.join("alone");
    fs::copy(SUBLET, &alone).unwrap();
    let alone = alone.display().to_string();
    for (program, options, code, says) in [
        (SUBLET, &["--as", "bridge"][..], 2, "host-local, ecs-ipam, consul"),
        (SUBLET, &["--as", "../evil"], 2, "host-local, ecs-ipam, consul"),
        (SUBLET, &["--what"], 2, "--what"),
        (SUBLET, &["--as", "ecs-ipam"], 1, "ecs-ipam: the path is a folder"),
        (SUBLET, &["--bin", "@bin"], 2, "different folders"),
        (SUBLET, &["--conf", "@wrong.conf", "--conf-dir", "@bin"], 1, "wrong.conf:1:"),
        (SUBLET, &["--conf", "@missing", "--conf-dir", "@bin"], 1, "missing"),
        (SUBLET, &["--to", "@wrong.conf/bin"], 1, "wrong.conf/bin"),
        (&alone, &["--bin", "@path"], 1, "subletd"),
    ] {
        let answer = host.command(program, "install", options).run();
        answer.check(answer.code == Some(code) && answer.stderr.contains(says), says);
        assert_eq!(names(&host.bin()), ["ecs-ipam", "sublet"]);
        assert_eq!(read(&host.plugin("sublet")), FORMER);
    }
    // Limit the size of files, so that `install` cannot write the whole program.
    let limited = format!("ulimit -f 64; exec {SUBLET} install --to {}", host.path("bin"));
    let answer = Call::new("sh").args(&["-c", &limited]).run();
    answer.check(answer.code == Some(1) && answer.stderr.contains("cannot write"), "no room");
    assert_eq!(names(&host.bin()), ["ecs-ipam", "sublet"]);
    assert_eq!(read(&host.plugin("sublet")), FORMER);
}

/// A runtime that calls the plugin continuously must never find it missing, incomplete or busy. Calls that
/// started before the plugin was replaced must finish normally.
#[test]
fn no_moment_is_without_a_plugin() {
    let host = Host::new();
    let other = other_build(&host.lab).display().to_string();
    host.install(&["--as", "host-local"]).run().check_success();
    let mut running = Command::new(host.plugin("sublet"))
        .env("CNI_COMMAND", "ADD")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let runtime = scope.spawn(|| {
            let mut calls = 0;
            while !done.load(Ordering::Relaxed) {
                assert!(is_sublet(&host.plugin("host-local")), "after {calls} calls");
                calls += 1;
            }
            calls
        });
        for _ in 0..10 {
            for program in [&*other, SUBLET] {
                let options = ["--as", "host-local", "--json"];
                let answer = host.command(program, "install", &options).run();
                check_actions(&answer, &[("sublet", "replaced"), ("host-local", "unchanged")]);
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(runtime.join().unwrap() > 20);
    });
    drop(running.stdin.take());
    let output = running.wait_with_output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("\"code\""));
    assert_eq!(names(&host.bin()), ["host-local", "sublet", "sublet.old"]);
}

#[test]
fn runs_at_the_same_time_wait_for_each_other() {
    let host = Host::new();
    host.write_former("host-local");
    let other = other_build(&host.lab).display().to_string();
    let options = ["--as", "host-local", "--as", "consul"];
    let calls: Vec<Call> = (0..8)
        .map(|n| host.command(if n % 2 == 0 { SUBLET } else { &other }, "install", &options))
        .collect();
    let running: Vec<_> = calls.iter().map(|call| (call, call.spawn())).collect();
    for (call, child) in running {
        call.answer(child).check_success();
    }
    assert!(is_sublet(&host.plugin("host-local")));
    assert_eq!(read(&host.plugin("host-local.old")), FORMER);
    let expected = ["consul", "host-local", "host-local.old", "sublet", "sublet.old"];
    assert_eq!(names(&host.bin()), expected);
}

/// `install` must remove files that a killed run has left behind, and no other files.
#[test]
fn unfinished_work_is_removed() {
    let host = Host::new();
    for name in [".sublet.new", ".sublet.old", ".other"] {
        fs::write(host.plugin(name), "torn").unwrap();
    }
    host.install(&[]).run().check_success();
    assert_eq!(names(&host.bin()), [".other", "sublet"]);
}

/// Before `uninstall` restores host-local, it must export the leases of host-local's networks. These may be
/// in two stores: a network with a `dataDir` has a store of its own. Networks that use sublet directly must
/// keep their leases.
#[test]
fn host_local_gets_its_leases_before_its_name() {
    let host = Host::new();
    host.write_former("host-local");
    host.install(&["--as", "host-local"]).run().check_success();
    let (data, store) = (host.path("data"), host.path("leases.redb"));
    let own = host
        .network("own", &json!({"type": "host-local", "subnet": "10.9.1.0/24", "dataDir": data}));
    let plain = host.network("plain", &json!({"type": "host-local", "subnet": "10.9.2.0/24"}));
    let ours = host.network("ours", &json!({"type": "sublet", "subnet": "10.9.3.0/24"}));
    let plugin = host.plugin("host-local").display().to_string();
    let add = |conf: &Value, db: &str| {
        let call = Call::cni("ADD", "c1", conf).program(&plugin).env("IPAM_DB_PATH", db);
        addresses(&call.run().ok())
    };
    assert_eq!(add(&own, ""), ["10.9.1.2"]);
    assert_eq!(add(&plain, &store), ["10.9.2.2"]);
    assert_eq!(add(&ours, &store), ["10.9.3.2"]);
    // With either of these configurations in the runtime's folder, `uninstall` cannot find the leases of
    // "own", and must change nothing.
    let conf = host.lab.join("net.d/own.conf");
    let uninstall = host.uninstall(&["--as", "host-local", "--json", "--store", &store]);
    let in_a_cluster = own.to_string().replace(
        "\"subnet\"",
        r#""store": {"etcd": {"endpoints": ["http://127.0.0.1:1"]}}, "subnet""#,
    );
    for (text, says) in [("{", "cannot determine where"), (&*in_a_cluster, "are in a cluster")] {
        fs::write(&conf, text).unwrap();
        let answer = uninstall.run();
        answer.check(answer.code == Some(1) && answer.stderr.contains(says), says);
        assert!(is_sublet(&host.plugin("host-local")));
        assert!(!host.lab.join("networks").exists());
    }
    // The leases of a network must be exported even if the ranges in its configuration are invalid.
    fs::write(&conf, own.to_string().replace("10.9.1.0/24", "10.9.1.0/99")).unwrap();
    let answer = uninstall.run();
    schema::check("uninstall", &answer.json());
    check_actions(&answer, &[("host-local", "restored")]);
    assert_eq!(read(&host.plugin("host-local")), FORMER);
    assert_eq!(read(&host.lab.join("data/own/10.9.1.2")), "c1\r\neth0");
    assert_eq!(read(&host.lab.join("networks/plain/10.9.2.2")), "c1\r\neth0");
    assert!(!host.lab.join("networks/ours").exists());
    let left = list(&host.lab.join("leases.redb"));
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0]["network"], "ours");
    assert_eq!(names(&host.bin()), ["host-local", "sublet"]);
    check_actions(&uninstall.run(), &[]);
}

/// If `uninstall` is killed after it has restored host-local, the next run must complete the work. It must
/// also export leases that were made in the meantime.
#[test]
fn an_unfinished_rollback_is_completed() {
    let host = Host::new();
    host.write_former("host-local");
    host.install(&["--as", "host-local"]).run().check_success();
    let store = host.path("leases.redb");
    let conf = host.network("net", &json!({"type": "host-local", "subnet": "10.9.0.0/24"}));
    Call::cni("ADD", "late", &conf).env("IPAM_DB_PATH", &store).run().ok();
    // Restore the state just after the rename: both names lead to the same file.
    fs::remove_file(host.plugin("host-local")).unwrap();
    fs::hard_link(host.plugin("host-local.old"), host.plugin("host-local")).unwrap();
    let answer = host.uninstall(&["--store", &store, "--json"]).run();
    check_actions(&answer, &[("sublet", "removed")]);
    assert_eq!(read(&host.lab.join("networks/net/10.9.0.2")), "late\r\neth0");
    assert_eq!(names(&host.bin()), ["host-local"]);
}

/// scripts/install.sh must pass its options on to `sublet install`. If sublet has not been built yet, the
/// script must print what to do.
#[test]
fn the_script() {
    let lab = Lab::new();
    for folder in ["scripts", "bin"] {
        fs::create_dir(lab.join(folder)).unwrap();
    }
    let script = lab.join("scripts/install.sh");
    fs::copy(root().join("scripts/install.sh"), &script).unwrap();
    let (to, bin) = (lab.join("to").display().to_string(), lab.join("path").display().to_string());
    let call = Call::new(script.to_str().unwrap());
    let call = call.args(&["--to", &to, "--bin", &bin, "--as", "consul"]);
    let answer = call.run();
    answer.check(!answer.succeeded() && answer.stderr.contains("scripts/build.sh"), "no build");
    for name in ["sublet", "subletd"] {
        fs::copy(Path::new(SUBLET).with_file_name(name), lab.join("bin").join(name)).unwrap();
    }
    call.run().check_success();
    assert_eq!(names(&lab.join("to")), ["consul", "sublet"]);
    assert_eq!(names(&lab.join("path")), ["sublet", "subletd"]);
}
