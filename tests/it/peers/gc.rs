//! Tests `sublet gc` with real network and mount namespaces, real processes, a real containerd and a real
//! Docker daemon. These tests need root.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sublet::alloc;
use sublet::model::{Netns as Recorded, Node, Persist};
use tempfile::TempDir;

use crate::lab::{Answer, Call, Lab, SUBLET, addresses, conf, root};
use crate::store_check as check;

/// Runs a program of this machine, which must succeed. If the program is not installed, the test fails.
fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program} is missing ({e}): scripts/test.sh installs it"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A process that is killed when the value is dropped.
struct Running(Child);

impl Running {
    fn start(program: &str, args: &[&str]) -> Running {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn();
        Running(
            child.unwrap_or_else(|e| {
                panic!("{program} is missing ({e}): scripts/test.sh installs it")
            }),
        )
    }

    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// The path of a mounted network namespace, as `ip netns add` mounts it.
struct Netns(PathBuf);

impl Netns {
    fn new(path: PathBuf) -> Netns {
        assert!(root(), "run this as root: it makes network namespaces");
        File::create(&path).unwrap();
        run("unshare", &[&format!("--net={}", path.display()), "true"]);
        Netns(path)
    }

    fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// Starts a process in this network namespace.
    fn process(&self) -> Running {
        let sleep = Running::start("nsenter", &[&format!("--net={}", self.text()), "sleep", "600"]);
        let inode = |path: &str| fs::read_link(path).map(|l| l.display().to_string()).ok();
        let own = inode("/proc/self/ns/net");
        wait(|| {
            let now = inode(&format!("/proc/{}/ns/net", sleep.0.id()));
            now.is_some() && now != own
        });
        sleep
    }

    /// Unmounts the namespace in this mount namespace only. Removing the file would unmount the namespace in
    /// all mount namespaces.
    fn unmount(&self) {
        let _ = Command::new("umount").args(["--lazy", self.text()]).stderr(Stdio::null()).status();
    }

