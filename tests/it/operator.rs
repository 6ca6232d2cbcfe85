//! Tests operator commands in error cases. For example, a `list` that fails must not print part of a JSON
//! array. A `release` that matches leases in several networks must free nothing.

use std::fs;

use serde_json::json;

use crate::lab::{Answer, Call, Lab, addresses, conf};

fn add(lab: &Lab, network: &str, container: &str) {
    let mut conf = conf(&lab.data_dir(), "10.4.0.0/24");
    conf["name"] = json!(network);
    let got = addresses(&Call::cni("ADD", container, &conf).run().ok());
    assert_eq!(got, ["10.4.0.2"]);
}

fn sublet(lab: &Lab, args: &[&str]) -> Answer {
    let store = lab.store().display().to_string();
    args.iter().fold(Call::sublet().arg("--store").arg(&store), |call, arg| call.arg(arg)).run()
}

#[test]
fn a_list_that_fails_prints_nothing() {
    let lab = Lab::new();
    add(&lab, "one", "c");
    fs::write(lab.store(), "garbage").unwrap();
    for args in [&["list", "--json"][..], &["list"]] {
        let answer = sublet(&lab, args);
        assert_eq!((answer.code, answer.stdout.as_str()), (Some(1), ""), "{answer:?}");
    }
}

#[test]
fn leases_in_several_networks_are_not_freed_at_one_word() {
    let lab = Lab::new();
    add(&lab, "one", "c");
    add(&lab, "two", "c");
    for args in [
        &["release", "10.4.0.2", "--yes"][..],
        &["release", "10.4.0.2"],
        &["release", "c", "--yes"],
    ] {
        let answer = sublet(&lab, args);
        assert_eq!((answer.code, answer.stdout.as_str()), (Some(1), ""), "{answer:?}");
        assert!(answer.stderr.contains("(one, two); name one of them"), "{answer:?}");
        assert_eq!(lab.list().len(), 2);
    }
    for (name, network) in [("10.4.0.2", "one"), ("c", "two")] {
        let answer = sublet(&lab, &["release", name, "--network", network, "--yes"]);
        assert_eq!(answer.code, Some(0), "{answer:?}");
        assert!(lab.list().iter().all(|row| row["network"] != network));
    }
}

/// `--store` must also accept a cluster, as JSON. If the JSON contains an error, the message must be a single
/// line.
#[test]
fn a_cluster_by_the_command_line() {
    for (store, said) in [
        (r#"{"etcd": {"endpoints": ["http://127.0.0.1:1"]}}"#, "etcd at http://127.0.0.1:1"),
        (r#" {"consul": {"endpoints": "http://127.0.0.1:1"}}"#, "Consul at http://127.0.0.1:1"),
        (r#"{"etcd": {"endpoint": ["http://a:1"], "prefix": "/"}}"#, "etcd.prefix"),
        (r#"{"etcd": {"tokenFil": "x", "timeout": "0s"}}"#, "etcd.timeout"),
        (r#"{"consul": {"tokenFile": "/nope"}}"#, "/nope"),
        ("{", "the store is not valid JSON"),
        (r#"{"redis": {}}"#, "\"redis\""),
    ] {
        let answer = Call::sublet().arg("--store").arg(store).arg("list").run();
        assert_eq!(answer.code, Some(1), "{store}: {answer:?}");
        assert!(answer.stdout.is_empty(), "{answer:?}");
        assert!(answer.stderr.contains(said), "{store}: {answer:?}");
    }
}
