//! Runs the examples in sublet's own README, and the examples in the READMEs of the programs that sublet
//! replaces. Each of these programs has a script in testdata/readme/. The script gets a folder and the path
//! of sublet, runs the examples, and writes the results to files.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::lab::{Answer, Call, Lab, SUBLET, addresses};

fn play(script: &str, lab: &Lab) -> Answer {
    let script: PathBuf = [env!("CARGO_MANIFEST_DIR"), "testdata/readme", script].iter().collect();
    Call::new("bash")
        .arg(script.to_str().unwrap())
        .arg(SUBLET)
        .arg(lab.path().to_str().unwrap())
        .run()
}

fn text(lab: &Lab, name: &str) -> String {
    fs::read_to_string(lab.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn its_figures_are_those_of_the_benchmark() {
    let read =
        |name: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    let (readme, bench) = (read("README.md"), read("docs/bench.md"));
    let lines: Vec<&str> =
        bench.lines().skip_while(|l| *l != "## In three lines").skip(2).take(3).collect();
    assert!(lines.len() == 3 && lines.iter().all(|l| l.starts_with("- ")), "{lines:?}");
    for line in lines {
        assert!(readme.contains(line), "not in the README: {line}");
    }
}

#[test]
fn ecs_ipam() {
    let lab = Lab::new();
    let answer = play("ecs-ipam.sh", &lab);
    assert_eq!(answer.code, Some(0), "{answer:?}");
    let result: Value = serde_json::from_str(&text(&lab, "add.json")).unwrap();
    let shown = result.to_string();
    for part in [
        "\"10.0.0.2/24\"",
        "\"gateway\":\"10.0.0.1\"",
        "{\"dst\":\"169.254.170.2/32\"",
        "\"dst\":\"169.254.170.0/20\",\"gw\":\"10.0.0.1\"",
    ] {
        assert!(shown.contains(part), "no {part} in {shown}");
    }
    let rows: Value = serde_json::from_str(&text(&lab, "list-after-add.json")).unwrap();
    let lease = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["id"] == "12345")
        .unwrap_or_else(|| panic!("no lease of the id: {rows}"));
    assert_eq!(lease["network"], "ecs");
    assert_eq!(lease["address"], "10.0.0.2");
    assert_eq!(text(&lab, "del.json"), "");
    let rows: Value = serde_json::from_str(&text(&lab, "list-after-del.json")).unwrap();
    let left = rows.as_array().unwrap();
    assert!(left.iter().all(|row| row["kind"] == "gateway"), "{rows}");
    // The ECS agent asks for these capabilities before it uses the awsvpc mode.
    assert!(text(&lab, "capabilities.json").contains("awsvpc-network-mode"));
    let version: Value = serde_json::from_str(&text(&lab, "version.json")).unwrap();
    assert!(version["version"].is_string(), "{version}");
}

/// If Consul does not respond, each configuration in the README of cni-ipam-consul must cause a clear error,
/// and nothing may be leased in another store. scripts/e2e-consul.sh runs these configurations with a real
/// Consul.
#[test]
fn cni_ipam_consul() {
    let standard = Path::new("/var/lib/cni/sublet/leases.redb");
    let before = fs::read(standard).ok();
    let lab = Lab::new();
    let answer = play("consul.sh", &lab);
    assert_eq!(answer.code, Some(0), "{answer:?}");
    for conf in ["default", "ipv6", "ipv4"] {
        let status = text(&lab, &format!("{conf}.status"));
        assert_ne!(status.trim(), "0", "{conf}");
        let error: Value = serde_json::from_str(&text(&lab, &format!("{conf}.json"))).unwrap();
        assert!(error["code"].as_i64().is_some_and(|c| c > 0), "{error}");
        let msg = error["msg"].as_str().unwrap().to_lowercase();
        assert!(msg.contains("consul"), "{conf}: {msg}");
    }
    assert_eq!(fs::read_dir(lab.join("store")).unwrap().count(), 0);
    assert_eq!(fs::read(standard).ok(), before, "the local store was used");
}

fn ours() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    fs::read_to_string(path).unwrap()
}

/// Returns the first cell of each row in the table under this heading of sublet's README.
fn first_cells(heading: &str) -> Vec<String> {
    let text = ours();
    let part = text.split(&format!("\n## {heading}\n")).nth(1).expect("the heading");
    let part = part.split("\n## ").next().unwrap();
    let rows = part.lines().filter_map(|l| l.strip_prefix("| "));
    rows.skip(1).filter_map(|l| l.split(" |").next()).map(str::to_owned).collect()
}

