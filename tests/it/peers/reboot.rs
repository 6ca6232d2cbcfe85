//! Tests sublet across reboots. To simulate a reboot, a file with another boot ID is mounted over the
//! kernel's file.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::lab::{Lab, SUBLET};

/// Runs sublet in a mount namespace in which the test's files or folders are mounted over the system's.
pub fn over(mounts: &[(&Path, &str)], env: &[(&str, &str)], args: &[&str], stdin: &str) -> Output {
    let mut script = String::new();
    for (ours, theirs) in mounts {
        write!(script, "mount --bind {} {theirs} && ", ours.display()).unwrap();
    }
    // Also create a user namespace, so that the test does not need root.
    let mut child = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg(script + "exec \"$0\" \"$@\"")
        .arg(SUBLET)
        .args(args)
        .env_remove("CNI_COMMAND")
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("unshare, of util-linux");
    // A process that fails early may not read its input.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

/// The kernel's file with the boot ID. The tests mount another file over it.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Runs sublet in the simulated boot with the number `boot`. Returns the exit code and the standard output.
pub fn in_boot(
    lab: &Lab,
    boot: u8,
    env: &[(&str, &str)],
    args: &str,
    stdin: &str,
) -> (i32, String) {
    let id = lab.join(&format!("boot-{boot}"));
    fs::write(&id, format!("{boot:08}-0000-4000-8000-000000000000\n")).unwrap();
    let args: Vec<&str> = args.split_whitespace().collect();
    let output = over(&[(&id, BOOT_ID)], env, &args, stdin);
    (output.status.code().unwrap_or(-1), String::from_utf8(output.stdout).unwrap())
}

pub fn cni(lab: &Lab, boot: u8, command: &str, container: &str, conf: &Value) -> (i32, String) {
    let env = [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", container),
        ("CNI_NETNS", "/var/run/netns/none"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin"),
    ];
    in_boot(lab, boot, &env, "", &conf.to_string())
}

pub fn address(answer: &(i32, String)) -> String {
    assert_eq!(answer.0, 0, "{}", answer.1);
    let result: Value = serde_json::from_str(&answer.1).unwrap();
    result["ips"][0]["address"].as_str().unwrap().to_owned()
}

fn listed(lab: &Lab, boot: u8) -> usize {
    let args = format!("list --json --store {}", lab.store().display());
    let answer = in_boot(lab, boot, &[], &args, "");
    let rows: Value = serde_json::from_str(&answer.1).unwrap();
    rows.as_array().unwrap().len()
}

pub fn conf(lab: &Lab, cni_version: &str, persist: &str) -> Value {
    json!({
        "cniVersion": cni_version, "name": "mynet", "type": "bridge",
        "ipam": {"type": "sublet", "subnet": "10.1.2.0/29", "dataDir": lab.data_dir(),
                 "persist": persist}
    })
}

#[test]
fn a_full_range_is_empty_after_a_reboot() {
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let lab = Lab::new();
        let conf = conf(&lab, version, "boot");
        for n in 2..7 {
            let got = address(&cni(&lab, 1, "ADD", &format!("c{n}"), &conf));
            assert_eq!(got, format!("10.1.2.{n}/29"));
        }
        let (code, answer) = cni(&lab, 1, "ADD", "one-more", &conf);
        assert!(code == 1 && answer.contains("\"code\": 100"), "{answer}");
        assert_eq!((listed(&lab, 1), listed(&lab, 2)), (5, 0));
        // A DEL must succeed even if its lease has already ended with the boot.
        assert_eq!(cni(&lab, 2, "DEL", "c2", &conf), (0, String::new()));
        assert_eq!(address(&cni(&lab, 2, "ADD", "new", &conf)), "10.1.2.2/29");
        assert_eq!(cni(&lab, 2, "DEL", "c3", &conf), (0, String::new()));
        assert_eq!(listed(&lab, 2), 1);
        assert!(lab.join("data/leases.redb.boot-00000001-0000-4000-8000-000000000000").exists());
    }
}

#[test]
fn leases_on_disk_are_there_after_a_reboot() {
    let lab = Lab::new();
    let conf = conf(&lab, "1.0.0", "disk");
    assert_eq!(address(&cni(&lab, 1, "ADD", "a", &conf)), "10.1.2.2/29");
    assert_eq!(address(&cni(&lab, 2, "ADD", "b", &conf)), "10.1.2.3/29");
    assert_eq!(address(&cni(&lab, 2, "ADD", "a", &conf)), "10.1.2.2/29");
    assert_eq!(listed(&lab, 3), 2);
}
