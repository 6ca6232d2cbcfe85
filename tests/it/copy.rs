//! Tests copies of stores between a lease file, etcd and Consul, both directly and through JSON lines.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::lab::{Answer, Call, Lab, conf, list};

fn copy(from: &str, to: &str) -> Call {
    Call::sublet().arg("copy").arg("--from").arg(from).arg("--to").arg(to)
}

fn done(call: &Call) -> Answer {
    let answer = call.run();
    answer.check(answer.succeeded(), "success");
    answer
}

/// Returns the lines that `sublet export jsonl` prints.
fn export(store: &str) -> String {
    done(&Call::sublet().arg("export").arg("jsonl").arg("--store").arg(store)).stdout
}

fn import(lines: &str, store: &str) -> Call {
    Call::sublet().arg("import").arg("jsonl").arg("--store").arg(store).stdin(lines)
}

/// Returns the records without the details that differ between kinds of stores. These details are the order
/// of the records, the lifetime of records that are not leases, and the boot ID of durable leases (only a
/// lease file stores it).
fn records(lines: &str) -> BTreeSet<String> {
    let record = |line: &str| {
        let mut value: Value = serde_json::from_str(line).unwrap();
        let fields = value.as_object_mut().unwrap();
        let lasts = fields.remove("persist") == Some(json!("disk"));
        let set = fields.get("set").or(fields.get("network")).and_then(Value::as_str);
        if lasts && !set.unwrap_or_default().starts_with("docker/") {
            fields.remove("bootID");
        }
        value.to_string()
    };
    lines.lines().skip(1).map(record).collect()
}

/// Makes a lease file with the leases of two networks (one of them has `persist: disk`). The file also has
/// cooling addresses, a pod's former address, pools, and the record of an import from host-local.
fn fill(lab: &Lab) -> String {
    let add = |conf: &Value, container: &str, args: &str| {
        done(&Call::cni("ADD", container, conf).env("CNI_ARGS", args));
    };
    let boot = conf(&lab.data_dir(), "10.1.0.0/24");
    for i in 0..6 {
        add(&boot, &format!("c{i}"), "");
    }
    let mut disk = conf(&lab.data_dir(), "fd00::/64");
    disk["name"] = json!("kept");
    disk["ipam"]["persist"] = json!("disk");
    disk["ipam"]["sticky"] = json!(true);
    disk["ipam"]["cooldown"] = json!("1h");
    add(&disk, "pod", "K8S_POD_NAMESPACE=ns;K8S_POD_NAME=db-0;K8S_POD_INFRA_CONTAINER_ID=pod");
    add(&disk, "gone", "");
    done(&Call::cni("DEL", "gone", &disk));
    let store = lab.store().display().to_string();
    let old = lab.join("networks/old");
    fs::create_dir_all(&old).unwrap();
    fs::write(old.join("lock"), "").unwrap();
    fs::write(old.join("10.9.0.5"), "old-1").unwrap();
    let networks = lab.join("networks").display().to_string();
    let host_local = Call::sublet().arg("import").arg("host-local").arg(&networks);
    done(&host_local.arg("--store").arg(&store));
    let gipam = json!({"v4": "192.168.0.0/16", "v4ab": 24, "v4idx": 1, "allocated": [
        {"id": "a1b2", "v": 4, "pool": "192.168.0.0/24", "idx": 3, "allocated": ["192.168.0.1"]}]});
    let file = lab.join("leases.json");
    fs::write(&file, gipam.to_string()).unwrap();
    let gipam = Call::sublet().arg("import").arg("gipam").arg(&file.display().to_string());
    done(&gipam.arg("--store").arg(&store));
    store
}

