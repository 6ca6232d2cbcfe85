//! Tests store paths that do not lead to a readable store. The result must be a single JSON error that says
//! what to do. sublet must not panic, overwrite a file, or return a wrong address.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::lab::{Call, Dice, Lab, addresses, conf};

/// The magic number of the bolt format, at offset 16 of the file.
const BOLT_MAGIC: u32 = 0xED0C_DAED;

fn add(lab: &Lab, container: &str) -> Call {
    Call::cni("ADD", container, &conf(&lab.data_dir(), "10.4.0.0/24"))
}

/// Makes a lab in which the file at the store's path has this content.
fn with_file(bytes: &[u8]) -> Lab {
    let lab = Lab::new();
    fs::create_dir(lab.join("data")).unwrap();
    fs::write(lab.store(), bytes).unwrap();
    lab
}

/// Makes a lab with a store that has three leases.
fn with_leases() -> Lab {
    let lab = Lab::new();
    for container in ["a", "b", "c"] {
        add(&lab, container).run().ok();
    }
    lab
}

/// Returns the path of the lab's lease file: the boot file if it exists, otherwise the durable file.
fn file(lab: &Lab) -> PathBuf {
    Some(lab.boot_file()).filter(|file| file.exists()).unwrap_or_else(|| lab.store())
}

/// Checks that ADD, CHECK, DEL, GC and list all refuse the file at the store's path, and leave it unchanged.
fn refused(lab: &Lab, expected: i64) -> String {
    let before = fs::read(file(lab)).ok();
    let add = add(lab, "new");
    let (code, msg) = add.run().error();
    assert_eq!(code, expected, "{msg}");
    for command in ["CHECK", "DEL"] {
        let (code, msg) = add.clone().env("CNI_COMMAND", command).run().error();
        assert_eq!(code, expected, "{command}: {msg}");
    }
    let mut conf = conf(&lab.data_dir(), "10.4.0.0/24");
    conf["cniVersion"] = json!("1.1.0");
    conf["cni.dev/valid-attachments"] = json!([]);
    let (code, msg) = Call::cni("GC", "", &conf).run().error();
    assert_eq!(code, expected, "GC: {msg}");
    conf["cniVersion"] = json!("1.1.0");
    Call::cni("STATUS", "", &conf).run().error();
    let list = Call::sublet()
        .arg("list")
        .arg("--json")
        .arg("--store")
        .arg(&lab.store().display().to_string())
        .run();
    assert_ne!(list.code, Some(0), "{list:?}");
    assert!(!list.stderr.contains("panicked"), "{list:?}");
    assert_eq!(fs::read(file(lab)).ok(), before, "the file was changed");
    msg
}

#[test]
fn zero_length_file() {
    refused(&with_file(b""), 104);
}

#[test]
fn foreign_files() {
    let mut dice = Dice(7);
    let noise: Vec<u8> = (0..8192).map(|_| dice.next().to_le_bytes()[0]).collect();
    let zeros = vec![0; 1 << 20];
    for bytes in [&b"{\"leases\": []}\n"[..], b"x", &noise, &zeros] {
        refused(&with_file(bytes), 104);
    }
}

#[test]
fn bolt_file_names_the_import() {
    let mut page = vec![0_u8; 4096];
    page[16..20].copy_from_slice(&BOLT_MAGIC.to_le_bytes());
    let lab = with_file(&page.repeat(4));
    refused(&lab, 104);
    let ecs = json!({"ipam": {"type": "ecs-ipam", "id": "1", "ipv4-subnet": "10.4.0.0/24"}});
    let answer =
        Call::cni("ADD", "a", &ecs).env("IPAM_DB_PATH", &lab.store().display().to_string()).run();
    let (code, msg) = answer.error();
    assert_eq!(code, 104, "{msg}");
    assert!(msg.contains("sublet import ecs-ipam"), "{msg}");
    assert_eq!(fs::read(lab.store()).unwrap(), page.repeat(4));
}

#[test]
fn directory_at_the_path() {
    let lab = Lab::new();
    fs::create_dir_all(lab.store()).unwrap();
    fs::write(lab.store().join("mine"), "keep").unwrap();
    let (code, msg) = add(&lab, "new").run().error();
    assert!(matches!(code, 11 | 104), "{code} {msg}");
    assert_eq!(fs::read(lab.store().join("mine")).unwrap(), b"keep");
}

