//! `sublet` leaves calls about a cluster's store to `sublet-cluster` beside it: nothing of the call
//! is lost on the way, and whoever has no such program is told so.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::lab::{Answer, CLUSTER, Call, Lab, SUBLET, addresses, conf};
use crate::peers::clusters::{self, Server};

/// Nobody listens there.
const NOBODY: &str = "http://127.0.0.1:1";

/// A network's configuration whose leases are in etcd.
fn in_etcd(endpoint: &str) -> Value {
    let mut conf = conf("/nonexistent", "10.1.0.0/24");
    conf["ipam"]["store"] = json!({"etcd": {"endpoints": [endpoint]}});
    conf
}

/// A folder with `sublet` alone in it.
fn alone() -> Lab {
    let lab = Lab::new();
    fs::copy(SUBLET, lab.join("sublet")).unwrap();
    lab
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The call, by a program of this folder.
fn by(lab: &Lab, name: &str, call: Call) -> Answer {
    call.program(&text(&lab.join(name))).run()
}

/// What takes over here is busybox, which does what its name, the first argument, says.
fn with_busybox(names: &[&str]) -> Lab {
    let lab = alone();
    fs::copy("/bin/busybox", lab.join("sublet-cluster")).expect("busybox-static is installed");
    for name in names {
        symlink("sublet", lab.join(name)).unwrap();
    }
    lab
}

#[test]
fn what_was_read_is_handed_over_whole() {
    let lab = with_busybox(&["cat"]);
    let mut conf = in_etcd(NOBODY);
    for (routes, least) in [(0, 100), (1, 100), (25_000, 1 << 20), (250_000, 10 << 20)] {
        let route = json!({"dst": "192.0.2.0/24", "gw": "10.1.0.1", "more": "\u{e9}"});
        conf["ipam"]["routes"] = vec![route; routes].into();
        let sent = conf.to_string();
        let answer = by(&lab, "cat", Call::cni("ADD", "c", &conf));
        assert!(answer.succeeded() && answer.stdout.len() >= least, "{routes} routes");
        assert!(answer.stdout == sent, "{routes} routes are not what was sent");
        assert_eq!(answer.stderr, "");
    }
}

#[test]
fn arguments_environment_and_exit_code_are_the_call_s() {
    let lab = with_busybox(&["echo", "env", "false"]);
    let store = format!(r#"{{"etcd": {{"endpoints": "{NOBODY}"}}}}"#);
    let call = Call::sublet().arg("list").arg("--network").arg(" a  b").arg("--store").arg(&store);
    let answer = by(&lab, "echo", call);
    assert_eq!(answer.stdout, format!("list --network  a  b --store {store}\n"));
    assert_eq!(answer.code, Some(0));

    let call = Call::cni("DEL", "c", &in_etcd(NOBODY)).env("CNI_ARGS", "K8S_POD_NAME=p");
    let answer = by(&lab, "env", call.clone());
    for line in ["CNI_COMMAND=DEL", "CNI_CONTAINERID=c", "CNI_ARGS=K8S_POD_NAME=p"] {
        assert!(answer.stdout.lines().any(|l| l == line), "{line}: {answer:?}");
    }
    let answer = by(&lab, "false", call);
    assert_eq!((answer.code, answer.stdout.as_str()), (Some(1), ""));
}

/// The command line has read nothing, so nothing is put in the place of what a person may answer.
#[test]
fn standard_input_of_a_person_stays() {
    let lab = alone();
    let script = "#!/bin/sh\nread -r word && echo \"$word\" && exit 7\n";
    fs::write(lab.join("sublet-cluster"), script).unwrap();
    fs::set_permissions(lab.join("sublet-cluster"), fs::Permissions::from_mode(0o755)).unwrap();
    let call = Call::sublet().arg("release").arg("c").arg("--store").arg(r#"{"etcd": {}}"#);
    let answer = by(&lab, "sublet", call.stdin("yes\n"));
    assert_eq!((answer.code, answer.stdout.as_str()), (Some(7), "yes\n"), "{answer:?}");
}

#[test]
fn without_the_other_program_nothing_is_leased() {
    let lab = alone();
    let other = lab.join("sublet-cluster");
    let told = |why: &str| {
        for (command, expected) in [("ADD", 11), ("CHECK", 11), ("DEL", 11), ("STATUS", 50)] {
            let mut conf = in_etcd(NOBODY);
            conf["cniVersion"] = json!("1.1.0");
            let answer = by(&lab, "sublet", Call::cni(command, "c", &conf));
            let (code, msg) = answer.error();
            assert_eq!(code, expected, "{command}: {msg}");
            for part in [&text(&other), why, "package"] {
                assert!(msg.contains(part), "{command}: no {part:?} in {msg}");
            }
        }
        let call = Call::sublet().arg("list").arg("--store").arg(r#"{"consul": {}}"#);
        let answer = by(&lab, "sublet", call);
        assert_eq!((answer.code, answer.stdout.as_str()), (Some(1), ""));
        assert!(answer.stderr.contains(why) && answer.stderr.lines().count() == 1, "{answer:?}");
        // The commands are the other program's, whatever the store.
        let call = Call::sublet().arg("list").arg("--store").arg(&text(&lab.store()));
        let answer = by(&lab, "sublet", call);
        assert_eq!((answer.code, answer.stdout.as_str()), (Some(1), ""));
        for part in [&text(&other), why, "the commands", "package"] {
            assert!(answer.stderr.contains(part), "no {part:?} in {answer:?}");
        }
    };
    told("No such file");
    fs::create_dir(&other).unwrap();
    told("Permission denied");
    fs::remove_dir(&other).unwrap();
    fs::write(&other, "no program").unwrap();
    told("Permission denied");
    // It must not start itself for ever.
    fs::remove_file(&other).unwrap();
    symlink("sublet", &other).unwrap();
    told("under another name");
    fs::remove_file(&other).unwrap();
    fs::copy(SUBLET, &other).unwrap();
    told("under another name");

    // Whatever is of this host alone goes on.
    let local = conf(&lab.data_dir(), "10.1.0.0/24");
    assert_eq!(addresses(&by(&lab, "sublet", Call::cni("ADD", "c", &local)).ok()), ["10.1.0.2"]);
    by(&lab, "sublet", Call::cni("DEL", "c", &local)).silent();
    let version = by(&lab, "sublet", Call::cni("VERSION", "c", &in_etcd(NOBODY))).ok();
    assert!(version["supportedVersions"].is_array());
}

/// The rows of `sublet list`, by a program.
fn listed(etcd: &Server, program: &str) -> Vec<Value> {
    Call::new(program).args(&["list", "--json", "--store", &etcd.store("sublet")]).run().rows()
}

#[test]
fn leases_reach_the_cluster_by_whatever_name() {
    let etcd = clusters::etcd();
    // As a runtime finds them: links into the folder where the two stand.
    let folder = PathBuf::from(SUBLET);
    let lab = Lab::new();
    symlink(&folder, lab.join("host-local")).unwrap();
    symlink("host-local", lab.join("consul")).unwrap();
    let mut large = in_etcd(&etcd.endpoint());
    large["ipam"]["unknown"] = "x".repeat(1 << 20).into();
    large["ipam"]["rangestar"] = json!("10.1.0.9");
    let programs = [SUBLET, CLUSTER, &text(&lab.join("host-local")), &text(&lab.join("consul"))];
    let mut given = Vec::new();
    for (i, program) in programs.iter().enumerate() {
        let conf = if i % 2 == 0 { &large } else { &in_etcd(&etcd.endpoint()) };
        let container = format!("c{i}");
        let answer = Call::cni("ADD", &container, conf).program(program).run();
        given.extend(addresses(&answer.ok()));
        assert_eq!(answer.stderr.matches("rangestar").count(), usize::from(i % 2 == 0), "{i}");
        Call::cni("CHECK", &container, conf).program(program).run().silent();
    }
    given.sort();
    for program in [SUBLET, CLUSTER] {
        let rows = listed(&etcd, program);
        let mut listed: Vec<_> = rows.iter().map(|r| r["address"].as_str().unwrap()).collect();
        listed.sort_unstable();
        assert_eq!((listed.len(), listed), (4, given.iter().map(String::as_str).collect()));
    }
    let gc = |valid: Value| {
        let mut conf = large.clone();
        conf["cniVersion"] = json!("1.1.0");
        conf["cni.dev/valid-attachments"] = valid;
        Call::cni("GC", "", &conf).run().silent();
        listed(&etcd, SUBLET).len()
    };
    assert_eq!(gc(json!([{"containerID": "c0", "ifname": "eth0"}])), 1);
    Call::cni("DEL", "c0", &large).run().silent();
    assert_eq!(gc(json!([])), 0);
    let (code, msg) = Call::cni("ADD", "c", &in_etcd(NOBODY)).run().error();
    assert!(code == 11 && msg.contains("etcd at"), "{code}: {msg}");
}