#[test]
fn a_line_that_means_nothing_is_named_and_nothing_is_written() {
    let lab = Lab::new();
    let lines = export(&fill(&lab));
    let second = lab.join("second/leases.redb");
    let at = |name: &str| lines.lines().position(|l| l.contains(name)).unwrap();
    let (lease, pool) = (at("\"record\":\"lease\""), at("\"record\":\"pool\""));
    for (line, from, to, word) in [
        (0, "\"format\":2", "\"format\":7", "format 7"),
        (0, "\"sublet\"", "\"sub\"", "not an export of `sublet export jsonl`"),
        (lease, "\"prefix\":24", "\"prefix\":240", "prefix"),
        (lease, "\"prefix\":24", "\"prefix\":-1", "invalid value"),
        (lease, "\"containerID\":\"", "\"containerID\":\"/", "containerID"),
        (lease, "\"kind\":\"dynamic\"", "\"kind\":\"sometimes\"", "kind"),
        (lease, "\"address\":\"10.", "\"address\":\"10,", "not an address"),
        (lease, "\"time\":", "\"tame\":", "unknown field `tame`"),
        (lease, "{\"record\"", "{\"record\":\"lease\"", "expected"),
        (lease, "\"network\":", "\"set\":\"docker/x/10.0.0.0/8\",\"network\":", "does not match"),
        (lease, "\"time\":\"2", "\"time\":\"x", "not a time"),
        (pool, "\"subnet\":\"192.168.0.0/24\"", "\"subnet\":\"192.168.0.1/24\"", "use a prefix"),
    ] {
        let changed: Vec<String> = lines
            .lines()
            .enumerate()
            .map(|(n, l)| if n == line { l.replacen(from, to, 1) } else { l.to_owned() })
            .collect();
        let changed = changed.join("\n") + "\n";
        assert_ne!(changed, lines, "{from}");
        let file = lab.join("bad.jsonl");
        fs::write(&file, changed).unwrap();
        let call = Call::sublet().arg("import").arg("jsonl").arg(&file.display().to_string());
        let answer = call.arg("--store").arg(&second.display().to_string()).run();
        let place = format!("line {}: ", line + 1);
        let told = answer.stderr.contains(&place) && answer.stderr.contains(word);
        answer.check(answer.code == Some(1) && told, format!("{place}{word}"));
        assert!(!second.parent().unwrap().exists());
    }
    for (text, word) in [("", "is empty"), (&lines[..lines.len() - 9], "was truncated")] {
        let answer = import(text, &second.display().to_string()).run();
        answer.check(answer.code == Some(1) && answer.stderr.contains(word), word);
    }
}

#[test]
fn an_address_with_another_holder_is_named_and_nothing_is_written() {
    let (lab, other) = (Lab::new(), Lab::new());
    let from = fill(&lab);
    done(&Call::cni("ADD", "theirs", &conf(&other.data_dir(), "10.1.0.0/24")));
    let to = other.store().display().to_string();
    let before = export(&to);
    let file = lab.join("lines.jsonl").display().to_string();
    fs::write(&file, export(&from)).unwrap();
    let import = Call::sublet().args(&["import", "jsonl", &file, "--store", &to]);
    for call in [copy(&from, &to), import] {
        let answer = call.run();
        let text = &answer.stderr;
        let named = text.contains("cannot import 10.1.0.2 for container c0 (eth0)")
            && text.contains("container theirs (eth0) holds the address");
        answer.check(answer.code == Some(1) && named, "the two");
    }
    assert_eq!(export(&to), before);
    let same = copy(&from, &from).run();
    same.check(same.code == Some(2) && same.stderr.contains("the same store"), "the same");
}

#[test]
fn what_changes_meanwhile_is_told() {
    // Copying a store to itself under a different name must leave it unchanged.
    let lab = Lab::new();
    let from = fill(&lab);
    let link = lab.join("link");
    std::os::unix::fs::symlink(lab.join("data"), &link).unwrap();
    let before = export(&from);
    let link = link.join("leases.redb");
    let answer = copy(&from, &link.display().to_string()).run();
    assert_eq!(export(&from), before, "{answer:?}");
    assert!(Path::new(&from).exists());
}

/// Tests that need etcd and Consul.
mod peers {
    use super::*;
    use crate::peers::clusters;

