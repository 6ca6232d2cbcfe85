//! Replays `testdata/cni/ecs-ipam.json`. This file contains recorded calls of the real ecs-ipam with their
//! results, and the results that sublet must return. `testdata/README.md` describes the format.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::lab::{Answer, Call, SUBLET, testdata};

#[test]
fn recorded_calls_of_ecs_ipam() {
    let text = fs::read_to_string(testdata().join("cni/ecs-ipam.json")).unwrap();
    let cases: Value = serde_json::from_str(&text).unwrap();
    let mut failed = Vec::new();
    for (name, case) in cases.as_object().unwrap() {
        if std::panic::catch_unwind(|| play(name, case)).is_err() {
            failed.push(name.as_str());
        }
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
}

/// The plugin must print these texts, because the ECS agent starts only if it finds them.
#[test]
fn the_ecs_agents_questions() {
    let dir = tempfile::tempdir().unwrap();
    let ecs = dir.path().join("ecs-ipam");
    symlink(SUBLET, &ecs).unwrap();
    let ask = |program: &Path, arg| {
        let output = Command::new(program).arg(arg).env_clear().output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(
        ask(&ecs, "--capabilities"),
        (Some(0), "{\"capabilities\":[\"awsvpc-network-mode\"]}\n".to_owned())
    );
    let (code, text) = ask(&ecs, "--version");
    let version: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, Some(0));
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version["dirty"], false);
    assert!(version["gitShortHash"].is_string());
    // Called as `sublet` instead of `ecs-ipam`, the program must treat these arguments as options of its
    // command line.
    let own = ask(Path::new(SUBLET), "--capabilities");
    assert_ne!(own.0, Some(0));
}

fn play(name: &str, case: &Value) {
    let fresh = case["fresh"] == true;
    let mut dir = tempfile::tempdir().unwrap();
    for (index, step) in case["steps"].as_array().unwrap().iter().enumerate() {
        if fresh {
            dir = tempfile::tempdir().unwrap();
        }
        one(&format!("{name}, step {}", index + 1), step, dir.path());
    }
}

fn one(place: &str, step: &Value, dir: &Path) {
    let here = |text: &str| text.replace('@', dir.to_str().unwrap());
    let mut env = serde_json::json!({
        "CNI_CONTAINERID": "ctr1",
        "IPAM_DB_PATH": "@/ipam.db",
    });
    for (name, value) in step["env"].as_object().unwrap() {
        env[name] = value.clone();
    }
    for value in env.as_object_mut().unwrap().values_mut() {
        if let Some(text) = value.as_str() {
            *value = here(text).into();
        }
    }
    let store = env["IPAM_DB_PATH"].as_str().unwrap().to_owned();
    if store.ends_with("garbage.db") {
        fs::write(&store, "this is not a bolt file").unwrap();
    }
    let lock = (step["note"] == "LOCK").then(|| {
        let file = File::create(format!("{store}.lock")).unwrap();
        file.lock().unwrap();
        file
    });
    let call = Call::plugin(dir, step["cmd"].as_str().unwrap())
        .envs(&env)
        .stdin(step["stdin"].as_str().unwrap());
    let ran = call.run();
    drop(lock);
    check(place, step, &ran);
}

fn check(place: &str, step: &Value, ran: &Answer) {
    let (expect, recorded) = (&step["expect"], &step["recorded"]);
    if let Some(ok) = expect["ok"].as_bool() {
        ran.check(ran.succeeded() == ok, format!("{place}: expected ok = {ok}"));
    }
    if !ran.succeeded() {
        ran.error();
        return;
    }
    if step["cmd"] != "ADD" {
        let silent = ran.stdout.is_empty() || step["cmd"] == "VERSION";
        ran.check(silent, format!("{place}: stdout is not empty"));
        return;
    }
    if let Some(ips) = expect["ips"].as_array() {
        let expected: Vec<&str> = ips.iter().filter_map(Value::as_str).collect();
        let found = ran.ips();
        ran.check(found == expected, format!("{place}: expected {expected:?}"));
    }
    if expect["ok"] == true && step["why"].is_null() && recorded["ok"] == true {
        for (what, found) in [
            ("gateways", serde_json::json!(ran.gateways())),
            ("routes", serde_json::json!(ran.routes())),
        ] {
            let expected = &recorded[what];
            ran.check(
                expected.is_null() || *expected == found,
                format!("{place}: {what}: expected {expected}, found {found}"),
            );
        }
    }
}
