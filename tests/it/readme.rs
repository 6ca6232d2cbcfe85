//! The examples of the programs that sublet replaces, as their READMEs print them. Each is a script
//! in testdata/readme/ that gets a folder and sublet, and leaves what was answered in files.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::lab::{Answer, Call, Lab, SUBLET};

fn play(script: &str, lab: &Lab) -> Answer {
    let script: PathBuf = [env!("CARGO_MANIFEST_DIR"), "testdata/readme", script]
        .iter()
        .collect();
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
    // What the ECS agent asks before it uses awsvpc mode.
    assert!(text(&lab, "capabilities.json").contains("awsvpc-network-mode"));
    let version: Value = serde_json::from_str(&text(&lab, "version.json")).unwrap();
    assert!(version["version"].is_string(), "{version}");
}

/// Until its store is built each of the README's configurations gets a clear error, and nothing is
/// leased anywhere else.
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
