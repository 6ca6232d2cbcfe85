//! Compares the output of every command of `sublet` on a fixed store, as text and as JSON, with golden files.
//! The module `cluster_commands` compares the output of the commands for clusters.
//!
//! `testdata/cli/<case>.<plain|json|color>` contains standard output, standard error and the exit code. ESC
//! is written as `^[`, and the test's folder as `@`. `UPDATE_GOLDEN=1` rewrites the files; read each
//! difference before you commit it. A case that only fails with a message has no file.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};
use sublet::cli;
use sublet::cli::Terminal;
use sublet::cli::screen::Screen;
use sublet::cni;
use sublet::cni::World;
use sublet::model::{BootId, Face, Node};
use sublet::sys::host::Facts;

use crate::lab::{Lab, testdata};
use crate::peers::cluster_commands;
use crate::schema;

pub const NOW: u64 = 1_769_900_000;

/// Returns facts about a host named node-1, at the time `now`.
pub fn facts(now: u64) -> Facts {
    Facts {
        now,
        boot: Some(BootId("3f0c2d7e-0000-4000-8000-000000000001".to_owned())),
        node: Node {
            name: "node-1".to_owned(),
            machine: "00112233445566778899aabbccddeeff".to_owned(),
        },
        uptime: || None,
        by_host_name: false,
        seed: 1,
        inode: |_| None,
        face: Face::Cni,
        trace: None,
    }
}

/// Calls the plugin with the fixed store, as if the time were `now`.
fn plugin(lab: &Lab, now: u64, command: &str, conf: &Value, more: &[(&str, &str)]) {
    let store = lab.join("leases.redb").display().to_string();
    called(&facts(now), command, conf, &[&[("IPAM_DB_PATH", &*store)], more].concat());
}

/// Calls the plugin on the host that `facts` describes. The call must succeed.
pub fn called(facts: &Facts, command: &str, conf: &Value, more: &[(&str, &str)]) {
    let env = |name: &str| -> Option<OsString> {
        let own = more.iter().find(|(n, _)| *n == name).map(|(_, value)| *value);
        let usual = match name {
            "CNI_COMMAND" => Some(command),
            "CNI_NETNS" => Some("/var/run/netns/gone"),
            "CNI_IFNAME" => Some("eth0"),
            "CNI_PATH" => Some("/opt/cni/bin"),
            _ => None,
        };
        own.or(usual).map(Into::into)
    };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let code = cni::run(World {
        env: &env,
        stdin: &mut conf.to_string().as_bytes(),
        stdout: &mut stdout,
        stderr: &mut stderr,
        facts: &|| facts.clone(),
    });
    assert_eq!(code, 0, "{}", String::from_utf8_lossy(&stdout));
}

fn pods() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "pods", "type": "bridge",
        "ipam": {"type": "sublet", "persist": "disk", "cooldown": "1h",
                 "ranges": [[{"subnet": "10.77.0.0/24", "rangeEnd": "10.77.0.199"}], [{"subnet": "fd77::/64"}]],
                 "exclude": ["10.77.0.64/27"]}
    })
}