    #[test]
    fn a_store_moves_in_every_direction() {
        let lab = Lab::new();
        let (etcd, consul) = (clusters::etcd(), clusters::consul());
        let first = fill(&lab);
        let (etcd, consul) = (etcd.store("a/b"), consul.store("moved"));
        let last = lab.join("last/leases.redb").display().to_string();
        let expected = records(&export(&first));
        for kind in ["pool", "lease", "cooling", "cursor", "sticky"] {
            let word = format!("\"record\":\"{kind}\"");
            assert!(expected.iter().any(|line| line.contains(&word)), "no {kind}: {expected:#?}");
        }
        for (from, to) in [(&first, &etcd), (&etcd, &consul), (&consul, &last)] {
            let dry = done(&copy(from, to).arg("--dry-run"));
            assert!(
                dry.stdout.contains(&format!("would copy {} records", expected.len())),
                "{dry:?}"
            );
            for _ in 0..2 {
                let answer = done(&copy(from, to));
                let told = format!("{} records, identical in both stores\n", expected.len());
                assert_eq!(answer.stdout, told);
            }
            assert_eq!(records(&export(to)), expected);
        }
        // In the copy, leases must have the same lifetimes as in the source, and the containers' DELs must
        // find them.
        let boot = conf(&lab.join("last").display().to_string(), "10.1.0.0/24");
        let before = list(&lab.join("last/leases.redb")).len();
        for i in 0..6 {
            done(&Call::cni("DEL", &format!("c{i}"), &boot));
        }
        let mut old = boot.clone();
        old["name"] = json!("old");
        done(&Call::cni("DEL", "old-1", &old));
        assert_eq!(list(&lab.join("last/leases.redb")).len(), before - 7);
        // The copies must not have changed the source.
        assert_eq!(records(&export(&first)), expected);
    }

    #[test]
    fn lines_come_back_as_they_were() {
        let lab = Lab::new();
        let first = fill(&lab);
        let lines = export(&first);
        assert!(lines.starts_with(&format!("{{\"sublet\":\"{}\"", env!("CARGO_PKG_VERSION"))));
        let second = lab.join("second/leases.redb").display().to_string();
        done(&import(&lines, &second));
        assert_eq!(export(&second), lines);
        // Importing the same records again must change nothing.
        done(&import(&lines, &second));
        assert_eq!(export(&second), lines);
        let file = lab.join("lines.jsonl").display().to_string();
        done(&Call::sublet().args(&["export", "jsonl", &file, "--store", &second]));
        assert_eq!(fs::read_to_string(&file).unwrap(), lines);
        let third = lab.join("third/leases.redb").display().to_string();
        done(&Call::sublet().args(&["import", "jsonl", &file, "--store", &third]));
        assert_eq!(export(&third), lines);
        let etcd = clusters::etcd();
        done(&import(&lines, &etcd.store("one")));
        let there = export(&etcd.store("one"));
        assert_eq!(records(&there), records(&lines));
        done(&import(&there, &etcd.store("two")));
        assert_eq!(export(&etcd.store("two")), there);
    }

    /// Returns many leases as JSON lines.
    fn many(count: usize) -> String {
        let head = json!({"sublet": "0.1.0", "format": 2}).to_string() + "\n";
        let line = |i: usize| {
            let address = format!("10.{}.{}.{}", i >> 16, (i >> 8) & 255, i & 255);
            json!({"record": "lease", "network": "big", "address": address, "prefix": 8,
                "kind": "dynamic", "containerID": format!("c{i}"), "ifname": "eth0",
                "rangeKey": "10.0.0.1", "node": "n", "machineID": "m",
                "time": "1970-01-01T00:00:01Z", "persist": "disk"})
            .to_string()
                + "\n"
        };
        head + &(0..count).map(line).collect::<String>()
    }

    #[test]
    fn a_copy_that_was_killed_is_repeated() {
        let lab = Lab::new();
        let etcd = clusters::etcd();
        let (from, to) = (lab.store().display().to_string(), etcd.store("many"));
        done(&import(&many(6000), &from));
        let mut cut = 0;
        for wait in [150, 400, 800] {
            let mut child = copy(&from, &to).spawn();
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_millis(wait)
                && child.try_wait().unwrap().is_none()
            {
                std::thread::yield_now();
            }
            child.kill().unwrap();
            child.wait().unwrap();
            cut += usize::from(count(&to) < 6000);
        }
        assert!(cut > 0, "none was killed midway");
        let answer = done(&copy(&from, &to));
        assert_eq!(answer.stdout, "6000 records, identical in both stores\n");
        assert_eq!(records(&export(&to)), records(&export(&from)));
    }

    fn count(store: &str) -> usize {
        export(store).lines().count() - 1
    }
}
