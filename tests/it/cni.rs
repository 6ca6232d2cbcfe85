//! Runs the golden folders in `testdata/cni`. Each folder contains a sequence of plugin calls. The sequence
//! is run once for each version of the CNI specification. `testdata/README.md` describes the format.

use std::fs::{self, File};
use std::path::Path;

use serde_json::{Value, json};

use crate::lab::{Answer, Call, testdata};

const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The keys that a case and a step may have. The test rejects other keys, because an expectation under a
/// misspelled key would never be checked.
const CASE: &[&str] = &["about", "versions", "config", "steps"];
const STEP: &[&str] = &[
    "note", "cmd", "versions", "env", "merge", "stdin", "files", "remove", "lock", "stdout",
    "expect",
];
const EXPECT: &[&str] = &[
    "ok",
    "ips",
    "gateways",
    "routes",
    "dns",
    "json",
    "code",
    "msg",
    "msgPrefix",
    "msgContains",
    "details",
    "stdout",
    "stderr",
    "stderrLacks",
    "leases",
    "absent",
];

#[test]
fn goldens() {
    let mut folders: Vec<_> = fs::read_dir(testdata().join("cni"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    let mut failed = Vec::new();
    for folder in &folders {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let text = fs::read_to_string(folder.join("case.json")).unwrap();
        let case: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        known(name, &case, CASE);
        for version in VERSIONS {
            if applies(&case["versions"], version)
                && std::panic::catch_unwind(|| play(name, &case, version)).is_err()
            {
                failed.push(format!("{name} in {version}"));
                // Skip the other versions, because they would probably fail in the same way.
                break;
            }
        }
    }
    assert!(folders.len() > 60, "only {} cases", folders.len());
    assert!(failed.is_empty(), "failed:\n{}", failed.join("\n"));
}

fn known(place: &str, object: &Value, keys: &[&str]) {
    for key in object.as_object().unwrap().keys() {
        assert!(keys.contains(&key.as_str()), "{place}: unknown key {key}");
    }
}

/// Returns whether a step or case applies to this version. `versions` is absent, a list, or a text such as
/// `>=1.0.0` or `<0.3.0`.
fn applies(versions: &Value, version: &str) -> bool {
    match versions {
        Value::Null => true,
        Value::Array(list) => list.iter().any(|v| v == version),
        Value::String(text) => match text.strip_prefix(">=") {
            // Every part of a version number has a single digit, so version numbers can be compared as text.
            Some(least) => version >= least,
            None => version < text.strip_prefix('<').expect("\">=\" or \"<\""),
        },
        _ => panic!("versions: {versions}"),
    }
}

fn play(name: &str, case: &Value, version: &str) {
    let dir = tempfile::tempdir().unwrap();
    for (index, step) in case["steps"].as_array().unwrap().iter().enumerate() {
        known(name, step, STEP);
        if !applies(&step["versions"], version) {
            continue;
        }
        let place = format!("{name}, step {} in {version}", index + 1);
        let here = |text: &str| {
            text.replace('@', dir.path().to_str().unwrap()).replace("$VERSION", version)
        };
        let (step, config) = (placed(step, &here), placed(&case["config"], &here));
        one(&place, &step, &config, version, dir.path());
    }
}

/// Replaces all placeholders in a JSON value. `here` replaces them in one string.
fn placed(value: &Value, here: &dyn Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => Value::String(here(text)),
        Value::Array(items) => items.iter().map(|item| placed(item, here)).collect(),
        Value::Object(map) => {
            map.iter().map(|(key, item)| (here(key), placed(item, here))).collect()
        }
        _ => value.clone(),
    }
}

fn one(place: &str, step: &Value, config: &Value, version: &str, dir: &Path) {
    prepare(step, dir);
    let lock = step["lock"].as_str().map(|path| {
        let file = File::create(path).unwrap();
        file.lock().unwrap();
        file
    });
    let stdin = match &step["stdin"] {
        Value::Null => {
            let mut config = config.clone();
            config["cniVersion"] = version.into();
            merge(&mut config, &step["merge"]);
            config.to_string()
        }
        Value::String(text) => text.clone(),
        object => object.to_string(),
    };
    let mut call = Call::plugin(dir, step["cmd"].as_str().unwrap_or_default())
        .envs(&step["env"])
        .stdin(&stdin);
    if let Some(path) = step["stdout"].as_str() {
        call = call.stdout(path);
    }
    let ran = call.run();
    drop(lock);
    check(place, step, version, dir, &ran);
}

fn prepare(step: &Value, dir: &Path) {
    for (path, content) in step["files"].as_object().into_iter().flatten() {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content.as_str().unwrap()).unwrap();
    }
    for path in step["remove"].as_array().into_iter().flatten() {
        fs::remove_file(dir.join(path.as_str().unwrap())).unwrap();
    }
}

