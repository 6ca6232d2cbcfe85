//! Tests `sublet import ecs-ipam` with a bolt file that a real ecs-ipam wrote.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::lab::{Answer, Call, Lab, addresses, list, testdata};

/// Copies the recorded bolt file from testdata/import. `testdata/README.md` describes its content.
fn recorded(lab: &Lab) -> PathBuf {
    let file = lab.join("eni-ipam.db");
    fs::copy(testdata().join("import/eni-ipam.db"), &file).unwrap();
    file
}

fn import(file: &Path, more: &[&str]) -> Answer {
    let call = Call::sublet().arg("import").arg("ecs-ipam").arg(&file.display().to_string());
    more.iter().fold(call.arg("--json"), |call, arg| call.arg(arg)).run()
}

/// Calls the plugin in the ECS dialect, as the ECS agent does: with an `id` and without a container ID.
fn ecs(store: &Path, command: &str, id: &str) -> Call {
    let conf = json!({
        "cniVersion": "0.3.0",
        "name": "network-name",
        "ipam": {
            "type": "ecs-ipam", "id": id,
            "ipv4-subnet": "169.254.172.0/22", "ipv6-subnet": "fd00:ec2::/64"
        }
    });
    Call::cni(command, "", &conf).env("IPAM_DB_PATH", &store.display().to_string())
}

/// Returns the address and the `id` of each lease in the recorded file. The `id` of a gateway is empty.
fn expected() -> Vec<(String, String)> {
    let text = fs::read_to_string(testdata().join("import/eni-ipam.tsv")).unwrap();
    let mut rows: Vec<(String, String)> = text
        .lines()
        .filter(|line| !line.starts_with("last"))
        .map(|line| {
            let (key, id) = line.split_once('\t').unwrap();
            let addr = if key.contains(':') { &key[1..] } else { key };
            let id = if id.starts_with("GateWay") { "" } else { id };
            (addr.to_owned(), id.to_owned())
        })
        .collect();
    rows.sort();
    rows
}

fn found(store: &Path) -> Vec<(String, String)> {
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let mut rows: Vec<_> =
        list(store).iter().map(|row| (text(row, "address"), text(row, "id"))).collect();
    rows.sort();
    rows
}

/// Returns the number of entries in the list `key` of a report.
pub fn count(report: &Value, key: &str) -> usize {
    report[key].as_array().unwrap().len()
}

#[test]
fn ecs_ipams_file_is_converted_where_it_lies() {
    for persist in ["boot", "disk"] {
        let lab = Lab::new();
        let file = recorded(&lab);
        let before = fs::read(&file).unwrap();

        let told = import(&file, &["--dry-run", "--persist", persist]).ok();
        assert_eq!((count(&told, "taken"), told["dryRun"].as_bool()), (310, Some(true)));
        assert_eq!(fs::read(&file).unwrap(), before, "a dry run");
        assert_eq!(fs::read_dir(lab.path()).unwrap().count(), 1, "a dry run");

        let report = import(&file, &["--persist", persist]).ok();
        assert_eq!((count(&report, "taken"), count(&report, "skipped")), (310, 0));
        assert_eq!(report["last"], json!(["169.254.173.49", "fd00:ec2::3"]));
        assert_eq!(found(&file), expected());
        assert_eq!(fs::read(lab.join("eni-ipam.db.bolt")).unwrap(), before, "the original");
        let left: Vec<_> = fs::read_dir(lab.path()).unwrap().map(|e| e.unwrap()).collect();
        let left: Vec<_> = left.iter().map(|e| e.file_name().into_string().unwrap()).collect();
        assert!(!left.iter().any(|name| name.contains(".import")), "{left:?}");

        let again = import(&file, &["--persist", persist]).ok();
        assert_eq!((again["before"].as_bool(), count(&again, "taken")), (Some(true), 0));
        assert_eq!(found(&file), expected());
    }
}