/// Fills a store with the leases of a typical node: pods with IPv4 and IPv6 addresses, a small network that
/// is nearly full, ECS tasks with their gateway, and some reservations. Some of the ECS tasks have ended.
fn fill(lab: &Lab) {
    let edge = json!({
        "cniVersion": "1.0.0", "name": "edge", "type": "macvlan",
        "ipam": {"type": "host-local", "persist": "disk", "subnet": "10.78.0.0/29"}
    });
    let ecs = json!({
        "cniVersion": "0.3.0", "name": "ecs", "type": "ecs-bridge",
        "ipam": {"type": "ecs-ipam", "id": "task-1", "ipv4-subnet": "169.254.172.0/22"}
    });
    for n in 0..40_u64 {
        let digits = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let id = format!("{digits:016x}").repeat(4);
        let pod = format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-{n};IgnoreUnknown=1");
        let own = [("CNI_CONTAINERID", &*id), ("CNI_ARGS", &*pod)];
        plugin(lab, NOW + n, "ADD", &pods(), &own);
        if n % 5 == 4 {
            plugin(lab, NOW + 100 + n, "DEL", &pods(), &own);
        }
    }
    for name in ["vip", "dns", "ntp", "mail"] {
        plugin(lab, NOW + 200, "ADD", &edge, &[("CNI_CONTAINERID", name)]);
    }
    plugin(lab, NOW + 201, "ADD", &ecs, &[("CNI_CONTAINERID", "task-1-container")]);
    let reserved =
        call(lab, &["reserve", "pods", "10.77.0.150-10.77.0.159", "--note", "printers"], PLAIN);
    assert!(reserved.ends_with("exit 0\n"), "{reserved}");
    // Add other programs' lease files, for the import commands to read.
    fs::copy(testdata().join("import/eni-ipam.db"), lab.join("eni-ipam.db")).unwrap();
    let gipam = json!({"v4": "192.168.0.0/16", "v4ab": 24, "v4idx": 1, "allocated": [
        {"id": "a1b2", "v": 4, "pool": "192.168.0.0/24", "idx": 3, "allocated": ["192.168.0.1"]}]});
    fs::write(lab.join("gipam.json"), gipam.to_string()).unwrap();
    fs::create_dir_all(lab.join("results")).unwrap();
    for name in ["pods-former-eth0", "pods-gone-eth0", "pods-unreadable-eth0"] {
        fs::copy(testdata().join("import/results").join(name), lab.join("results").join(name))
            .unwrap();
    }
    fs::create_dir_all(lab.join("bin")).unwrap();
    fs::write(lab.join("bin/sublet"), "").unwrap();
    fs::write(lab.join("bin/host-local.old"), "").unwrap();
    symlink("sublet", lab.join("bin/host-local")).unwrap();
    fs::create_dir_all(lab.join("networks/old")).unwrap();
    fs::write(lab.join("networks/old/lock"), "").unwrap();
    fs::write(lab.join("networks/old/10.9.0.5"), "old-1").unwrap();
}

pub const PLAIN: Screen = Screen { width: 80, height: Some(24), ..Screen::PLAIN };
const COLOR: Screen = Screen { color: true, alert: true, unicode: true, ..PLAIN };

/// Runs a command on the fixed store. Returns its output and exit code.
fn call(lab: &Lab, args: &[&str], screen: Screen) -> String {
    let store: &[&str] = if args.is_empty() { &[] } else { &["--store", "@/leases.redb"] };
    said(lab, &[args, store].concat(), screen)
}

/// Runs a command. Returns its output and exit code.
pub fn said(lab: &Lab, args: &[&str], screen: Screen) -> String {
    let folder = lab.path().display().to_string();
    let mut all: Vec<OsString> = vec!["sublet".into()];
    all.extend(args.iter().map(|arg| arg.replace('@', &folder).into()));
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut terminal = Terminal { stdout: &mut stdout, stderr: &mut stderr, screen };
    let facts = facts(NOW + 3600);
    let world = cli::World { env: &|_| None, facts: &facts };
    let code = cli::run(all, world, &mut terminal);
    let text = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).unwrap().replace('\u{1b}', "^[");
        let release = concat!("\"sublet\":\"", env!("CARGO_PKG_VERSION"));
        let text = text.replace(release, "\"sublet\":\"RELEASE");
        text.replace(&folder, "@").replace(env!("CARGO_MANIFEST_DIR"), "SUBLET")
    };
    format!("{}--- standard error\n{}--- exit {code}\n", text(stdout), text(stderr))
}

/// Returns the difference between an output and its golden file; `None` if they are the same.
pub fn golden(name: &str, said: &str) -> Option<String> {
    let path = testdata().join("cli").join(name);
    #[allow(clippy::disallowed_methods, reason = "a test reads its own setting")]
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, said).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    (written != said).then(|| format!("== {name}\n-- written\n{written}\n-- said\n{said}"))
}

