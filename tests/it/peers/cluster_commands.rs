//! Compares the output of commands that need a cluster, two stores or another program's keys with golden
//! files. The module `commands` tests all other commands. The tests use a real etcd and a real Consul on
//! loopback.
//!
//! The arguments of a case may contain these names of stores. `ETCD` is a store on etcd that is filled with
//! the same content for each case. `EMPTY` is an empty store on an etcd that has keys of kontena-ipam.
//! `CONSUL` is a store on a Consul that has keys of cni-ipam-consul. The ports of the servers differ from run
//! to run, so the golden files do not contain them.

use std::cell::Cell;
use std::fs;
use std::process;

use serde_json::{Value, json};
use sublet::model::Node;
use sublet::sys::host::Facts;

use crate::commands::Ends::{Fails, Json, Plain};
use crate::commands::{Case, NOW, PLAIN, called, copy, facts, fixed, in_all_forms, said};
use crate::lab::Lab;
use crate::peers::clusters::{self, Server};
use crate::peers::legacy_consul;

pub const CASES: &[Case] = &[
    ("node-list", &["node", "list", "--store", "ETCD"], Json),
    ("node-list-of-nobody", &["node", "list", "--store", "EMPTY"], Json),
    ("node-release", &["node", "release", "node-2", "--yes", "--store", "ETCD"], Json),
    ("node-release-dry-run", &["node", "release", "node-2", "--dry-run", "--store", "ETCD"], Json),
    ("node-release-unasked", &["node", "release", "node-2", "--store", "ETCD"], Fails(2)),
    ("node-release-of-this", &["node", "release", "node-1", "--yes", "--store", "ETCD"], Fails(1)),
    ("node-release-of-nobody", &["node", "release", "node-9", "--store", "ETCD"], Fails(1)),
    ("network-show", &["network", "show", "pods", "--store", "ETCD"], Json),
    ("network-show-nothing", &["network", "show", "none", "--store", "ETCD"], Fails(1)),
    ("network-set", &["network", "set", "pods", "@/wider.json", "--store", "ETCD"], Json),
    ("network-set-new", &["network", "set", "pods", "@/wider.json", "--store", "EMPTY"], Json),
    (
        "network-set-outside",
        &["network", "set", "pods", "@/away.json", "--store", "ETCD"],
        Fails(2),
    ),
    ("network-set-late", &["network", "set", "pods", "@/late.json", "--store", "ETCD"], Fails(1)),
    ("copy", &["copy", "--from", "@/leases.redb", "--to", "@/to.redb"], Json),
    ("copy-dry-run", &["copy", "--from", "@/leases.redb", "--to", "EMPTY", "--dry-run"], Json),
    ("copy-into-a-cluster", &["copy", "--from", "@/leases.redb", "--to", "EMPTY"], Json),
    ("copy-out-of-a-cluster", &["copy", "--from", "ETCD", "--to", "@/to.redb"], Json),
    ("copy-clash", &["copy", "--from", "@/leases.redb", "--to", "@/other.redb"], Fails(1)),
    ("copy-onto-itself", &["copy", "--from", "ETCD", "--to", "ETCD"], Fails(2)),
    ("export-jsonl-of-a-cluster", &["export", "jsonl", "--store", "ETCD"], Plain),
    ("import-jsonl", &["import", "jsonl", "@/lines.jsonl", "--store", "@/to.redb"], Json),
    (
        "import-jsonl-dry-run",
        &["import", "jsonl", "@/lines.jsonl", "--dry-run", "--store", "EMPTY"],
        Json,
    ),
    ("import-jsonl-of-no-line", &["import", "jsonl", "@/bad.jsonl", "--store", "EMPTY"], Fails(1)),
    (
        "import-ecs-ipam",
        &["import", "ecs-ipam", "@/eni-ipam.db", "--dry-run", "--store", "@/new.redb"],
        Json,
    ),
    ("import-kontena", &["import", "kontena", "--store", "EMPTY"], Json),
    ("import-kontena-dry-run", &["import", "kontena", "--dry-run", "--store", "EMPTY"], Json),
    ("import-kontena-again", &["import", "kontena", "--store", "ETCD"], Json),
    ("import-consul", &["import", "consul", "default", "--store", "CONSUL"], Json),
    (
        "import-consul-dry-run",
        &["import", "consul", "default", "--dry-run", "--store", "CONSUL"],
        Json,
    ),
    ("import-consul-of-etcd", &["import", "consul", "default", "--store", "ETCD"], Fails(1)),
];