#[test]
fn the_agent_goes_on_where_ecs_ipam_stopped() {
    let lab = Lab::new();
    let file = recorded(&lab);
    import(&file, &[]).ok();
    let got = addresses(&ecs(&file, "ADD", "next").run().ok());
    assert_eq!(got, ["169.254.173.50", "fd00:ec2::6"], "as the original would have");
    // An owner must get its address again, with the configured prefix length.
    let again = ecs(&file, "ADD", "0a:4b:c1:bb:4e:03").run();
    assert_eq!(again.ips(), ["169.254.172.4/22", "fd00:ec2::4/64"]);
    ecs(&file, "DEL", "0a:4b:c1:bb:4e:04").run().silent();
    ecs(&file, "DEL", "bulk-200").run().silent();
    assert!(!found(&file).iter().any(|(_, id)| id == "0a:4b:c1:bb:4e:04" || id == "bulk-200"));
    // It must be possible to free a lease without an `id` by its address.
    let mut conf = json!({
        "cniVersion": "0.3.0",
        "ipam": {"ipv4-subnet": "169.254.172.0/22", "ipv4-address": "169.254.173.78/22"}
    });
    let by_address =
        |conf: &Value| Call::cni("DEL", "", conf).env("IPAM_DB_PATH", &file.display().to_string());
    by_address(&conf).run().silent();
    assert!(!found(&file).iter().any(|(addr, _)| addr == "169.254.173.78"));
    // A DEL must not free the address of a gateway.
    conf["ipam"]["ipv4-address"] = json!("169.254.172.1/22");
    by_address(&conf).run();
    assert!(found(&file).iter().any(|(addr, _)| addr == "169.254.172.1"));
}

/// After an import, a DEL must move the rotation as ecs-ipam does: a freed address is leased again only after
/// all other free addresses.
#[test]
fn a_del_moves_the_rotation_as_ecs_ipam_does() {
    let lab = Lab::new();
    let file = recorded(&lab);
    import(&file, &[]).ok();
    let listed = found(&file);
    let (addr, id) = listed.iter().find(|(_, id)| id == "bulk-60").unwrap();
    ecs(&file, "DEL", id).run().silent();
    let got = addresses(&ecs(&file, "ADD", "next").run().ok());
    assert_ne!(got[0], *addr);
    assert!(!listed.iter().any(|(a, _)| *a == got[0]), "{got:?} is leased");
}

#[test]
fn ecs_ipams_leases_may_go_into_another_store() {
    let lab = Lab::new();
    let file = recorded(&lab);
    let before = fs::read(&file).unwrap();
    let store = lab.join("new/leases.redb");
    let into = ["--store", store.to_str().unwrap()];
    assert_eq!(count(&import(&file, &into).ok(), "taken"), 310);
    assert_eq!(fs::read(&file).unwrap(), before);
    assert_eq!(found(&store), expected());
    ecs(&store, "ADD", "next").run().ok();
    let again = import(&file, &into).ok();
    assert_eq!((count(&again, "taken"), count(&again, "present")), (0, 310));
    // Round robin must continue after the address that was leased last.
    let got = addresses(&ecs(&store, "ADD", "third").run().ok());
    assert_eq!(got[0], "169.254.173.51");
    // If another owner holds one of the addresses in the file, nothing may be imported.
    ecs(&store, "DEL", "bulk-200").run().silent();
    let taken = expected().iter().find(|(_, id)| id == "bulk-200").unwrap().0.clone();
    let conf = json!({
        "cniVersion": "0.3.0",
        "ipam": {
            "id": "thief", "ipv4-subnet": "169.254.172.0/22", "ipv4-address": format!("{taken}/22")
        }
    });
    Call::cni("ADD", "", &conf).env("IPAM_DB_PATH", into[1]).run().ok();
    let refused = import(&file, &into);
    refused.check(refused.code == Some(1), "a clash was expected");
    refused.check(refused.stderr.contains(&taken) && refused.stderr.contains("thief"), "who");
}