#[test]
fn pipe_at_the_path() {
    let lab = Lab::new();
    fs::create_dir(lab.join("data")).unwrap();
    let made = Command::new("mkfifo").arg(lab.store()).status().unwrap();
    assert!(made.success());
    let (code, msg) = add(&lab, "new").run().error();
    assert!(matches!(code, 11 | 104), "{code} {msg}");
}

#[test]
fn data_dir_is_a_file() {
    let lab = Lab::new();
    fs::write(lab.join("data"), "keep").unwrap();
    let (code, msg) = add(&lab, "new").run().error();
    assert!(matches!(code, 11 | 104), "{code} {msg}");
    assert_eq!(fs::read(lab.join("data")).unwrap(), b"keep");
}

#[test]
fn truncated_store() {
    let whole = fs::read(file(&with_leases())).unwrap();
    let mut dice = Dice(11);
    let mut lengths = vec![1, 319, 4096, whole.len() / 2, whole.len() - 1];
    lengths.extend((0..10).map(|_| usize::try_from(dice.below(whole.len() as u64)).unwrap()));
    for length in lengths {
        let lab = with_leases();
        File::options().write(true).open(file(&lab)).unwrap().set_len(length as u64).unwrap();
        let msg = refused(&lab, 104);
        assert!(msg.contains("sublet doctor"), "{length} bytes: {msg}");
    }
}

/// Changes one byte of a used page. Every call must then return a correct result or an error. An owner must
/// get its own lease, and no other container may get the same address.
#[test]
fn changed_bytes() {
    let lab = with_leases();
    let held: BTreeSet<String> =
        ["a", "b", "c"].iter().flat_map(|c| addresses(&add(&lab, c).run().ok())).collect();
    let whole = fs::read(file(&lab)).unwrap();
    let used: Vec<usize> = (0..whole.len()).filter(|&at| whole[at] != 0).collect();
    let mut dice = Dice(13);
    let mut refusals = 0;
    for _ in 0..400 {
        let at = *dice.pick(&used);
        let mut bytes = whole.clone();
        bytes[at] ^= u8::try_from(1 + dice.below(255)).unwrap();
        fs::write(file(&lab), &bytes).unwrap();
        let again = add(&lab, "b").run();
        if again.code == Some(0) {
            assert_eq!(addresses(&again.ok()), ["10.4.0.3"], "byte {at}");
        } else {
            let (code, msg) = again.error();
            assert!(matches!(code, 11 | 104), "byte {at}: {code} {msg}");
            assert_eq!(fs::read(file(&lab)).unwrap(), bytes, "byte {at}: changed");
            refusals += 1;
        }
        fs::write(file(&lab), &bytes).unwrap();
        let other = add(&lab, "new").run();
        if other.code == Some(0) {
            let got = addresses(&other.ok());
            assert!(!held.contains(&got[0]), "byte {at}: {got:?} has a holder");
        } else {
            let (code, msg) = other.error();
            assert!(matches!(code, 11 | 104), "byte {at}: {code} {msg}");
        }
    }
    assert!(refusals > 0, "no byte that was changed mattered");
}

#[test]
fn held_lock_is_waited_for_within_its_bound() {
    let lab = with_leases();
    let lock = lab.join("data/leases.redb.boot.lock");
    let file = File::options().read(true).write(true).open(&lock).unwrap();
    file.lock().unwrap();
    let pid = std::process::id().to_string();
    for command in ["ADD", "DEL", "CHECK"] {
        let mut conf = conf(&lab.data_dir(), "10.4.0.0/24");
        conf["ipam"]["lockTimeout"] = json!("300ms");
        let begin = Instant::now();
        let (code, msg) = Call::cni(command, "a", &conf).run().error();
        let took = begin.elapsed();
        assert_eq!(code, 11, "{command}: {msg}");
        assert!(msg.contains(&pid), "{command}: not the pid {pid}: {msg}");
        assert!(took >= Duration::from_millis(300), "{command}: gave up early");
        assert!(took < Duration::from_secs(4), "{command}: waited for {took:?}");
    }
    drop(file);
    add(&lab, "d").run().ok();
}

#[test]
fn negative_lock_timeout_tries_once() {
    let lab = with_leases();
    let lock = lab.join("data/leases.redb.boot.lock");
    let file = File::options().read(true).write(true).open(lock).unwrap();
    file.lock().unwrap();
    let mut conf = conf(&lab.data_dir(), "10.4.0.0/24");
    conf["ipam"]["lockTimeout"] = json!("-1s");
    let (code, msg) = Call::cni("ADD", "d", &conf).run().error();
    assert_eq!(code, 11, "{msg}");
}

