//! Checks that `sublet check` and an ADD agree about every configuration in testdata and in the documentation
//! of container runtimes. Also tests hostile files.
//!
//! testdata/check/podman contains unchanged examples from Debian's podman 4.3 package. `containerd` contains
//! the configuration that containerd's `script/setup/install-cni` writes, and `nerdctl` the one in nerdctl's
//! `docs/cni.md`. These two are not copies: they were written anew with the same keys and values.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::config::configuration;
use crate::lab::{Answer, Call, Lab, testdata};

fn check(file: &Path) -> Answer {
    // Use an empty store, so that leases on this machine do not affect the test.
    let lab = Lab::new();
    let store = lab.store().display().to_string();
    let call = Call::sublet().arg("check").arg("--json").arg("--store").arg(&store);
    let answer = call.arg(&file.display().to_string()).run();
    assert!(!lab.store().exists(), "a check makes no store");
    answer
}

/// Runs `sublet check` for a configuration. Returns the exit code and the JSON report.
fn of(conf: &str) -> (Option<i32>, Value) {
    let lab = Lab::new();
    let file = lab.join("c.conf");
    fs::write(&file, conf).unwrap();
    let answer = check(&file);
    (answer.code, answer.json())
}

fn errors(report: &Value) -> Vec<String> {
    let findings = report["files"][0]["findings"].as_array().unwrap();
    let errors = findings.iter().filter(|f| f["level"] == "error");
    errors.map(|f| f["message"].as_str().unwrap().to_owned()).collect()
}

fn folders(under: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(testdata().join(under)).unwrap().map(|e| e.unwrap().path()).collect();
    found.retain(|path| path.is_dir());
    found.sort();
    found
}

/// Compares `sublet check` with an ADD for each configuration in testdata/config. If the ADD refuses the
/// configuration, `sublet check` must report an error with the same text. If the ADD accepts it, `sublet
/// check` must report no error. There are two exceptions: a key that is probably misspelled is an error only
/// in `sublet check`, and problems that depend on the environment are ignored.
#[test]
fn configurations() {
    let (mut good, mut bad) = (0, 0);
    for dialect in folders("config") {
        for (kind, right) in [("ok", true), ("bad", false)] {
            for case in
                folders(&format!("config/{}/{kind}", dialect.file_name().unwrap().display()))
            {
                let told = fs::read_to_string(case.join("out.txt")).unwrap();
                let conf = configuration(&case);
                let env = case.join("env").exists();
                let lab = Lab::new();
                fs::write(lab.join("c.conf"), conf).unwrap();
                let answer = check(&lab.join("c.conf"));
                let report = answer.json();
                let errors = errors(&report);
                let clean = answer.code == Some(0);
                assert_eq!(clean, errors.is_empty(), "{}: {report}", case.display());
                let slip = told.contains("did you mean");
                if right && !slip && !env && !clean && !only_here(&errors) {
                    answer.fail(format!("{}: an ADD takes it", case.display()));
                }
                if !right && !env && clean && !only_there(&told) {
                    answer.fail(format!("{}: an ADD refuses it: {told}", case.display()));
                }
                good += usize::from(right);
                bad += usize::from(!right);
                // Each finding in the report must have a line number.
                for finding in report["files"][0]["findings"].as_array().unwrap() {
                    assert!(finding["line"].as_u64() > Some(0), "{}: {finding}", case.display());
                    assert!(finding["column"].as_u64() > Some(0), "{}: {finding}", case.display());
                }
            }
        }
    }
    assert!(good > 50 && bad > 80, "{good} good, {bad} bad");
}

/// Returns whether all of these are errors that `sublet check` reports but an ADD does not.
fn only_here(errors: &[String]) -> bool {
    let words = ["use one of 0.1.0", "invalid UTF-8", "sublet allocates addresses"];
    errors.iter().all(|e| words.iter().any(|word| e.contains(word)))
}