/// Returns a copy of the folder with the fixed store, for a command that changes the store.
pub fn copy(from: &Path) -> Lab {
    let lab = Lab::new();
    copy_into(from, lab.path());
    lab
}

fn copy_into(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy_into(&entry.path(), &target);
        } else if entry.file_type().unwrap().is_symlink() {
            symlink(fs::read_link(entry.path()).unwrap(), target).unwrap();
        } else if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A case: its name, its arguments, and how the command ends.
pub type Case = (&'static str, &'static [&'static str], Ends);

/// How the command of a case ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// The command has a golden file for its output.
    Plain,
    /// The command has golden files for its output without and with `--json`.
    Json,
    /// The command has no golden file. It prints only a message and fails with this exit code, even with
    /// `--json`.
    Fails(u8),
}
use Ends::{Fails, Json, Plain};

/// The cases that also have a golden file for colored output.
const COLORED: [&str; 2] = ["list", "map-network"];

const CASES: &[Case] = &[
    ("list", &["list"], Json),
    ("list-of-a-network", &["list", "--network", "edge"], Json),
    ("list-of-nothing", &["list", "--network", "none"], Json),
    ("show-address", &["show", "10.77.0.2"], Json),
    ("show-container", &["show", "vip"], Json),
    ("show-beginning-of-a-container", &["show", "vi"], Json),
    ("show-pod", &["show", "default/web-3"], Json),
    ("show-network", &["show", "pods"], Json),
    ("show-nothing", &["show", "10.9.9.9"], Fails(1)),
    ("explain-address", &["explain", "10.77.0.2"], Json),
    ("explain-free-address", &["explain", "10.77.0.6"], Json),
    ("explain-reservation", &["explain", "10.77.0.150"], Json),
    ("explain-gateway", &["explain", "10.77.0.1"], Json),
    ("explain-pod", &["explain", "default/web-3"], Json),
    ("explain-nothing", &["explain", "10.9.9.9"], Fails(1)),
    ("pools", &["pools"], Json),
    ("pools-of-a-network", &["pools", "--network", "edge"], Json),
    ("pools-by-network", &["pools", "--by", "network"], Json),
    ("pools-by-namespace", &["pools", "--by", "namespace"], Json),
    ("pools-by-node", &["pools", "--by", "node", "--network", "edge"], Json),
    ("top", &["top", "--count", "1"], Json),
    ("top-of-nothing", &["top", "--count", "1", "--network", "none"], Fails(1)),
    ("map-network", &["map", "pods"], Json),
    ("map-small", &["map", "edge"], Json),
    ("map-of-a-slash-8", &["map", "10.0.0.0/8"], Plain),
    ("map-zoomed", &["map", "pods", "--zoom", "10.77.0.128/26"], Plain),
    ("map-of-no-network", &["map", "none"], Fails(1)),
    ("map-zoomed-outside", &["map", "pods", "--zoom", "10.9.0.0/24"], Fails(1)),
    ("map-of-no-prefix", &["map", "pods", "--zoom", "10.0.0.0/40"], Fails(2)),
    ("check", &["check", "SUBLET/testdata/check/own/wrong.conflist"], Json),
    ("check-overlap", &["check", "SUBLET/testdata/check/own/overlap.conf"], Json),
    ("check-of-no-file", &["check", "@/none"], Fails(1)),
    ("history-of-an-address", &["history", "10.77.0.6"], Json),
    ("history-of-a-container", &["history", "vip"], Json),
    ("history-since", &["history", "10.77.0.6", "--since", "3500s"], Json),
    ("history-of-nobody", &["history", "10.9.9.9"], Json),
    ("stats", &["stats"], Json),
    ("stats-of-a-network", &["stats", "--network", "edge"], Json),
    ("stats-of-nothing", &["stats", "--network", "none"], Json),
    ("doctor", &["doctor"], Json),
    ("reserve", &["reserve", "pods", "10.77.0.100"], Json),
    ("reserve-for", &["reserve", "pods", "10.77.0.101", "--for", "shop/db-0"], Json),
    ("reserve-for-nobody", &["reserve", "pods", "10.77.0.101", "--for", "shop/"], Fails(2)),
    ("reserve-what-is-held", &["reserve", "pods", "10.77.0.2"], Fails(1)),
    ("unreserve", &["unreserve", "pods", "10.77.0.150", "--yes"], Json),
    ("drain", &["drain", "pods", "10.77.0.0/28"], Json),
    ("drain-without-a-lease", &["drain", "pods", "10.77.0.100-10.77.0.120", "--wait"], Json),
    ("drain-that-was-not-begun", &["drain", "pods", "10.77.0.0/28", "--undo"], Fails(1)),
    ("drain-outside", &["drain", "pods", "10.9.0.0/24"], Fails(1)),
    ("drain-of-no-network", &["drain", "none", "10.77.0.0/28"], Fails(1)),
    ("drain-of-no-range", &["drain", "pods", "10.77.0.1/28"], Fails(2)),
    ("plan", &["plan", "SUBLET/testdata/plan/moved.conflist"], Json),
    ("plan-that-keeps-all", &["plan", "SUBLET/testdata/plan/larger.conf"], Json),
    ("plan-that-overlaps", &["plan", "SUBLET/testdata/plan/overlapping.conf"], Json),
    ("plan-of-errors", &["plan", "SUBLET/testdata/check/own/wrong.conflist"], Json),
    ("plan-of-no-file", &["plan", "@/none"], Fails(1)),
    ("release", &["release", "10.77.0.2", "--yes"], Json),
    ("release-unasked", &["release", "10.77.0.2"], Fails(2)),
    ("gc", &["gc", "--dry-run", "--network", "edge"], Json),
    ("export-host-local", &["export", "host-local", "@/out", "--dry-run"], Json),
    ("import-host-local", &["import", "host-local", "@/networks", "--dry-run"], Json),
    ("import-cni-cache-of-no-folder", &["import", "cni-cache", "@/none"], Fails(1)),
    ("import-cni-cache", &["import", "cni-cache", "@/results"], Json),
    ("import-gipam-of-no-file", &["import", "gipam", "@/none"], Fails(1)),
    ("import-gipam", &["import", "gipam", "@/gipam.json"], Json),
    ("export-jsonl", &["export", "jsonl", "@/out.jsonl"], Json),
    ("node-list-of-a-file", &["node", "list"], Json),
    ("node-release-of-a-file", &["node", "release", "node-1"], Fails(2)),
    ("network-show-of-a-file", &["network", "show", "pods"], Fails(2)),
    ("copy-with-a-store", &["copy", "--from", "@/leases.redb", "--to", "@/to.redb"], Fails(2)),
    (
        "uninstall",
        &["uninstall", "--to", "@/bin", "--conf-dir", "@/net.d", "--networks", "@/networks"],
        Json,
    ),
    ("no-command", &[], Plain),
    ("unknown-command", &["lits"], Fails(2)),
    ("unknown-option", &["list", "--jsn"], Fails(2)),
];

#[test]
fn print_what_they_printed() {
    let fixed = fixed();
    let mut faults = Vec::new();
    for (name, args, ends) in CASES {
        let args: Vec<String> =
            args.iter().map(|a| a.replace("SUBLET", env!("CARGO_MANIFEST_DIR"))).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        faults.extend(in_all_forms(name, &args, *ends, &|more, screen| {
            call(&copy(fixed.path()), &[&args, more].concat(), screen)
        }));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The commands must forecast when a range will be full. In a network with 29 addresses, two pods start every
/// 15 minutes for three hours.
#[test]
fn a_range_that_fills_up_has_a_forecast() {
    let lab = Lab::new();
    let conf = json!({
        "cniVersion": "1.1.0", "name": "rise", "type": "bridge",
        "ipam": {"type": "sublet", "persist": "disk", "subnet": "10.79.0.0/27"}
    });
    for n in 0..24_u64 {
        // The commands run at the time NOW + 3600. The ADDs are spread over the three hours before that.
        let time = NOW + 3600 - 10_800 + n / 2 * 900 + 450;
        plugin(&lab, time, "ADD", &conf, &[("CNI_CONTAINERID", &format!("c{n}"))]);
    }
    for command in ["pools", "top"] {
        let said = call(&lab, &[command, "--json"], PLAIN);
        let rows: Value = serde_json::from_str(said.split("---").next().unwrap()).unwrap();
        let counts = ["used", "free", "allocatedLastHour", "releasedLastHour"];
        assert_eq!(counts.map(|name| &rows[0][name]), [24, 5, 8, 0].map(Value::from).each_ref());
        // Eight addresses are leased per hour, so the remaining five last less than 40 minutes.
        assert_eq!(rows[0]["fullIn"], json!(5 * 3600 / 8), "{command}: {said}");
        let table = call(&lab, &[command, "--network", "rise", "--color", "never"], Screen::PLAIN);
        assert!(table.contains("FULL IN") && table.contains(" 37 min"), "{command}: {table}");
    }
}

/// The cases of the test [`show_what_is_draining`].
const DRAINING: [Case; 7] = [
    ("draining-list", &["list", "--network", "pods", "--prefix", "10.77.0.0/27"], Json),
    ("draining-pools", &["pools"], Json),
    ("draining-pools-by-network", &["pools", "--by", "network"], Json),
    ("draining-explain", &["explain", "10.77.0.2"], Json),
    ("draining-explain-of-a-free-address", &["explain", "10.77.0.6"], Json),
    ("draining-stats", &["stats"], Json),
    ("draining-stats-for-prometheus", &["stats", "--prometheus=-"], Plain),
];

/// The commands must show a range that is draining, until `drain --undo` ends the draining.
#[test]
fn show_what_is_draining() {
    let lab = fixed();
    let drain = &["drain", "pods", "10.77.0.0/28"][..];
    let before = call(&lab, &["pools"], PLAIN);
    assert!(exits(&call(&lab, drain, PLAIN), 1));
    let mut faults = Vec::new();
    for (name, args, ends) in DRAINING {
        let call = |more: &[&str], screen| call(&lab, &[args, more].concat(), screen);
        faults.extend(in_all_forms(name, args, ends, &call));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let said = call(&lab, &[drain, &["--undo"]].concat(), PLAIN);
    assert!(exits(&said, 0) && said.contains("is no longer draining"), "{said}");
    assert_eq!(call(&lab, &["pools"], PLAIN), before);
}

/// Makes a folder with the fixed store.
pub fn fixed() -> Lab {
    let lab = Lab::new();
    fill(&lab);
    lab
}

/// Compares the output of a case with its golden files: without options, with `--json`, and in color. Returns
/// the differences. `call` runs the case's command with additional arguments.
pub fn in_all_forms(
    name: &str,
    args: &[&str],
    ends: Ends,
    call: &dyn Fn(&[&str], Screen) -> String,
) -> Vec<String> {
    let plain = call(&[], PLAIN);
    assert!(!plain.contains("^["), "{name}: {plain}");
    if let Fails(code) = ends {
        let is_message = exits(&plain, code) && plain.starts_with("--- standard error\n");
        assert!(
            is_message && !plain.ends_with(&format!("error\n--- exit {code}\n")),
            "{name}: {plain}"
        );
        return Vec::new();
    }
    // Tables and maps must fit the width of the screen, which is 80 characters.
    let fits =
        ["list", "pools", "top", "map", "stats", "history", "show-network", "node-list", "doctor"];
    if fits.iter().any(|f| name.starts_with(f)) {
        let stdout = plain.split("--- standard error").next().unwrap();
        let long = stdout.lines().find(|l| l.len() > 80);
        assert_eq!(long, None, "{name}");
    }
    let mut faults: Vec<String> = golden(&format!("{name}.plain"), &plain).into_iter().collect();
    if ends == Json {
        let said = call(&["--json"], PLAIN);
        let stdout = said.split("--- standard error").next().unwrap();
        if exits(&said, 0) || !stdout.is_empty() {
            let parsed = serde_json::from_str(stdout);
            let parsed: Value = parsed.unwrap_or_else(|e| panic!("{name}: {e}: {said}"));
            let leaf = leaves().into_iter().find(|(path, _)| args.starts_with(&strs(path)));
            schema::check(&leaf.unwrap().0.join(" "), &parsed);
        }
        faults.extend(golden(&format!("{name}.json"), &said));
    }
    if COLORED.contains(&name) {
        faults.extend(golden(&format!("{name}.color"), &call(&[], COLOR)));
    }
    faults
}

fn strs(path: &[String]) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
}

/// The schema must contain every command that prints JSON, and no others.
#[test]
fn are_all_in_the_schema() {
    let commands = leaves().into_iter().map(|(path, _)| path.join(" "));
    // These two commands do not print JSON: `completion` prints a script, and `agent` prints lines for a log.
    let others = ["completion", "agent"];
    let printing: BTreeSet<String> =
        commands.filter(|name| !others.contains(&name.as_str())).collect();
    assert_eq!(schema::commands(), printing);
    let version = said(&Lab::new(), &["version", "-o", "json"], PLAIN);
    let version = version.split("--- standard error").next().unwrap();
    schema::check("version", &serde_json::from_str(version).unwrap());
}

/// Returns every command that has no subcommands, with the words that select it (for example `import`,
/// `gipam`).
fn leaves() -> Vec<(Vec<String>, clap::Command)> {
    let mut leaves = Vec::new();
    for command in cli::definition().get_subcommands() {
        let name = command.get_name().to_owned();
        let deeper: Vec<_> = command.get_subcommands().cloned().collect();
        if deeper.is_empty() {
            leaves.push((vec![name.clone()], command.clone()));
        }
        for leaf in deeper {
            leaves.push((vec![name.clone(), leaf.get_name().to_owned()], leaf));
        }
    }
    assert!(leaves.len() > 25, "{}", leaves.len());
    leaves
}

fn cases() -> impl Iterator<Item = &'static Case> {
    CASES.iter().chain(cluster_commands::CASES)
}

fn case_of(path: &[String]) -> Option<&'static Case> {
    cases().find(|(_, args, _)| args.len() >= path.len() && path.iter().eq(&args[..path.len()]))
}

/// The only command that does not end by itself. tests/it/watch.rs compares its output with golden files.
const ENDLESS: &str = "watch";

/// Commands without golden files. The output of `version` depends on the build, and that of `completion`
/// depends on every other command. `install` and `agent` copy their own program, so tests/it/install.rs and
/// tests/it/agent.rs test them.
const UNRECORDED: [&str; 4] = ["version", "completion", "install", "agent"];

#[test]
fn formats_and_the_program_itself() {
    let fixed = fixed();
    let call = |args: &[&str]| call(&fixed, args, PLAIN);
    let stdout = |args: &[&str]| {
        let said = call(args);
        assert!(exits(&said, 0), "{args:?}: {said}");
        said.split("--- standard error").next().unwrap().to_owned()
    };
    let edge: Vec<Value> =
        serde_json::from_str(&stdout(&["ls", "--network", "edge", "-o", "json"])).unwrap();
    let yaml = stdout(&["ls", "--network", "edge", "-o", "yaml"]);
    assert_eq!(serde_norway::from_str::<Vec<Value>>(&yaml).unwrap(), edge);
    let pools: Vec<Value> = serde_norway::from_str(&stdout(&["pools", "-o", "yaml"])).unwrap();
    assert_eq!(pools.len(), 4);
    let sorted = ["ls", "--network", "edge", "--sort", "container", "--limit", "2", "-o", "name"];
    assert_eq!(stdout(&sorted), "10.78.0.3\n10.78.0.5\n");
    for (column, field) in [
        ("network", &["network"][..]),
        ("pod", &["podNamespace", "podName"]),
        ("container", &["containerID"]),
        ("node", &["node"]),
    ] {
        let rows = stdout(&["ls", "--sort", column, "-o", "json"]);
        let rows: Vec<Value> = serde_json::from_str(&rows).unwrap();
        let key = |row: &Value| -> Vec<_> {
            field.iter().map(|f| (row[f].is_null(), row[f].as_str().map(str::to_owned))).collect()
        };
        assert!(rows.len() > 10 && rows.iter().map(key).is_sorted(), "{column}");
    }
    let by_address = stdout(&["ls", "--sort", "address", "-o", "name"]);
    let by_address: Vec<IpAddr> = by_address.lines().map(|line| line.parse().unwrap()).collect();
    assert!(by_address.is_sorted() && by_address[0].is_ipv4(), "{by_address:?}");
    let by_age = stdout(&["ls", "--sort", "age", "-o", "json"]);
    let by_age: Vec<Value> = serde_json::from_str(&by_age).unwrap();
    assert!(by_age.is_sorted_by(|a, b| a["time"].as_str() >= b["time"].as_str()));
    for (filter, count) in [
        (&["--pod", "default/web-3"][..], 2),
        (&["--pod", "web-3", "--prefix", "10.0.0.0/8"], 1),
        (&["--namespace", "other"], 0),
        (&["--kind", "reserved"], 10),
        (&["--node", "node-1", "--network", "ecs"], 2),
        (&["--node", "node-2"], 0),
        (&["--limit", "3"], 3),
    ] {
        let rows = stdout(&[&["ls", "-o", "json"][..], filter].concat());
        assert_eq!(serde_json::from_str::<Vec<Value>>(&rows).unwrap().len(), count, "{filter:?}");
    }
    assert!(stdout(&["ls", "-o", "wide"]).contains("NODE"));
    // A reservation does not count as a lease.
    assert!(exits(&call(&["release", "10.77.0.150", "--yes"]), 1));
    assert!(call(&["release", "vip", "10.78.0.3", "--yes"]).contains("container dns"));
    assert!(call(&["doctor", "-o", "name"]).contains("-o name"));
    let then = |at: &str| stdout(&["history", "edge", "--at", at, "--json"]);
    assert_eq!(serde_json::from_str::<Vec<Value>>(&then("2026-01-31")).unwrap(), [] as [Value; 0]);
    assert_eq!(serde_json::from_str::<Vec<Value>>(&then("2026-02-01")).unwrap().len(), 2);
    assert!(said(&fixed, &["help", "list"], PLAIN).contains("--namespace"));
    assert!(stdout(&["version"]).starts_with(concat!(
        "sublet ",
        env!("CARGO_PKG_VERSION"),
        " (commit "
    )));
    for shell in ["bash", "zsh", "fish"] {
        assert!(stdout(&["completion", shell]).contains("unreserve"), "{shell}");
    }
}

/// Every command must have a case. Every case must belong to a command, and every golden file to a case.
#[test]
fn are_all_shown() {
    let known = leaves().into_iter().map(|(path, _)| path);
    let has_output = |path: &[String]| {
        let is_of = |args: &[&str]| path.iter().eq(args.iter().take(path.len()));
        cases().any(|(_, args, ends)| is_of(args) && !matches!(ends, Fails(_)))
    };
    let missing: Vec<_> = known
        .filter(|p| p[0] != ENDLESS && !UNRECORDED.contains(&&*p[0]) && !has_output(p))
        .collect();
    assert!(missing.is_empty(), "no golden output of {missing:?}");
    let mut expected: BTreeSet<String> =
        ["plain", "json"].map(|form| format!("{ENDLESS}.{form}")).into();
    for (name, _, ends) in cases().chain(&DRAINING) {
        if !matches!(ends, Fails(_)) {
            expected.insert(format!("{name}.plain"));
        }
        if *ends == Json {
            expected.insert(format!("{name}.json"));
        }
    }
    expected.extend(COLORED.map(|name| format!("{name}.color")));
    let files = fs::read_dir(testdata().join("cli")).unwrap();
    let files = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(files.collect::<BTreeSet<String>>(), expected);
}

fn exits(said: &str, code: u8) -> bool {
    said.ends_with(&format!("--- exit {code}\n"))
}

/// Every command must print JSON with `--json`, and must use the store that `--store` names. Invalid usage
/// and a failure must have different exit codes.
#[test]
fn take_the_same_options_and_end_alike() {
    let lab = Lab::new();
    let mut of_networks = Vec::new();
    for (path, leaf) in leaves() {
        let name = path.join(" ");
        let with = |more: &[&str]| {
            let args: Vec<&str> = path.iter().map(String::as_str).collect();
            said(&lab, &[&args, more].concat(), PLAIN)
        };
        let help = with(&["--help"]);
        assert!(exits(&help, 0), "{name}: {help}");
        for option in ["--json", "--output", "--store", "--node-name", "--color", "--help"] {
            assert!(
                help.contains(&format!("{option} ")) || help.contains(&format!("{option}\n")),
                "{name} without {option}: {help}"
            );
        }
        let wrong = with(&["--no-such-option"]);
        assert!(exits(&wrong, 2) && wrong.starts_with("--- standard error\n"), "{name}: {wrong}");
        if leaf.get_arguments().any(clap::Arg::is_required_set) {
            let less = with(&[]);
            assert!(exits(&less, 2) && less.starts_with("--- standard error\n"), "{name}: {less}");
        }
        if leaf.get_arguments().any(|a| a.get_long() == Some("network")) {
            of_networks.push(name);
        }
    }
    // Only these commands print rows of several networks. The output of every other command is about a single
    // network or about the whole store.
    let expected = [
        "list",
        "show",
        "explain",
        "release",
        "gc",
        "pools",
        "top",
        "watch",
        "history",
        "stats",
        "import host-local",
        "import cni-cache",
        "export host-local",
    ];
    assert_eq!(of_networks, expected);
    assert!(exits(&said(&lab, &["--version"], PLAIN), 0));
}

/// Every command must fail if the store is invalid or cannot be reached. A command that works only with lease
/// files must reject a cluster as invalid usage. A command that works only with clusters must reject a lease
/// file in the same way.
#[test]
fn fail_alike() {
    const OF_A_FILE: &[&str] =
        &["import ecs-ipam", "import host-local", "import gipam", "export host-local", "uninstall"];
    const OF_A_CLUSTER: &[&str] =
        &["node release", "network show", "network set", "import kontena"];
    let cluster = r#"{"etcd": {"endpoints": ["http://127.0.0.1:1"], "timeout": "1s"}}"#;
    for (path, _) in leaves() {
        let name = path.join(" ");
        let own: &[&str] = case_of(&path).map_or(&[ENDLESS], |(_, args, _)| args);
        for (store, not_for) in [("@/foreign", OF_A_CLUSTER), (cluster, OF_A_FILE)] {
            let lab = fixed();
            fs::write(lab.join("foreign"), "the quick brown fox").unwrap();
            cluster_commands::write_files(&lab);
            // If a case's arguments name a store, name the invalid or unreachable store instead.
            let stores = ["@/leases.redb", "ETCD", "CONSUL", "EMPTY"];
            let own = own.iter().map(|arg| if stores.contains(arg) { store } else { arg });
            let mut args: Vec<&str> = own.collect();
            match args.iter().position(|arg| *arg == "--store") {
                Some(at) => args[at + 1] = store,
                None if name == "copy" => {}
                None => args.extend(["--store", store]),
            }
            let expected = if not_for.contains(&&*name) { 2 } else { 1 };
            for more in [&[][..], &["--json"]] {
                let said = said(&lab, &[&args, more].concat(), PLAIN);
                assert!(exits(&said, expected), "{name} {args:?}: {said}");
                let told = said.split("--- standard error\n").nth(1).unwrap();
                assert!(told.starts_with("sublet: "), "{name} {args:?}: {said}");
            }
        }
    }
}