    fn remove(&self) {
        self.unmount();
        let _ = fs::remove_file(&self.0);
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Waits until a condition is true.
#[allow(clippy::disallowed_methods, reason = "there is no event to wait for")]
fn wait(mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(30), "it did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A lease store, and a folder in /run for network namespaces.
struct Host {
    lab: Lab,
    run: TempDir,
}

impl Host {
    fn new() -> Host {
        Host { lab: Lab::new(), run: tempfile::tempdir_in("/run").unwrap() }
    }

    fn netns(&self, name: &str) -> Netns {
        Netns::new(self.run.path().join(name))
    }

    fn add(&self, container: &str, netns: &str) -> String {
        let conf = conf(&self.lab.data_dir(), "10.4.0.0/24");
        let call = Call::cni("ADD", container, &conf).env("CNI_NETNS", netns);
        addresses(&call.run().ok()).remove(0)
    }

    fn gc(&self, more: &[&str]) -> Call {
        let store = self.lab.store().display().to_string();
        let call = Call::sublet().arg("gc").arg("--store").arg(&store).arg("--json");
        let call = if more.iter().any(|a| a.starts_with("--grace")) {
            call
        } else {
            call.arg("--grace=0s")
        };
        let decided = more.contains(&"--dry-run");
        let call = if decided { call } else { call.arg("--yes") };
        more.iter().fold(call, |call, arg| call.arg(arg))
    }

    /// Returns `gc`'s verdict on a container's only lease, and whether `gc` freed it.
    fn verdict(answer: &Answer, container: &str) -> (String, bool) {
        let rows = answer.rows();
        let row = rows.iter().find(|r| r["containerID"] == container).unwrap();
        (row["verdict"].as_str().unwrap().to_owned(), row["freed"] == true)
    }

    fn judged(&self, container: &str) -> (String, bool) {
        Host::verdict(&self.gc(&[]).run(), container)
    }

    /// Repeats `gc` until it finds the lease to be stale. Other tests create mount namespaces, which contain
    /// copies of all mounts and so keep the network namespace alive. The kernel removes such a copy only some
    /// time after its mount namespace has ended.
    fn until_lost(&self, more: &[&str], container: &str) -> Answer {
        let mut found = None;
        wait(|| {
            let answer = self.gc(more).run();
            let lost = Host::verdict(&answer, container).0 == "lost";
            found = lost.then_some(answer);
            lost
        });
        found.unwrap()
    }

    fn is_leased(&self, container: &str) -> bool {
        self.lab.list().iter().any(|row| row["containerID"] == container)
    }
}

fn is(verdict: &str, freed: bool) -> (String, bool) {
    (verdict.to_owned(), freed)
}

#[test]
fn a_namespace_that_is_gone_frees_its_lease() {
    let host = Host::new();
    let (gone, alive) = (host.netns("gone"), host.netns("alive"));
    host.add("gone", gone.text());
    host.add("alive", alive.text());
    host.add("never", "/var/run/netns/no-such-namespace");
    assert_eq!(host.judged("gone"), is("alive", false));
    gone.remove();
    // In both of these runs, the lease must stay. In the first run, it is younger than the grace period. The
    // second run is a dry run.
    assert_eq!(Host::verdict(&host.gc(&["--grace=60s"]).run(), "gone"), is("cannotTell", false));
    let answer = host.until_lost(&["--dry-run"], "gone");
    assert_eq!(Host::verdict(&answer, "gone"), is("lost", false));
    let answer = host.until_lost(&["--netns"], "gone");
    assert_eq!(Host::verdict(&answer, "gone"), is("lost", true));
    assert_eq!(Host::verdict(&answer, "alive"), is("alive", false));
    assert_eq!(Host::verdict(&answer, "never"), is("cannotTell", false));
    assert!(!host.is_leased("gone") && host.is_leased("alive") && host.is_leased("never"));
}

#[test]
fn a_process_in_it_keeps_a_namespace_without_a_name() {
    let host = Host::new();
    let netns = host.netns("named");
    let mut process = netns.process();
    host.add("c1", netns.text());
    netns.remove();
    assert_eq!(host.judged("c1"), is("cannotTell", false));
    process.end();
    host.until_lost(&[], "c1");
}

#[test]
fn an_open_file_and_another_mount_keep_it_too() {
    let host = Host::new();
    let netns = host.netns("named");
    host.add("c1", netns.text());
    let file = File::open(&netns.0).unwrap();
    netns.remove();
    assert_eq!(host.judged("c1"), is("cannotTell", false));
    drop(file);
    host.until_lost(&[], "c1");

    let netns = host.netns("other");
    host.add("c2", netns.text());
    // Start a process in a mount namespace of its own. This mount namespace contains a copy of the mount,
    // which keeps the network namespace alive after it is unmounted below.
    let mut elsewhere = Running::start("unshare", &["--mount", "sleep", "600"]);
    let inode = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let own = inode(std::process::id());
    wait(|| inode(elsewhere.0.id()).is_some_and(|found| Some(found) != own));
    netns.unmount();
    assert_eq!(host.judged("c2"), is("cannotTell", false));
    elsewhere.end();
    host.until_lost(&[], "c2");
}

/// If a new network namespace is mounted on the path of an old one, `gc` must not confuse them. It compares
/// their inode numbers, which differ unless the kernel reuses a number.
#[test]
fn a_name_and_a_pid_that_are_used_again_prove_nothing() {
    let host = Host::new();
    let netns = host.netns("name");
    host.add("c1", netns.text());
    // Create the new namespace while the old one still exists, so that their inodes differ.
    let next = host.netns("next");
    netns.remove();
    File::create(&netns.0).unwrap();
    run("mount", &["--bind", next.text(), netns.text()]);
    host.add("c2", netns.text());
    host.until_lost(&[], "c1");
    assert_eq!(host.judged("c2"), is("alive", false));
    // The path that the lease records for its network namespace can also be in `/proc/PID` of a process.
    let process = next.process();
    let path = format!("/proc/{}/ns/net", process.0.id());
    host.add("c3", &path);
    assert_eq!(host.judged("c3"), is("alive", false));
    drop(process);
    // The process has ended, but two mounts still keep its network namespace alive.
    assert_eq!(host.judged("c3"), is("cannotTell", false));
    next.remove();
    netns.remove();
    host.until_lost(&[], "c3");
    assert_eq!(host.lab.list().len(), 0);
}

/// A process with a mount namespace of its own. Mounts that are made later are visible only in the mount
/// namespace in which they are made.
struct Mounts {
    process: Running,
    /// The options of `nsenter` that run a program in this mount namespace.
    enter: Vec<String>,
}

impl Mounts {
    /// Starts a process in a mount namespace of its own. The process IDs are those of the machine.
    fn new() -> Mounts {
        let process = Running::start("unshare", &["--mount", "sleep", "600"]);
        let pid = process.0.id();
        let is_there = |pid: u32| comm(pid) == "sleep";
        wait(|| is_there(pid));
        Mounts { process, enter: vec![format!("--target={pid}"), "--mount".to_owned()] }
    }

    /// Starts a process in a mount namespace and a PID namespace of its own. It is the first process there,
    /// so `gc` treats it like the first process of a separate host.
    fn host() -> Mounts {
        let options =
            ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sleep", "600"];
        let process = Running::start("unshare", &options);
        let children = format!("/proc/{0}/task/{0}/children", process.0.id());
        let first = || fs::read_to_string(&children).ok()?.trim().parse::<u32>().ok();
        wait(|| first().is_some_and(|pid| comm(pid) == "sleep"));
        let pid = first().unwrap();
        let enter = [format!("--target={pid}"), "--mount".to_owned(), "--pid".to_owned()];
        Mounts { process, enter: enter.into() }
    }

    fn run(&self, call: Call) -> Call {
        let options: Vec<&str> = self.enter.iter().map(String::as_str).collect();
        call.under("nsenter", &options)
    }
}

/// Returns the name of the program that a process runs.
fn comm(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// Returns the same call with an empty folder mounted over /run, so that the paths of network namespaces do
/// not exist.
fn in_private_run(call: Call) -> Call {
    let script = r#"mount -t tmpfs none /run && exec "$@""#;
    call.under("unshare", &["--mount", "sh", "-c", script, "sh"])
}

#[test]
fn one_mount_namespace_does_not_judge_anothers_names() {
    let host = Host::new();
    let netns = host.netns("here");
    let mut elsewhere = Mounts::new();
    let conf = conf(&host.lab.data_dir(), "10.4.0.0/24");
    let add =
        |container: &str, netns: &str| Call::cni("ADD", container, &conf).env("CNI_NETNS", netns);
    elsewhere.run(add("c1", netns.text())).run().ok();
    let judged = |call: Call| Host::verdict(&call.run(), "c1");
    // In the private /run, the path of the network namespace does not exist. But the namespace is still
    // alive, because it is mounted elsewhere.
    assert_eq!(judged(in_private_run(host.gc(&[]))), is("cannotTell", false));
    netns.remove();
    assert_eq!(judged(in_private_run(host.gc(&[]))), is("cannotTell", false));
    assert_eq!(judged(host.gc(&[])), is("cannotTell", false));
    wait(|| judged(elsewhere.run(host.gc(&["--dry-run"]))).0 == "lost");
    assert_eq!(judged(elsewhere.run(host.gc(&[]))), is("lost", true));

    // The mount namespace in which the lease was made has ended, so `gc` cannot determine the lease's state.
    let netns = host.netns("next");
    elsewhere.run(add("c2", netns.text())).run().ok();
    elsewhere.process.end();
    netns.remove();
    assert_eq!(host.judged("c2"), is("cannotTell", false));
}

/// A `gc` that runs in a container and shares the process IDs of its host must be able to check the host's
/// leases. It must use the mounts of the host for these leases.
#[test]
fn a_container_judges_the_leases_of_its_host() {
    let host = Host::new();
    let (gone, alive) = (host.netns("gone"), host.netns("alive"));
    let machine = Mounts::host();
    let conf = conf(&host.lab.data_dir(), "10.4.0.0/24");
    for (container, netns) in [("gone", &gone), ("alive", &alive)] {
        let add = Call::cni("ADD", container, &conf).env("CNI_NETNS", netns.text());
        machine.run(add).run().ok();
    }
    let from_container = |more: &[&str]| machine.run(in_private_run(host.gc(more))).run();
    let answer = from_container(&[]);
    for container in ["gone", "alive"] {
        assert_eq!(Host::verdict(&answer, container), is("alive", false), "{container}");
    }
    gone.remove();
    wait(|| Host::verdict(&from_container(&["--dry-run"]), "gone").0 == "lost");
    let answer = from_container(&[]);
    assert_eq!(Host::verdict(&answer, "gone"), is("lost", true));
    assert_eq!(Host::verdict(&answer, "alive"), is("alive", false));
    // Without the capability SYS_PTRACE, `gc` cannot examine other processes.
    alive.remove();
    let call = host.gc(&[]).under("setpriv", &["--bounding-set=-sys_ptrace"]);
    let answer = machine.run(in_private_run(call)).run();
    assert_eq!(Host::verdict(&answer, "alive"), is("cannotTell", false));
    wait(|| Host::verdict(&from_container(&["--dry-run"]), "alive").0 == "lost");
}

/// If two machines share one folder, `gc` must not examine the leases of the other machine.
#[test]
fn another_machines_leases_are_not_judged() {
    let host = Host::new();
    let netns = host.netns("mine");
    host.add("mine", netns.text());
    let facts = sublet::sys::host::facts(&|_| None);
    let inode = |path: &str| (facts.inode)(path);
    let recorded = Recorded {
        path: "/run/netns/gone".to_owned(),
        inode: Some((4, 1)),
        mount_ns: inode("/proc/self/ns/mnt").map(|(_, n)| n),
    };
    let store = &mut *check::open(&host.lab.store(), Persist::Boot);
    for (container, machine) in
        [("theirs", "f00d".to_owned()), ("ours", facts.node.machine.clone())]
    {
        let cx = alloc::Context { node: Node { name: "n".to_owned(), machine }, ..facts.context() };
        let alloc::Command::Add(mut add) = check::add(container) else { unreachable!() };
        add.origin.netns = Some(recorded.clone());
        store.apply(&alloc::Command::Add(add), &cx).unwrap();
    }
    assert!(!facts.node.machine.is_empty(), "/etc/machine-id is missing");
    let store = host.lab.store().display().to_string();
    let call = |args: &[&str]| args.iter().fold(Call::sublet(), |c, arg| c.arg(arg)).run();
    let dry = call(&["gc", "--store", &store, "--grace=0s", "--dry-run"]);
    assert!(dry.stderr.contains(", 1 of other machines"), "{}", dry.stderr);
    let answer = host.gc(&["--netns"]).run();
    assert!(answer.rows().iter().all(|row| row["containerID"] != "theirs"));
    let listed = call(&["list", "--store", &store, "-o", "json"]).rows();
    assert!(listed.iter().any(|row| row["containerID"] == "theirs"), "{listed:?}");
    assert_eq!(Host::verdict(&answer, "ours"), is("lost", true));
    assert_eq!(Host::verdict(&answer, "mine"), is("alive", false));
}

#[test]
fn a_leftover_file_hides_no_stale_lease() {
    let host = Host::new();
    let facts = sublet::sys::host::facts(&|_| None);
    let mount_ns = (facts.inode)("/proc/self/ns/mnt").map(|(_, n)| n);
    let path = "/run/netns/gone".to_owned();
    let cx = alloc::Context { now: facts.now - 100, ..facts.context() };
    let alloc::Command::Add(mut add) = check::add("lost") else { unreachable!() };
    add.origin.netns = Some(Recorded { path, inode: Some((4, 1)), mount_ns });
    let store = &mut *check::open(&host.lab.store(), Persist::Boot);
    store.apply(&alloc::Command::Add(add), &cx).unwrap();
    let file = host.lab.store().display().to_string();
    fs::write(format!("{file}.new"), "half").unwrap();
    let answer = Call::sublet().args(&["doctor", "--store", &file]).run();
    for text in ["was left behind", "the container's network namespace /run/netns/gone is gone"] {
        answer.check(answer.code == Some(1) && answer.stdout.contains(text), text);
    }
}

/// `gc --containerd` must free leases of containers that containerd does not know. If containerd does not
/// respond, or knows none of the containers, nothing may be freed.
#[test]
fn containerd_is_asked() {
    let host = Host::new();
    let dir = host.run.path().display().to_string();
    let config = format!(
        "version = 2\nroot = \"{dir}/root\"\nstate = \"{dir}/state\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\n address = \"{dir}/c.sock\"\n"
    );
    fs::write(host.run.path().join("config.toml"), config).unwrap();
    let mut containerd = Running::start("containerd", &["--config", &format!("{dir}/config.toml")]);
    wait(|| Path::new(&format!("{dir}/c.sock")).exists());
    let socket = format!("{dir}/c.sock");
    let ctr = |args: &[&str]| run("ctr", &[&["--address", &socket], args].concat());
    wait(|| {
        let asked = Command::new("ctr").args(["--address", &socket, "version"]).output().unwrap();
        asked.status.success()
    });
    let ask = format!("--containerd={socket}");
    fs::create_dir(host.run.path().join("rootfs")).unwrap();
    let rootfs = format!("{dir}/rootfs");
    for container in ["known", "lost", "default-nerd"] {
        host.add(container, "/var/run/netns/no-such-namespace");
    }
    let netns = host.netns("alive");
    host.add("strange", netns.text());
    assert_eq!(Host::verdict(&host.gc(&[&ask]).run(), "lost"), is("cannotTell", false));
    ctr(&["-n", "k8s.io", "containers", "create", "--rootfs", &rootfs, "known", "true"]);
    ctr(&["-n", "default", "containers", "create", "--rootfs", &rootfs, "nerd", "true"]);
    let answer = host.gc(&[&ask]).run();
    assert_eq!(Host::verdict(&answer, "known"), is("alive", false));
    assert_eq!(Host::verdict(&answer, "default-nerd"), is("alive", false));
    assert_eq!(Host::verdict(&answer, "strange"), is("cannotTell", false), "its namespace exists");
    assert_eq!(Host::verdict(&answer, "lost"), is("lost", true));
    containerd.end();
    ctr_does_not_answer(&host, &ask);
    // The list of containers is incomplete, because the query for the second containerd namespace fails.
    let half = host.run.path().join("ctr");
    let script = "#!/bin/sh\ncase \"$*\" in *namespaces*) echo a; echo b;; *'-n a '*) echo known;; \
                  *) exit 1;; esac\n";
    fs::write(&half, script).unwrap();
    run("chmod", &["+x", half.to_str().unwrap()]);
    let answer = host.gc(&[&ask, "--ctr", half.to_str().unwrap()]).run();
    answer.check(answer.code == Some(1) && answer.stdout.is_empty(), "half a listing");
    assert_eq!(host.lab.list().len(), 3);
}

fn ctr_does_not_answer(host: &Host, ask: &str) {
    // This program replaces ctr and fails at once. The real ctr would wait several seconds for containerd.
    let deaf = host.run.path().join("deaf");
    fs::write(&deaf, "#!/bin/sh\necho 'context deadline exceeded' >&2\nexit 1\n").unwrap();
    run("chmod", &["+x", deaf.to_str().unwrap()]);
    let answer = host.gc(&[ask, "--ctr", deaf.to_str().unwrap(), "--netns"]).run();
    answer.check(answer.code == Some(1) && answer.stdout.is_empty(), "nobody answers");
    answer.check(answer.stderr.contains("nothing was freed"), "what was done");
}

#[test]
fn docker_is_asked() {
    let host = Host::new();
    let dir = host.run.path().display().to_string();
    let socket = format!("unix://{dir}/d.sock");
    let path = |name: &str| format!("{dir}/{name}");
    let mut dockerd = Running::start(
        "dockerd",
        &[
            ["--data-root", &path("root")],
            ["--exec-root", &path("exec")],
            ["--pidfile", &path("pid")],
            ["-H", &socket],
            ["--storage-driver", "vfs"],
            ["--bridge", "none"],
        ]
        .concat()
        .into_iter()
        .chain(["--iptables=false", "--ip6tables=false"])
        .collect::<Vec<_>>(),
    );
    let docker = |args: &[&str]| run("docker", &[&["-H", &socket], args].concat());
    wait(|| {
        Command::new("docker").args(["-H", &socket, "info"]).output().unwrap().status.success()
    });
    run("tar", &["-cf", &path("empty.tar"), "-T", "/dev/null"]);
    docker(&["import", &path("empty.tar"), "empty"]);
    let known = docker(&["create", "empty", "/x"]);
    host.add(&known, "/var/run/netns/no-such-namespace");
    host.add("lost", "/var/run/netns/no-such-namespace");
    let answer = host.gc(&[&format!("--docker={}", path("d.sock"))]).run();
    assert_eq!(Host::verdict(&answer, &known), is("alive", false));
    assert_eq!(Host::verdict(&answer, "lost"), is("lost", true));
    docker(&["rm", &known]);
    // On SIGTERM, dockerd also ends its child processes.
    run("kill", &["-TERM", &dockerd.0.id().to_string()]);
    dockerd.0.wait().unwrap();
}

/// If a Docker daemon sends an incomplete response, refuses the request, or responds incorrectly, `gc` must
/// free nothing.
#[test]
fn a_partial_answer_of_docker_frees_nothing() {
    let host = Host::new();
    for container in ["known", "lost"] {
        host.add(container, "/var/run/netns/no-such-namespace");
    }
    let path = host.run.path().join("fake.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let body = json!([{"Id": "known"}]).to_string();
    let whole = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let answers =
        [whole[..whole.len() - 2].to_owned(), "HTTP/1.0 503 Down\r\n\r\n[]".into(), whole];
    let serving = answers.clone();
    let server = std::thread::spawn(move || {
        for answer in serving {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 64];
            let _ = stream.read(&mut asked).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let ask = format!("--docker={}", path.display());
    for _ in 0..2 {
        let answer = host.gc(&[&ask, "--netns"]).run();
        answer.check(answer.code == Some(1) && answer.stdout.is_empty(), "it cannot be trusted");
        assert_eq!(host.lab.list().len(), 2);
    }
    assert_eq!(Host::verdict(&host.gc(&[&ask]).run(), "lost"), is("lost", true));
    server.join().unwrap();
    let missing = host.gc(&["--docker=/nowhere/docker.sock"]).run();
    missing.check(missing.code == Some(1) && missing.stderr.contains("/nowhere"), "no daemon");
}

#[test]
fn nothing_is_freed_without_a_word() {
    let host = Host::new();
    let netns = host.netns("gone");
    host.add("gone", netns.text());
    netns.remove();
    let store = host.lab.store().display().to_string();
    let plain = Call::sublet().arg("gc").arg("--store").arg(&store).arg("--grace=0s");
    host.until_lost(&["--dry-run"], "gone");
    let asked = plain.run();
    asked.check(asked.code == Some(2) && asked.stderr.contains("--yes"), "there is no terminal");
    let json = plain.clone().arg("--json").run();
    json.check(json.code == Some(2) && json.stderr.contains("--yes"), "JSON does not ask");
    assert!(host.is_leased("gone"));
    host.add("never", "/var/run/netns/no-such-namespace");
    let quiet = plain.clone().arg("--dry-run").arg("--quiet").run();
    quiet.check(quiet.stdout.lines().count() == 1, "the lost one alone");
    let done = plain.clone().arg("--yes").run();
    done.check(done.succeeded() && done.stdout.starts_with("freed: 10.4.0.2"), "freed");
    done.check(done.stdout.contains("undetermined: 10.4.0.3"), "the rest");
    let rows: Value = plain.arg("--json").run().ok();
    assert_eq!(rows[0]["verdict"], "cannotTell");
    let wrong = Call::sublet().arg("gc").arg("--grace=soon").run();
    assert_eq!(wrong.code, Some(2));
}

/// Without `--store`, sublet must use the default store that exists, even if this store has only boot leases.
/// If both default stores exist, a message must name the one that is not used.
#[test]
fn the_default_store_is_the_one_that_there_is() {
    let add = |persist: &str, ecs: bool| {
        let conf = if ecs {
            json!({"cniVersion": "0.3.0", "name": "e", "type": "ecs", "ipam": {
                "type": "ecs-ipam", "id": "7", "persist": persist,
                "ipv4-subnet": "169.254.172.0/22"}})
        } else {
            json!({"cniVersion": "1.0.0", "name": "n", "type": "bridge", "ipam": {
                "type": "sublet", "persist": persist, "ranges": [[{"subnet": "10.0.0.0/24"}]]}})
        };
        format!(
            "echo '{conf}' | CNI_COMMAND=ADD CNI_CONTAINERID=c CNI_IFNAME=eth0 CNI_NETNS=/x \
             CNI_PATH=/x {SUBLET} > /dev/null"
        )
    };
    for persist in ["boot", "disk"] {
        let (ecs, other) = (add(persist, true), add(persist, false));
        let script = format!(
            "set -e; mkdir -p /data /var/lib/cni; mount -t tmpfs none /data; \
             mount -t tmpfs none /var/lib/cni; {ecs}; {SUBLET} list; {other}; {SUBLET} list"
        );
        let answer = Call::new("unshare").args(&["--mount", "sh", "-c", &script]).run();
        let tables = answer.stdout.matches("NETWORK").count();
        let of = |address: &str| answer.stdout.matches(address).count();
        answer.check(tables == 2 && of("169.254.172.2/22") == 1, "the only one");
        answer.check(of("10.0.0.2/24") == 1, "the usual one");
        answer.check(answer.stderr.matches("--store /data/eni-ipam.db").count() == 1, "the other");
    }
}