#[test]
fn what_is_in_the_way_of_a_conversion_is_left_alone() {
    let lab = Lab::new();
    let file = recorded(&lab);
    let before = fs::read(&file).unwrap();
    let refused = |about: &str| {
        let answer = import(&file, &[]);
        answer.check(answer.code == Some(1) && answer.stdout.is_empty(), about);
        assert_eq!(fs::read(&file).unwrap(), before);
        answer.stderr
    };
    fs::write(lab.join("eni-ipam.db.bolt"), "precious").unwrap();
    assert!(refused("a file of that name").contains("eni-ipam.db.bolt"));
    fs::remove_file(lab.join("eni-ipam.db.bolt")).unwrap();
    // The conversion must work even if a killed conversion has left a file behind.
    fs::write(lab.join("eni-ipam.db.new"), "half").unwrap();
    fs::hard_link(&file, lab.join("eni-ipam.db.bolt")).unwrap();
    import(&file, &[]).ok();
    assert_eq!(found(&file), expected());
    let inode = |name: &str| fs::metadata(lab.join(name)).unwrap().ino();
    assert_ne!(inode("eni-ipam.db"), inode("eni-ipam.db.bolt"));
}

/// If the bolt file is truncated, contains garbage or has another format, the import must create nothing. It
/// must fail with an error that names the file.
#[test]
fn damaged_bolt_files_are_refused() {
    let lab = Lab::new();
    let whole = fs::read(testdata().join("import/eni-ipam.db")).unwrap();
    let file = lab.join("x.db");
    let mut leaf = whole.clone();
    for page in 2..leaf.len() / 4096 {
        leaf[page * 4096 + 10] = 0xff;
        leaf[page * 4096 + 11] = 0xff;
    }
    for bytes in [&whole[..9000], &whole[..100], &leaf, b"", b"garbage"] {
        fs::write(&file, bytes).unwrap();
        let answer = import(&file, &[]);
        answer.check(answer.code == Some(1) && answer.stdout.is_empty(), "an error was expected");
        answer.check(answer.stderr.contains("x.db"), "the file is not named");
        assert_eq!(fs::read(&file).unwrap(), bytes);
        assert!(!lab.join("x.db.bolt").exists());
    }
    let missing = import(&lab.join("nope"), &[]);
    missing.check(missing.code == Some(1) && missing.stderr.contains("nope"), "a missing file");
    assert!(!lab.join("nope").exists() && !lab.join("nope.lock").exists());
}

/// If a conversion of a bolt file to a lease file is killed before its last step, the next conversion must
/// complete the work. With `persist: boot`, an ADD in between must fail. Otherwise, it could lease an address
/// from the new lease file next to the bolt file.
#[test]
fn a_killed_conversion_is_ended_by_the_next() {
    for persist in ["boot", "disk"] {
        let lab = Lab::new();
        let file = recorded(&lab);
        import(&file, &["--persist", persist]).ok();
        // Restore the state that a killed conversion leaves: `eni-ipam.db` is still the bolt file, and the
        // other files already exist.
        let _ = fs::remove_file(&file);
        fs::hard_link(lab.join("eni-ipam.db.bolt"), &file).unwrap();
        if persist == "boot" {
            let (code, msg) = ecs(&file, "ADD", "next").run().error();
            assert_eq!(code, 104, "{msg}");
        }
        let report = import(&file, &["--persist", persist]).ok();
        assert_eq!(count(&report, "taken") + count(&report, "present"), 310);
        assert_eq!(found(&file), expected());
        let conf = json!({
            "cniVersion": "0.3.0",
            "ipam": {"id": "next", "ipv4-subnet": "169.254.172.0/22", "persist": persist}
        });
        let call = Call::cni("ADD", "", &conf).env("IPAM_DB_PATH", file.to_str().unwrap());
        assert_eq!(addresses(&call.run().ok()), ["169.254.173.50"]);
    }
}
