//! Every command of `sublet` on one fixed store: what it says plainly, in colour and as JSON.
//!
//! `testdata/cli/<case>.<plain|colour|json>` holds standard output, standard error and the exit code;
//! ESC is written as `^[`, the test's folder as `@`. `UPDATE_GOLDEN=1` writes them anew; read each
//! difference before you commit it.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sublet::cli::screen::Screen;
use sublet::cli::{self, Terminal};
use sublet::cni::{self, World};
use sublet::error::StoreError;
use sublet::host::Facts;
use sublet::model::{BootId, Face, Node, StoreSpec};
use sublet::store::Store;

use crate::lab::{Lab, testdata};

fn open(spec: &StoreSpec, _: Option<&[u8]>) -> Result<Box<dyn Store>, StoreError> {
    sublet::store::open(spec)
}

const NOW: u64 = 1_769_900_000;

fn facts(now: u64) -> Facts {
    Facts {
        now,
        boot: Some(BootId("3f0c2d7e-0000-4000-8000-000000000001".to_owned())),
        node: Node {
            name: "node-1".to_owned(),
            machine: "00112233445566778899aabbccddeeff".to_owned(),
        },
        seed: 1,
        inode: |_| None,
        face: Face::Cni,
    }
}

/// One call of the plugin, at a time of its own.
fn plugin(lab: &Lab, now: u64, command: &str, conf: &Value, more: &[(&str, &str)]) {
    let store = lab.join("leases.redb").display().to_string();
    let env = |name: &str| -> Option<OsString> {
        let own = more.iter().find(|(n, _)| *n == name).map(|(_, value)| *value);
        let usual = match name {
            "CNI_COMMAND" => Some(command),
            "CNI_NETNS" => Some("/var/run/netns/gone"),
            "CNI_IFNAME" => Some("eth0"),
            "CNI_PATH" => Some("/opt/cni/bin"),
            "IPAM_DB_PATH" => Some(&*store),
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
        facts: &|| facts(now),
        open,
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

/// A store as a node has it: pods on two families, a small network that is nearly full, ECS tasks with
/// their gateway, some that went, some that are reserved.
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
}

const PLAIN: Screen = Screen { width: 80, height: Some(24), ..Screen::PLAIN };
const COLOUR: Screen = Screen { colour: true, alert: true, unicode: true, ..PLAIN };

/// `stats` with 0.0, in a table `#`, for the times that it took; in a table they stand last.
fn without_times(text: &str) -> String {
    let line = |line: &str| {
        let json = line.find("\"untilCommitSeconds\": ").map(|at| at + 22);
        let table = line.rsplit_once("  ").filter(|(_, last)| last.parse::<f64>().is_ok());
        match (json, table) {
            (Some(at), _) => format!("{}0.0\n", &line[..at]),
            (None, Some((_, last))) if last.contains('.') => {
                let at = line.len() - last.len();
                format!("{}{:>2$}\n", &line[..at], "#", last.len())
            }
            _ => format!("{line}\n"),
        }
    };
    text.lines().map(line).collect()
}

/// What a command says and how it ends.
fn call(lab: &Lab, args: &[&str], screen: Screen) -> String {
    let store = lab.join("leases.redb");
    let folder = lab.path().display().to_string();
    let mut all: Vec<OsString> = vec!["sublet".into()];
    all.extend(args.iter().map(|arg| arg.replace('@', &folder).into()));
    if !args.is_empty() {
        all.extend(["--store".into(), store.into_os_string()]);
    }
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut terminal = Terminal { stdout: &mut stdout, stderr: &mut stderr, screen };
    let facts = facts(NOW + 3600);
    let world = cli::World { env: &|_| None, facts: &facts, open };
    let code = cli::run(all, world, &mut terminal);
    let text = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).unwrap().replace('\u{1b}', "^[");
        text.replace(&folder, "@").replace(env!("CARGO_MANIFEST_DIR"), "SUBLET")
    };
    let mut said = text(stdout);
    if args.first() == Some(&"stats") {
        said = without_times(&said);
    }
    format!("{said}--- standard error\n{}--- exit {code}\n", text(stderr))
}

fn golden(name: &str, said: &str) -> Option<String> {
    let path = testdata().join("cli").join(name);
    #[allow(clippy::disallowed_methods, reason = "a test reads its own switch")]
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, said).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    (written != said).then(|| format!("== {name}\n-- written\n{written}\n-- said\n{said}"))
}

/// A folder of its own with the fixed store, for a command that changes it.
fn copy(from: &Path) -> Lab {
    let lab = Lab::new();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, lab.join(path.file_name().unwrap().to_str().unwrap())).unwrap();
        }
    }
    lab
}