/// Applies a JSON merge patch (RFC 7396).
fn merge(target: &mut Value, patch: &Value) {
    match patch {
        Value::Null => {}
        Value::Object(changes) => {
            if !target.is_object() {
                *target = json!({});
            }
            let target = target.as_object_mut().unwrap();
            for (key, change) in changes {
                if change.is_null() {
                    target.remove(key);
                } else if change.is_object() {
                    merge(target.entry(key).or_insert(Value::Null), change);
                } else {
                    target.insert(key.clone(), change.clone());
                }
            }
        }
        other => *target = other.clone(),
    }
}

fn check(place: &str, step: &Value, version: &str, dir: &Path, ran: &Answer) {
    let expect = &step["expect"];
    known(place, expect, EXPECT);
    let fails =
        ["code", "msg", "msgPrefix", "msgContains"].iter().any(|key| !expect[key].is_null());
    let ok = expect["ok"].as_bool().unwrap_or(!fails);
    ran.check(ran.succeeded() == ok, format!("{place}: expected ok = {ok}"));
    if let Some(text) = expect["stdout"].as_str() {
        ran.check(ran.stdout == text, format!("{place}: stdout is not {text:?}"));
    } else if ok && step["cmd"] != "ADD" {
        ran.check(ran.stdout.is_empty(), format!("{place}: stdout is not empty"));
    } else if ok {
        answer(place, expect, version, ran);
    } else if step["stdout"].is_null() {
        error(place, expect, ran);
    }
    if let Some(text) = expect["stderr"].as_str() {
        let told = ran.stderr.contains(text);
        ran.check(told, format!("{place}: stderr does not tell {text:?}"));
    }
    if let Some(text) = expect["stderrLacks"].as_str() {
        let told = ran.stderr.contains(text);
        ran.check(!told, format!("{place}: stderr tells {text:?}"));
    }
    for path in expect["absent"].as_array().into_iter().flatten() {
        let there = dir.join(path.as_str().unwrap()).exists();
        ran.check(!there, format!("{place}: {path} is there"));
    }
    if let Some(expected) = expect["leases"].as_array() {
        held(place, step, expected, dir, ran);
    }
}

fn answer(place: &str, expect: &Value, version: &str, ran: &Answer) {
    let same = |what: &str, found: Value| {
        let expected = &expect[what];
        ran.check(
            expected.is_null() || *expected == found,
            format!("{place}: {what}: expected {expected}, found {found}"),
        );
    };
    same("ips", ran.ips().into());
    same("gateways", ran.gateways().into());
    same("routes", ran.routes().into());
    let answer = ran.json();
    let dns = &answer["dns"];
    same("dns", if dns.is_null() { json!({}) } else { dns.clone() });
    let shape = match version {
        "0.1.0" | "0.2.0" => "nested",
        "0.3.0" | "0.3.1" | "0.4.0" => "tagged",
        _ => "plain",
    };
    let expected = &expect["json"][shape];
    ran.check(expected.is_null() || *expected == answer, format!("{place}: expected {expected:#}"));
    // sublet creates no interfaces. If its result contained one, a plugin that delegates to sublet would not
    // know this interface.
    ran.check(answer["interfaces"].is_null(), "interfaces in the answer");
}

fn error(place: &str, expect: &Value, ran: &Answer) {
    let (code, msg) = ran.error();
    let expected = &expect["code"];
    ran.check(
        expected.is_null() || *expected == code,
        format!("{place}: expected code {expected}"),
    );
    let whole = expect["msg"].as_str().is_none_or(|text| msg == text);
    let begins = expect["msgPrefix"].as_str().is_none_or(|text| msg.starts_with(text));
    let contains = expect["msgContains"].as_str().is_none_or(|text| msg.contains(text));
    ran.check(whole && begins && contains, format!("{place}: another msg was expected: {expect}"));
    let details = ran.json()["details"].clone();
    let found = match &expect["details"] {
        Value::Null => return,
        Value::String(_) => details,
        _ => serde_json::from_str(details.as_str().unwrap_or_default()).unwrap_or(Value::Null),
    };
    let expected = &expect["details"];
    ran.check(found == *expected, format!("{place}: expected details {expected}"));
}

/// Checks that each expected lease exists with the expected fields, and that there are no other leases.
fn held(place: &str, step: &Value, expected: &[Value], dir: &Path, ran: &Answer) {
    let default = dir.join("leases.redb");
    let store = step["env"]["IPAM_DB_PATH"].as_str().unwrap_or(default.to_str().unwrap());
    let list = Call::plugin(dir, "").envs(&json!({"CNI_COMMAND": null})).env("IPAM_DB_PATH", store);
    let mut found = list.arg("list").arg("--json").run().rows();
    let told = json!(found);
    for lease in expected {
        let expected = lease.as_object().unwrap();
        let position =
            found.iter().position(|lease| expected.iter().all(|(key, value)| lease[key] == *value));
        match position {
            Some(position) => drop(found.remove(position)),
            None => ran.fail(format!("{place}: no lease {lease} among {told:#}")),
        }
    }
    let left = json!(found);
    ran.check(found.is_empty(), format!("{place}: more leases: {left:#}"));
}
