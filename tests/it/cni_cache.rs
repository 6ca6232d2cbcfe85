//! Tests `sublet import cni-cache`. If a store has been lost, this command restores the leases of the
//! containers that are still running.

use std::fs;

use serde_json::{Value, json};

use crate::lab::{Answer, Call, Lab, conf};

/// Writes the cache file that libcni writes for one interface of a container.
fn cache(lab: &Lab, container: &str, netns: &str, addresses: &[&str]) {
    let list = json!({
        "cniVersion": "1.1.0", "name": "mynet", "plugins": [
            {"type": "bridge", "ipam": conf(&lab.data_dir(), "10.1.2.0/24")["ipam"]},
        ],
    });
    let ips: Vec<Value> = addresses.iter().map(|address| json!({"address": address})).collect();
    let record = json!({
        "kind": "cniCacheV1", "containerId": container, "ifName": "eth0", "networkName": "mynet",
        "config": base64(&list.to_string()), "netns": netns,
        "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", container]],
        "result": {"cniVersion": "1.1.0", "ips": ips},
    });
    let folder = lab.join("results");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("mynet-{container}-eth0")), record.to_string()).unwrap();
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn import(lab: &Lab, more: &[&str]) -> Answer {
    let folder = lab.join("results").display().to_string();
    Call::sublet().args(&["import", "cni-cache", &folder, "--json"]).args(more).run()
}

/// Returns the container and the outcome of each imported record, separated by a space.
fn outcomes(answer: &Answer) -> Vec<String> {
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let row = |row: &Value| format!("{} {}", text(row, "container"), text(row, "outcome"));
    answer.json().as_array().unwrap().iter().map(row).collect()
}

/// The path of a network namespace that always exists: the command's own.
const ALIVE: &str = "/proc/self/ns/net";

#[test]
fn running_containers_get_their_addresses_again_and_dead_ones_none() {
    let lab = Lab::new();
    cache(&lab, "alive", ALIVE, &["10.1.2.7/24"]);
    cache(&lab, "dead", "/run/netns/no-such-namespace", &["10.1.2.8/24"]);
    // This file is left over from an earlier boot: a network namespace was mounted on it then, but no longer
    // is.
    let file = lab.join("was-mounted").display().to_string();
    fs::write(&file, "").unwrap();
    cache(&lab, "unmounted", &file, &["10.1.2.9/24"]);
    let expected = ["alive imported", "dead gone", "unmounted gone"];
    assert_eq!(outcomes(&import(&lab, &["--dry-run"])), expected);
    assert!(lab.list().is_empty(), "a dry run leases nothing");
    let done = import(&lab, &[]);
    assert!(done.succeeded());
    assert_eq!(outcomes(&done), expected);
    let leases = lab.list();
    let fields = |key: &str| leases.iter().map(|row| row[key].clone()).collect::<Vec<_>>();
    assert_eq!(fields("address"), ["10.1.2.7"]);
    assert_eq!(
        (fields("containerID"), fields("ifname")),
        (vec!["alive".into()], vec!["eth0".into()])
    );
    assert_eq!((fields("podName"), fields("netns")), (vec!["alive".into()], vec![ALIVE.into()]));
    assert_eq!(outcomes(&import(&lab, &[])), ["alive present", "dead gone", "unmounted gone"]);
    // A DEL must free the imported lease, as if the store had never been lost.
    Call::cni("DEL", "alive", &conf(&lab.data_dir(), "10.1.2.0/24")).run().silent();
    assert!(lab.list().is_empty());
}

#[test]
fn an_address_that_another_container_holds_is_reported_and_stays() {
    let lab = Lab::new();
    let network = conf(&lab.data_dir(), "10.1.2.0/24");
    let held = Call::cni("ADD", "newcomer", &network).run().ips();
    cache(&lab, "former", ALIVE, &[&held[0]]);
    cache(&lab, "other", ALIVE, &["10.1.2.77/24"]);
    cache(&lab, "outside", ALIVE, &["192.0.2.1/24"]);
    fs::write(lab.join("results/garbage"), "{").unwrap();
    let done = import(&lab, &[]);
    assert!(!done.succeeded());
    let expected = [" refused", "former refused", "other imported", "outside refused"];
    assert_eq!(outcomes(&done), expected);
    let reason = done.json()[1]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("newcomer"), "{reason}");
    let mut holders: Vec<String> =
        lab.list().iter().map(|row| row["containerID"].as_str().unwrap().to_owned()).collect();
    holders.sort();
    assert_eq!(holders, ["newcomer", "other"]);
    assert_eq!(outcomes(&import(&lab, &["--network", "mynet"])).len(), 3);
    assert!(!import(&lab, &["--network", "nope"]).succeeded());
}
