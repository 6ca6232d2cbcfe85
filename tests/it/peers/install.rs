//! Tests `sublet install` and `sublet uninstall` when a system call fails or the process is killed at a
//! system call. Also tests the return to Debian's host-local.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::install::{FORMER, Host, is_sublet, names, other_build};
use crate::lab::{Call, HOST_LOCAL, Lab, SUBLET, addresses, list, need_host_local};
use crate::peers::power::trace::need_strace;

/// The system calls that change, lock or flush something in a folder.
const CALLS: &str =
    "mkdir,flock,link,linkat,rename,renameat2,symlink,symlinkat,unlink,unlinkat,fsync,fchmod";

const FAULTS: [&str; 2] = ["signal=KILL", "error=ENOSPC"];

fn traced(call: &Call, file: &Path, options: &[&str]) -> Call {
    let name = file.display().to_string();
    call.clone().under("strace", &[&["-q", "-f", "-o", &name], options].concat())
}

/// Returns how often `call` makes each of these system calls in an undisturbed run.
fn counted(call: &Call, lab: &Lab) -> BTreeMap<String, usize> {
    let file = lab.join("trace");
    traced(call, &file, &["-e", &format!("trace={CALLS}")]).run().check_success();
    let mut counts = BTreeMap::new();
    for line in fs::read_to_string(&file).unwrap().lines() {
        let name = line.split_whitespace().nth(1).and_then(|word| word.split('(').next());
        if let Some(name) = name.filter(|name| CALLS.split(',').any(|call| call == *name)) {
            *counts.entry(name.to_owned()).or_insert(0) += 1;
        }
    }
    assert!(counts.values().sum::<usize>() >= 10, "{counts:?}");
    counts
}

/// Injects each fault into each system call, each time on a new host. After each run, `check` checks the
/// host.
fn inject(make: &dyn Fn() -> Host, call: &dyn Fn(&Host) -> Call, check: &dyn Fn(&Host, &str)) {
    need_strace();
    let host = make();
    let counts = counted(&call(&host), &host.lab);
    for (name, count) in counts {
        for (n, fault) in (1..=count).flat_map(|n| FAULTS.map(|fault| (n, fault))) {
            let host = make();
            let call = call(&host);
            let fault = format!("inject={name}:{fault}:when={n}");
            let options = ["-e", &format!("trace={name}"), "-e", &fault];
            let traced = traced(&call, &host.lab.join("trace"), &options);
            let answer = traced.answer(traced.spawn());
            let trace = fs::read_to_string(host.lab.join("trace")).unwrap();
            let done = if fault.contains("KILL") { "killed by SIGKILL" } else { "INJECTED" };
            answer.check(trace.contains(done), format!("not injected: {fault}"));
            check(&host, &fault);
            // The next run must complete what the interrupted run began.
            call.run().check_success();
        }
    }
}

fn is_former(host: &Host, name: &str) -> bool {
    fs::read(host.plugin(name)).is_ok_and(|bytes| bytes == FORMER.as_bytes())
}

/// Checks that the file named host-local is a complete program: either the former host-local or sublet.
fn check_host_local(host: &Host, fault: &str) {
    let works = is_former(host, "host-local") || is_sublet(&host.plugin("host-local"));
    assert!(works, "{fault}: host-local does not run");
}

#[test]
fn an_installation_is_completed_whatever_stopped_it() {
    let lab = Lab::new();
    let (other, new) = (other_build(&lab), fs::read(SUBLET).unwrap());
    let former = fs::read(&other).unwrap();
    let make = || {
        let host = Host::new();
        host.write_former("host-local");
        fs::copy(&other, host.plugin("sublet")).unwrap();
        host
    };
    let is_done = |host: &Host, fault: &str| {
        assert_eq!(
            names(&host.bin()),
            ["consul", "host-local", "host-local.old", "sublet", "sublet.old"],
            "{fault}"
        );
        assert!(is_former(host, "host-local.old"), "{fault}");
        assert!(is_sublet(&host.plugin("host-local")) && is_sublet(&host.plugin("consul")));
        assert!(fs::read(host.plugin("sublet")).unwrap() == new, "{fault}: another program");
        assert!(fs::read(host.plugin("sublet.old")).unwrap() == former, "{fault}: not kept");
    };
    let call = |host: &Host| host.install(&["--as", "host-local", "--as", "consul"]);
    inject(&make, &call, &|host, fault| {
        assert!(is_sublet(&host.plugin("sublet")), "{fault}");
        check_host_local(host, fault);
        call(host).run().check_success();
        is_done(host, fault);
    });
}