/// The configuration under the heading "Configure" must work exactly as the README prints it, and must have
/// ten lines.
#[test]
fn our_configuration() {
    let text = ours();
    let part = text.split("\n## Configure\n").nth(1).unwrap();
    let block: Vec<&str> = part
        .lines()
        .skip_while(|l| !l.starts_with("    "))
        .take_while(|l| l.starts_with("    "))
        .collect();
    assert_eq!(block.len(), 10, "{block:?}");
    let lab = Lab::new();
    let call = |command: &str| {
        Call::plugin(lab.path(), command).env("CNI_CONTAINERID", "web").stdin(&block.join("\n"))
    };
    let result = call("ADD").run().ok();
    assert_eq!(addresses(&result), ["10.1.2.2", "2001:db8:1::2"]);
    assert_eq!(result["routes"], serde_json::json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]));
    call("CHECK").run().silent();
    call("DEL").run().silent();
}

/// The README's table of error codes must match the source code.
#[test]
fn our_error_codes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cni/error.rs");
    let source = fs::read_to_string(path).unwrap();
    let codes: Vec<&str> = source
        .lines()
        .filter_map(|l| l.strip_prefix("pub const ")?.split(": u32 = ").nth(1)?.strip_suffix(';'))
        .collect();
    assert_eq!(first_cells("Error codes"), codes);
}

/// The program must support every configuration key that the README mentions.
#[test]
fn our_keys() {
    let cells = first_cells("Configure");
    let keys: Vec<&str> =
        cells.iter().flat_map(|c| c.split(", ")).map(|k| k.trim_matches('`')).collect();
    assert!(keys.len() > 15, "{keys:?}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/keys.rs");
    let source = fs::read_to_string(path).unwrap();
    for key in keys {
        assert!(source.contains(&format!("\"{key}\"")), "README.md names an unknown key, {key}");
    }
}

/// Every flag of subletd in docs/docker.md must have a help text, and the page must list all flags.
#[test]
fn our_docker_flags() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/docker.md");
    let part = fs::read_to_string(path).unwrap();
    let help = |args: &[&str]| {
        let output = crate::docker::subletd(args).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let explained = help(&["--help"]) + &help(&["cleanup", "--help"]);
    let table: String = part.lines().filter(|l| l.starts_with("| `--")).collect();
    for word in table.split(['`', ' ', '|', ',']).filter(|w| w.starts_with("--")) {
        assert!(
            explained.contains(word),
            "docs/docker.md names {word}, which subletd does not have"
        );
    }
    let flags = explained
        .split_whitespace()
        .map(|w| w.trim_end_matches(','))
        .filter(|w| w.starts_with("--") && !matches!(*w, "--help" | "--version" | "--ipam-driver"));
    for flag in flags {
        assert!(part.contains(flag), "docs/docker.md does not name {flag}");
    }
}

/// The README or docs/operating.md must mention every command, and the README must mention no unknown
/// command.
#[test]
fn all_commands_are_told_of() {
    let page =
        |name: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    let told =
        ours() + &page("docs/operating.md") + &page("docs/moving.md") + &page("docs/clusters.md");
    let known: Vec<String> = sublet::cli::definition()
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .collect();
    for name in &known {
        assert!(told.contains(&format!("sublet {name}")), "nothing tells of sublet {name}");
    }
    for line in ours().lines().filter_map(|l| l.strip_prefix("    sublet ")) {
        let name = line.split_whitespace().next().unwrap();
        assert!(known.iter().any(|k| k == name), "README.md: sublet {name} is no command");
    }
}

/// The program must have each command and each option that the README mentions.
#[test]
fn our_commands() {
    let text = ours();
    let help = |command: &str| Call::sublet().arg(command).arg("--help").run();
    for (command, options) in [
        ("list", &["--network", "--json", "--store"][..]),
        ("show", &["--store"]),
        ("release", &["--yes", "--network", "--store"]),
        ("import", &["gipam", "--store"]),
        ("node", &["list", "release", "--node-name", "--store"]),
        ("network", &["show", "set", "--store"]),
    ] {
        assert!(text.contains(&format!("sublet {command}")), "README.md lacks {command}");
        let help = help(command);
        help.check(help.succeeded(), "--help");
        for option in options {
            help.check(help.stdout.contains(option), format!("{option} is not explained"));
        }
    }
}