/// Returns whether the plugin reports this error but `sublet check` cannot, because the error depends on the
/// environment or occurs only in a GC or a CHECK.
fn only_there(told: &str) -> bool {
    let words = ["ARGS:", "cni.dev/", "prevResult", "attachment", "IPAM_DB", "missing 'ipam' key"];
    words.iter().any(|word| told.contains(word))
}

/// Compares `sublet check` with the expected result of each ADD in testdata/cni, except for ADDs with
/// environment variables.
#[test]
fn stories() {
    let mut seen = 0;
    for case in folders("cni") {
        let story: Value =
            serde_json::from_slice(&fs::read(case.join("case.json")).unwrap()).unwrap();
        for step in story["steps"].as_array().unwrap() {
            let asked = step["env"].as_object().is_some_and(|env| !env.is_empty());
            if step["cmd"] != "ADD" || asked || !step["stdin"].is_null() {
                continue;
            }
            let mut conf = story["config"].clone();
            merge(&mut conf, &step["merge"]);
            let old = [&story["versions"], &step["versions"]].iter().any(|v| **v == "<0.3.0");
            conf["cniVersion"] = json!(if old { "0.2.0" } else { "1.0.0" });
            let (code, report) = of(&conf.to_string());
            let refused = matches!(step["expect"]["code"].as_i64(), Some(6 | 7));
            let slip = errors(&report).iter().any(|e| e.contains("did you mean"));
            // `sublet check` cannot read a `resolvConf` file in the case's folder, and cannot check a
            // configuration that has no `ipam` object.
            let elsewhere = conf["ipam"]["resolvConf"].is_string() || !conf["ipam"].is_object();
            let here =
                conf.to_string().contains("prevResult") || only_there(&step["expect"].to_string());
            if !slip && !elsewhere && !here {
                let want = Some(i32::from(refused));
                assert_eq!(code, want, "{}: {report:#} {conf}", case.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 30, "{seen} stories");
}

/// Applies a JSON merge patch (RFC 7396).
fn merge(into: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else { return };
    for (key, value) in patch {
        match value {
            Value::Null => {
                into.as_object_mut().unwrap().remove(key);
            }
            Value::Object(_) if into[key].is_object() => merge(&mut into[key], value),
            _ => into[key] = value.clone(),
        }
    }
}

#[test]
fn documentation_of_runtimes() {
    for (runtime, networks) in [("containerd", 1), ("podman", 2), ("nerdctl", 2)] {
        let folder = testdata().join("check").join(runtime);
        let answer = check(&folder);
        let report = answer.ok();
        assert_eq!((&report["errors"], &report["overlaps"]), (&json!(0), &json!([])), "{report:#}");
        let plugins = |file: &Value| file["plugins"].as_array().unwrap().clone();
        let all: Vec<Value> =
            report["files"].as_array().unwrap().iter().flat_map(plugins).collect();
        let ours = all.iter().filter(|p| p["ours"] == true && !p["ranges"][0].is_null()).count();
        assert!(ours >= networks, "{runtime}: {report:#}");
    }
}

#[test]
fn demonstration() {
    for name in ["containerd.json", "ecs.json", "podman.json"] {
        check(&testdata().join("demo").join(name)).ok();
    }
}

#[test]
fn a_folder_is_of_its_files() {
    let answer = check(&testdata().join("check/own"));
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert_eq!(answer.json()["files"].as_array().unwrap().len(), 2);
    let lab = Lab::new();
    let answer = check(lab.path());
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert!(answer.stderr.contains("no *.conf, *.conflist or *.json file in"), "{answer:?}");
}

#[test]
fn networks_of_one_folder_may_overlap() {
    let lab = Lab::new();
    let conf = |name: &str, subnet: &str, more: Value| {
        let mut conf = json!({"name": name, "type": "bridge", "cniVersion": "1.0.0",
            "ipam": {"type": "sublet", "subnet": subnet}});
        for (key, value) in more.as_object().unwrap() {
            conf["ipam"][key] = value.clone();
        }
        fs::write(lab.join(&format!("{name}.conf")), conf.to_string()).unwrap();
    };
    conf("a", "10.1.0.0/16", json!({}));
    conf("b", "10.1.2.0/24", json!({}));
    conf("c", "10.2.0.0/16", json!({"shared": "s"}));
    conf("d", "10.2.2.0/24", json!({"shared": "s"}));
    let report = check(lab.path()).ok();
    let overlaps = report["overlaps"].as_array().unwrap();
    assert_eq!(overlaps.len(), 1, "{report:#}");
    assert_eq!((&overlaps[0]["network"], &overlaps[0]["with"]), (&json!("b"), &json!("a")));
}

#[test]
fn what_is_leased_is_compared() {
    let lab = Lab::new();
    let old = json!({"cniVersion": "1.0.0", "name": "old", "type": "bridge",
        "ipam": {"type": "sublet", "subnet": "10.5.0.0/24", "dataDir": lab.data_dir()}});
    Call::cni("ADD", "c", &old).run().ok();
    let mut new = old.clone();
    new["name"] = json!("new");
    new["ipam"]["subnet"] = json!("10.5.0.0/16");
    for (conf, overlaps) in [(&new, 1), (&old, 0)] {
        fs::write(lab.join("c.conf"), conf.to_string()).unwrap();
        // Without --store, the configuration names the store.
        let file = lab.join("c.conf").display().to_string();
        let report = Call::sublet().arg("check").arg("--json").arg(&file).run().ok();
        assert_eq!(report["overlaps"].as_array().unwrap().len(), overlaps, "{report:#}");
    }
}

/// `sublet check` must report that a range in a store lies inside a range of the checked file, even if the
/// store also has larger ranges.
#[test]
fn small_ranges_are_compared_beside_large_ones() {
    let lab = Lab::new();
    let conf = |name: &str, subnet: &str| {
        json!({"cniVersion": "1.0.0", "name": name, "type": "bridge",
            "ipam": {"type": "sublet", "subnet": subnet, "dataDir": lab.data_dir()}})
    };
    for (name, subnet) in [("a", "10.0.0.0/8"), ("b", "10.0.0.0/9"), ("d", "10.1.2.0/24")] {
        Call::cni("ADD", name, &conf(name, subnet)).run().ok();
    }
    fs::write(lab.join("c.conf"), conf("c", "10.1.0.0/16").to_string()).unwrap();
    let file = lab.join("c.conf").display().to_string();
    let report = Call::sublet().arg("check").arg("--json").arg(&file).run().ok();
    let pairs: Vec<[&str; 2]> = report["overlaps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| ["network", "with"].map(|key| row[key].as_str().unwrap()))
        .collect();
    assert!(pairs.contains(&["d", "c"]), "{report:#}");
}

/// One run must report all errors in a file, with the correct texts.
#[test]
fn all_errors_of_a_file() {
    let conf = json!({"cniVersion": "9", "name": "-", "type": "bridge", "ipam": {
        "type": "sublet", "persist": "never", "cooldown": "soon", "exclude": ["10.70.9", "10.70.8"],
        "routes": [{"dst": "0.0.0.0/0", "gw": "x"}, {"gw": "10.70.1.1"}],
        "ranges": [
            [{"subnet": "10.70.1.0/24", "rangeStart": "10.70.1.200", "rangeEnd": "10.70.1.20"}],
            [{"subnet": "10.70.2.0/24", "rangeStart": "10.71.2.1", "rangeEnd": "10.72.2.9"}],
            [{"subnet": "10.70.3.7/24"}, {"subnet": "10.70.4.0/24", "gateway": "y"}]]}});
    let (code, report) = of(&conf.to_string());
    let errors = errors(&report);
    assert_eq!((code, errors.len()), (Some(1), 13), "{errors:#?}");
    let after = errors.iter().find(|e| e.contains("10.70.1.200")).unwrap();
    assert!(after.contains("after rangeEnd 10.70.1.20") && !after.contains("not in"), "{after}");
    for part in [
        "10.71.2.1",
        "10.72.2.9",
        "host bits",
        "10.70.9",
        "10.70.8",
        "never",
        "soon",
        ".dst",
        "address: y;",
        "address: x;",
    ] {
        assert!(errors.iter().any(|e| e.contains(part)), "{part}: {errors:#?}");
    }
}

/// `sublet check` must compare a network with the leases in its store. An option, the environment or the
/// configuration may name the store.
#[test]
fn what_does_not_fit_the_leases() {
    let lab = Lab::new();
    let other = Lab::new();
    let conf = |name: &str, ipam: Value| {
        let mut conf = json!({"cniVersion": "1.0.0", "name": name, "type": "bridge",
            "ipam": {"type": "sublet", "dataDir": lab.data_dir()}});
        merge(&mut conf["ipam"], &ipam);
        conf
    };
    let web = conf("web", json!({"subnet": "10.5.0.0/24"}));
    for container in ["c1", "c2"] {
        Call::cni("ADD", container, &web).run().ok();
    }
    let elsewhere = other.data_dir();
    let file = lab.join("c.conf").display().to_string();
    let store = lab.store().display().to_string();
    let checked = |ipam: &Value, name: &str, how: &str| {
        let mut conf = conf(name, ipam.clone());
        if how != "configuration" {
            conf["ipam"]["dataDir"] = json!(elsewhere);
        }
        fs::write(lab.join("c.conf"), conf.to_string()).unwrap();
        let call = Call::sublet().arg("check").arg("--json").arg(&file);
        let call = match how {
            "option" => call.arg("--store").arg(&store),
            "environment" => call.env("IPAM_DB_PATH", &store),
            _ => call,
        };
        let answer = call.run();
        (answer.code, answer.json())
    };
    for how in ["option", "environment", "configuration"] {
        let (code, report) = checked(&json!({"subnet": "10.5.0.0/16"}), "new", how);
        assert_eq!((code, report["overlaps"][0]["with"].as_str()), (Some(0), Some("web")), "{how}");
        let (code, report) = checked(&json!({"subnet": "10.6.0.0/24"}), "web", how);
        let conflict = &report["conflicts"][0];
        assert_eq!((code, &conflict["kind"]), (Some(0), &json!("movedAway")), "{how}: {report:#}");
        assert_eq!(
            (&conflict["leases"], &report["warnings"]),
            (&json!(2), &json!(1)),
            "{report:#}"
        );
        let held = json!({"subnet": "10.5.0.0/24", "gateway": "10.5.0.3"});
        let (code, report) = checked(&held, "web", how);
        let conflict = &report["conflicts"][0];
        assert_eq!(
            (code, &conflict["kind"]),
            (Some(1), &json!("gatewayHeld")),
            "{how}: {report:#}"
        );
        assert!(conflict["lease"].as_str().unwrap().contains("c2"), "{report:#}");
        let (code, report) = checked(&json!({"subnet": "10.5.0.0/23"}), "web", how);
        assert_eq!(
            (code, &report["conflicts"]),
            (Some(0), &json!([])),
            "{how}: a larger range fits"
        );
    }
    // After the next ADD, `doctor` must also report the conflict.
    let doctor = || {
        let call = Call::sublet().arg("doctor").arg("--json").arg("--store").arg(&store).run();
        call.json()["problems"].to_string()
    };
    assert!(!doctor().contains("outside"));
    Call::cni("ADD", "c3", &conf("web", json!({"subnet": "10.6.0.0/24"}))).run().ok();
    assert!(doctor().contains("network web") && doctor().contains("2 leases outside"));
}

/// If a folder contains something other than regular files, `sublet check` must report this as a separate
/// error, and must still check the regular files.
#[test]
fn a_folder_with_a_pipe() {
    let lab = Lab::new();
    let conf = json!({"name": "n", "type": "bridge", "cniVersion": "1.0.0",
        "ipam": {"type": "sublet", "subnet": "10.7.0.0/24"}});
    fs::write(lab.join("9.conf"), conf.to_string()).unwrap();
    fs::create_dir(lab.join("folder.conf")).unwrap();
    std::os::unix::fs::symlink("nowhere", lab.join("2.conf")).unwrap();
    assert!(Call::new("mkfifo").arg(lab.join("1.conf").to_str().unwrap()).run().succeeded());
    let answer = check(lab.path());
    let report = answer.json();
    assert_eq!((answer.code, &report["errors"]), (Some(1), &json!(2)), "{report:#}");
    assert_eq!(report["files"].as_array().unwrap().len(), 3, "{report:#}");
    assert_eq!(report["files"][2]["plugins"][0]["network"], "n", "{report:#}");
}

#[test]
fn hostile_files() {
    let lab = Lab::new();
    let refuse = |name: &str, content: &[u8], what: &str| {
        let file = lab.join(name);
        fs::write(&file, content).unwrap();
        let answer = check(&file);
        assert_eq!(answer.code, Some(1), "{name}: {answer:?}");
        assert!(answer.stdout.contains(what), "{name}: {answer:?}");
    };
    refuse("deep", "[".repeat(10 << 20).as_bytes(), "recursion limit");
    refuse("long", " ".repeat((16 << 20) + 1).as_bytes(), "larger than 16 MiB");
    refuse("bytes", b"{\"name\": \"\xff\xfe\", \"type\": \"b\", \"ipam\": {}}", "invalid UTF-8");
    refuse("empty", b"", "EOF while parsing");
    refuse("mark", b"\xef\xbb\xbf{}", "byte order mark");
    refuse("escape", b"{\"\\u001b[31m\": \"\\ud800\"}", "not valid JSON");
    // Checking ten megabytes of unknown keys must take at most a few seconds. It would take much longer if
    // every key were compared with every other key.
    let keys: Vec<String> = (0..600_000).map(|n| format!("\"subnet{n:06}\":1")).collect();
    let text = format!("{{\"name\":\"n\",\"ipam\":{{\"type\":\"sublet\",{}}}}}", keys.join(","));
    refuse("keys", text.as_bytes(), "no IP ranges specified");
    let plugin = r#"{"type":"b","ipam":{"type":"sublet","subnet":"10.0.0.0/24"}}"#;
    let plugins = vec![plugin; 50_000].join(",");
    let list = format!("{{\"cniVersion\":\"9\",\"name\":\"n\",\"plugins\":[{plugins}]}}");
    refuse("plugins", list.as_bytes(), "unknown cniVersion");
    let answer = check(&lab.join("absent"));
    assert!(answer.stderr.contains("No such file"), "{answer:?}");
    let pipe = lab.join("pipe.conf");
    let made = Call::new("mkfifo").arg(pipe.to_str().unwrap()).run();
    assert!(made.succeeded(), "{made:?}");
    let answer = check(&pipe);
    assert!(answer.stderr.contains("not a regular file"), "{answer:?}");
}

/// Control characters in a file must not reach the terminal, because the text of a file is not trusted.
#[test]
fn escapes_are_shown_as_such() {
    let lab = Lab::new();
    let file = lab.join("c.conf");
    fs::write(
        &file,
        "{\"name\": \"n\", \"type\": \"b\\u001b[31m\", \"ipam\": {\"type\": \"x\\u0007\"}}",
    )
    .unwrap();
    let answer = Call::sublet().arg("check").arg(file.to_str().unwrap()).run();
    assert!(!answer.stdout.contains(['\u{1b}', '\u{7}']), "{answer:?}");
    assert!(answer.stdout.contains("b\\u{1b}[31m"), "{answer:?}");
}