#[test]
fn a_rollback_is_completed_whatever_stopped_it() {
    let make = || {
        let host = Host::new();
        host.write_former("host-local");
        host.install(&["--as", "host-local"]).run().check_success();
        let conf = host.network("net", &json!({"type": "host-local", "subnet": "10.9.0.0/24"}));
        let store = host.lab.join("leases.redb").display().to_string();
        for container in ["c1", "c2"] {
            Call::cni("ADD", container, &conf).env("IPAM_DB_PATH", &store).run().ok();
        }
        host
    };
    let call = |host: &Host| host.uninstall(&["--store", "@leases.redb"]);
    inject(&make, &call, &|host, fault| {
        check_host_local(host, fault);
        let in_store = list(&host.lab.join("leases.redb"));
        for (address, container) in [("10.9.0.2", "c1"), ("10.9.0.3", "c2")] {
            let file = host.lab.join("networks/net").join(address);
            let has = fs::read_to_string(file).is_ok_and(|text| text.starts_with(container));
            let leased = in_store.iter().any(|row| row["address"] == address);
            assert!(has || leased, "{fault}: {address} is lost");
            // If host-local is installed again under its name, its folders must contain all leases.
            assert!(
                has || !is_former(host, "host-local"),
                "{fault}: {address} would be leased twice"
            );
        }
        call(host).run().check_success();
        assert_eq!(names(&host.bin()), ["host-local"], "{fault}");
        assert!(is_former(host, "host-local"), "{fault}");
        assert!(list(&host.lab.join("leases.redb")).is_empty(), "{fault}");
        assert_eq!(fs::read_dir(host.lab.join("networks/net")).unwrap().count(), 4, "{fault}");
    });
}

#[test]
fn debians_host_local_goes_on_with_all_leases() {
    need_host_local();
    let host = Host::new();
    fs::copy(HOST_LOCAL, host.plugin("host-local")).unwrap();
    let data = host.lab.data_dir();
    let conf = host.network(
        "net",
        &json!({"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}]], "dataDir": data}),
    );
    let call = |command: &str, container: &str, conf: &Value| {
        let plugin = host.plugin("host-local").display().to_string();
        Call::cni(command, container, conf).program(&plugin).run()
    };
    let add = |container: &str| addresses(&call("ADD", container, &conf).ok());
    assert_eq!(add("c1"), ["10.9.0.2"]);
    // This store is for networks without a `dataDir`, so it contains no leases of a network that uses
    // host-local.
    let store = host.lab.join("leases.redb").display().to_string();
    let ours = host.network("ours", &json!({"type": "sublet", "subnet": "10.8.0.0/24"}));
    Call::cni("ADD", "c1", &ours).env("IPAM_DB_PATH", &store).run().ok();
    for round in 0..2 {
        host.install(&["--as", "host-local"]).run().check_success();
        assert!(is_sublet(&host.plugin("host-local")));
        assert_eq!(add(&format!("ours-{round}")), [format!("10.9.0.{}", 3 + 2 * round)]);
        host.uninstall(&["--as", "host-local", "--store", &store]).run().check_success();
        assert_eq!(fs::read(host.plugin("host-local")).unwrap(), fs::read(HOST_LOCAL).unwrap());
        assert_eq!(add(&format!("theirs-{round}")), [format!("10.9.0.{}", 4 + 2 * round)]);
    }
    for container in ["c1", "ours-0", "theirs-0", "ours-1", "theirs-1"] {
        call("DEL", container, &conf).silent();
    }
    let left = names(Path::new(&data).join("net").as_path());
    assert!(!left.iter().any(|name| name.starts_with("10.")), "{left:?}");
}