/// Name, arguments, and whether there is a form in JSON.
const CASES: &[(&str, &[&str], bool)] = &[
    ("list", &["list"], true),
    ("list-of-a-network", &["list", "--network", "edge"], true),
    ("list-of-nothing", &["list", "--network", "none"], true),
    ("show-address", &["show", "10.77.0.2"], true),
    ("show-container", &["show", "vip"], true),
    ("show-pod", &["show", "default/web-3"], true),
    ("show-network", &["show", "pods"], true),
    ("show-nothing", &["show", "10.9.9.9"], true),
    ("pools", &["pools"], true),
    ("pools-of-a-network", &["pools", "--network", "edge"], true),
    ("map-network", &["map", "pods"], true),
    ("map-rows", &["map", "pods", "--order", "rows"], false),
    ("map-small", &["map", "edge"], true),
    ("map-of-a-slash-8", &["map", "10.0.0.0/8"], false),
    ("map-zoomed", &["map", "pods", "--zoom", "10.77.0.128/26"], false),
    ("map-of-no-network", &["map", "none"], false),
    ("map-of-no-prefix", &["map", "pods", "--zoom", "10.0.0.0/40"], false),
    ("check", &["check", "SUBLET/testdata/check/own/wrong.conflist"], true),
    ("check-overlap", &["check", "SUBLET/testdata/check/own/overlap.conf"], true),
    ("check-of-no-file", &["check", "@/none"], true),
    ("history-of-an-address", &["history", "10.77.0.6"], true),
    ("history-of-a-container", &["history", "vip"], true),
    ("history-since", &["history", "10.77.0.6", "--since", "3500s"], true),
    ("history-of-nobody", &["history", "10.9.9.9"], true),
    ("stats", &["stats"], true),
    ("doctor", &["doctor"], true),
    ("reserve", &["reserve", "pods", "10.77.0.100"], true),
    ("reserve-what-is-held", &["reserve", "pods", "10.77.0.2"], true),
    ("unreserve", &["unreserve", "pods", "10.77.0.150", "--yes"], true),
    ("release", &["release", "10.77.0.2", "--yes"], true),
    ("release-unasked", &["release", "10.77.0.2"], true),
    ("gc", &["gc", "--dry-run", "--network", "edge"], true),
    ("export-host-local", &["export", "host-local", "@/out", "--dry-run"], true),
    ("import-host-local", &["import", "host-local", "@/none", "--dry-run"], true),
    ("import-ecs-ipam", &["import", "ecs-ipam", "@/none", "--dry-run"], true),
    ("import-gipam", &["import", "gipam", "@/none"], true),
    ("no-command", &[], false),
    ("unknown-command", &["lits"], false),
    ("unknown-option", &["list", "--jsn"], false),
];

#[test]
fn say_what_they_said() {
    let fixed = Lab::new();
    fill(&fixed);
    let mut faults = Vec::new();
    for (name, args, json) in CASES {
        let args: Vec<String> =
            args.iter().map(|a| a.replace("SUBLET", env!("CARGO_MANIFEST_DIR"))).collect();
        let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut forms = vec![("plain", PLAIN), ("colour", COLOUR)];
        if *json {
            forms.push(("json", PLAIN));
        }
        for (form, screen) in forms {
            if form == "json" {
                args.push("--json");
            }
            let lab = copy(fixed.path());
            let said = call(&lab, &args, screen);
            if form == "plain" {
                assert!(!said.contains("^["), "{name}: {said}");
            }
            if form == "json" && said.ends_with("exit 0\n") {
                let stdout = said.split("--- standard error").next().unwrap();
                let parsed: Result<Value, _> = serde_json::from_str(stdout);
                assert!(parsed.is_ok(), "{name}: {said}");
            }
            // Tables and pictures fit the screen.
            let fits = ["list", "pools", "map", "stats", "history", "show-network"];
            if form == "plain" && fits.iter().any(|f| name.starts_with(f)) {
                let stdout = said.split("--- standard error").next().unwrap();
                let long = stdout.lines().find(|l| l.len() > 80 && !l.starts_with("drawn is"));
                assert_eq!(long, None, "{name}");
            }
            faults.extend(golden(&format!("{name}.{form}"), &said));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Each command has a case, each case a command.
#[test]
fn are_all_shown() {
    let known: Vec<String> =
        cli::definition().get_subcommands().map(|c| c.get_name().to_owned()).collect();
    let shown = |name: &str| {
        // One does not end by itself (tests/it/terminal.rs); others need a cluster, or two stores, and
        // have tests of their own.
        matches!(name, "watch" | "node" | "network" | "copy")
            || CASES.iter().any(|(_, args, _)| args.first() == Some(&name))
    };
    let missing: Vec<&String> = known.iter().filter(|name| !shown(name)).collect();
    assert!(missing.is_empty(), "no golden output of {missing:?}");
    for entry in fs::read_dir(testdata().join("cli")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let case = file.rsplit_once('.').unwrap().0;
        assert!(CASES.iter().any(|(name, ..)| *name == case), "testdata/cli/{file} is of no case");
    }
}

/// Every command can be told to answer in JSON.
#[test]
fn speak_json() {
    let mut lack = Vec::new();
    for command in cli::definition().get_subcommands() {
        let deeper: Vec<_> = command.get_subcommands().collect();
        for leaf in if deeper.is_empty() { vec![command] } else { deeper } {
            // JSON is all that one has to say.
            let own = leaf.get_name() == "jsonl" && command.get_name() == "export";
            if !own && !leaf.get_arguments().any(|a| a.get_long() == Some("json")) {
                lack.push(format!("{} {}", command.get_name(), leaf.get_name()));
            }
        }
    }
    assert!(lack.is_empty(), "without --json: {lack:?}");
}