fn node(number: u8, now: u64) -> Facts {
    let machine = format!("{number:02x}").repeat(16);
    Facts { node: Node { name: format!("node-{number}"), machine }, ..facts(now) }
}

/// Fills a store with the leases of two nodes in a network that the cluster defines, a freed address, and a
/// reservation. It also has a kontena-ipam pool that both nodes use.
fn fill(store: &Value) {
    let conf = json!({
        "cniVersion": "1.1.0", "name": "pods", "type": "bridge",
        "ipam": {"type": "sublet", "subnet": "10.90.0.0/24", "define": true, "cooldown": "1h",
                 "routes": [{"dst": "0.0.0.0/0"}], "store": store}
    });
    let call = |number: u8, now, command: &str, n: u8| {
        let id = format!("web-{n}");
        let pod = format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-{n};IgnoreUnknown=1");
        let own = [("CNI_CONTAINERID", &*id), ("CNI_ARGS", &*pod)];
        called(&Facts { seed: u64::from(n), ..node(number, now) }, command, &conf, &own);
    };
    // Use the machine-id of node-1, because this test's commands run on that node.
    let here = facts(NOW);
    for n in 0..5 {
        call(2, NOW + u64::from(n), "ADD", n);
    }
    call(2, NOW + 50, "DEL", 3);
    let id = [("CNI_CONTAINERID", "here")];
    called(&Facts { now: NOW + 60, ..here }, "ADD", &conf, &id);
    let done = |args: &[&str]| {
        let store = store.to_string();
        let said = said(&Lab::new(), &[args, &["--store", &store]].concat(), PLAIN);
        assert!(said.ends_with("exit 0\n"), "{said}");
    };
    done(&["reserve", "pods", "10.90.0.200", "--note", "printer"]);
    done(&["import", "kontena"]);
}

/// Writes the files that the arguments of the cases name.
pub fn write_files(lab: &Lab) {
    let definition = |subnet: &str| json!({"ipam": {"type": "sublet", "subnet": subnet}});
    let mut late = definition("10.90.0.0/16");
    late["version"] = json!(7);
    for (name, value) in [
        ("wider.json", &definition("10.90.0.0/16")),
        ("away.json", &definition("10.91.0.0/16")),
        ("late.json", &late),
    ] {
        fs::write(lab.join(name), value.to_string()).unwrap();
    }
    let head = json!({"sublet": env!("CARGO_PKG_VERSION"), "format": 2});
    let line = |address: &str| {
        json!({"record": "lease", "network": "lab", "address": address, "prefix": 24, "kind": "dynamic",
            "containerID": "c1", "ifname": "eth0", "rangeKey": "10.92.0.1", "node": "node-1",
            "machineID": "00", "time": "2026-01-31T22:53:20Z", "persist": "disk"})
    };
    for (name, address) in [("lines.jsonl", "10.92.0.7"), ("bad.jsonl", "10.92.0")] {
        fs::write(lab.join(name), format!("{head}\n{}\n", line(address))).unwrap();
    }
    let taken = ["reserve", "pods", "10.77.0.2", "--create", "--store", "@/other.redb"];
    let reserved = said(lab, &taken, PLAIN);
    assert!(reserved.ends_with("exit 0\n"), "{reserved}");
}

#[test]
fn print_what_they_printed() {
    let (etcd, consul) = (clusters::etcd(), clusters::consul());
    legacy_consul::kontena(&etcd);
    for last in [2, 3, 5] {
        legacy_consul::lease(&consul, "default", last);
    }
    let fixed = fixed();
    write_files(&fixed);
    let number = Cell::new(0);
    let fresh = |server: &Server| {
        number.set(number.get() + 1);
        // Use a new prefix for each store. If an earlier run had a server on the same port, /run may contain
        // sublet's local cache of that server.
        server.conf(&format!("store-{}-{}", process::id(), number.get()))
    };
    let mut faults = Vec::new();
    for (name, args, ends) in CASES {
        faults.extend(in_all_forms(name, args, *ends, &|more, screen| {
            let (filled, lab) = (fresh(&etcd), copy(fixed.path()));
            if args.contains(&"ETCD") {
                fill(&filled);
            }
            let args: Vec<String> = args
                .iter()
                .map(|arg| match *arg {
                    "ETCD" => filled.to_string(),
                    "EMPTY" => fresh(&etcd).to_string(),
                    "CONSUL" => fresh(&consul).to_string(),
                    arg => arg.to_owned(),
                })
                .collect();
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let said = said(&lab, &[&args, more].concat(), screen);
            said.replace(&etcd.endpoint(), "http://ETCD")
                .replace(&consul.endpoint(), "http://CONSUL")
        }));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