/// Returns the call with a limit on the size of each file that it writes, in blocks of 512 bytes.
fn limited(call: Call, blocks: u32) -> Call {
    call.under("sh", &["-c", &format!("ulimit -f {blocks}; exec \"$0\" \"$@\"")])
}

#[test]
fn a_limit_on_file_size_is_an_error_and_no_signal() {
    let empty = Lab::new();
    let leases = with_leases();
    for (lab, before) in [(&empty, 0), (&leases, 3)] {
        for blocks in [0, 1, 8, 64] {
            let (code, msg) = limited(add(lab, "new"), blocks).run().error();
            assert_eq!(code, 11, "{blocks} blocks: {msg}");
            assert!(msg.contains("File too large"), "{blocks} blocks: {msg}");
            let found = if file(lab).exists() { lab.list().len() } else { 0 };
            assert_eq!(found, before, "{blocks} blocks: leases");
        }
        add(lab, "new").run().ok();
    }
    let store = leases.store().display().to_string();
    let reserve = Call::sublet().args(&["reserve", "mynet", "10.4.0.99", "--store", &store]);
    let answer = limited(reserve, 0).run();
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert!(answer.stderr.contains("File too large"), "{answer:?}");
}

/// Returns the call with its standard output redirected by a shell. For example, `>&-` closes standard
/// output.
fn redirected(call: Call, how: &str) -> Call {
    call.under("sh", &["-c", &format!("exec \"$0\" \"$@\" {how}")])
}

#[test]
fn an_answer_that_cannot_be_delivered_is_no_lease() {
    let lab = Lab::new();
    for how in [">&-", "1<>/dev/null", ">&- 2>&-"] {
        let answer = redirected(add(&lab, "lost"), how).run();
        assert_eq!(answer.code, Some(1), "{how}: {answer:?}");
        if !how.contains("2>") {
            for part in ["standard output is closed", "the lease of this call was freed"] {
                assert!(answer.stderr.contains(part), "{how}: {answer:?}");
            }
        }
        assert!(lab.list().is_empty(), "{how}");
    }
    redirected(add(&lab, "discarded"), ">/dev/null").run().silent();
    assert_eq!(lab.list().len(), 1);
    // An earlier ADD's lease must stay if the result of a repeated ADD cannot be written.
    assert_eq!(redirected(add(&lab, "discarded"), ">&-").run().code, Some(1));
    assert_eq!(lab.list().len(), 1);
    // A DEL prints no result, so it must succeed even if standard output is closed.
    redirected(add(&lab, "discarded").env("CNI_COMMAND", "DEL"), ">&-").run().silent();
    assert!(lab.list().is_empty());
}

#[test]
fn files_that_are_created_are_the_owners_alone() {
    let open = |call: Call| call.under("sh", &["-c", "umask 0; exec \"$0\" \"$@\""]);
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    let lab = Lab::new();
    let (log, lines) = (lab.join("log"), lab.join("lines"));
    let mut conf = conf(&lab.data_dir(), "10.4.0.0/24");
    conf["ipam"]["logFile"] = json!(log);
    open(Call::cni("ADD", "a", &conf)).run().ok();
    assert_eq!(mode(&log), 0o600);

    let store = lab.store().display().to_string();
    // sublet must not use a file that a killed process has left behind.
    fs::write(lab.join("lines.new"), "half").unwrap();
    fs::set_permissions(lab.join("lines.new"), Permissions::from_mode(0o666)).unwrap();
    let text = |path: &Path| path.display().to_string();
    let export = Call::sublet().args(&["export", "jsonl", &text(&lines), "--store", &store]);
    let answer = open(export).run();
    assert!(answer.succeeded(), "{answer:?}");
    assert_eq!(mode(&lines), 0o600);

    let networks = lab.join("networks");
    let export =
        Call::sublet().args(&["export", "host-local", &text(&networks), "--store", &store]);
    let answer = open(export).run();
    assert!(answer.succeeded(), "{answer:?}");
    assert_eq!(mode(&networks.join("mynet")), 0o755);
    for name in ["10.4.0.2", "last_reserved_ip.0"] {
        assert_eq!(mode(&networks.join("mynet").join(name)), 0o600, "{name}");
    }
}
