//! Tests the limits of a configuration. A configuration with the maximum number of items must work. With one
//! more item, it must be refused with an error that names the limit.

use serde_json::{Value, json};

use crate::lab::{Call, Lab, conf};

/// Returns the subnet with the number `n`, from 0 to 65,535.
fn subnet(n: usize) -> String {
    format!("10.{}.{}.0/24", n / 256, n % 256)
}

/// Returns an address of the subnet with the number `n`.
fn address(n: usize) -> String {
    format!("10.{}.{}.77", n / 256, n % 256)
}

/// Makes a configuration with the range sets `ranges`.
fn with(lab: &Lab, ranges: &[Value]) -> Value {
    let mut conf = conf(&lab.data_dir(), "10.255.255.0/24");
    conf["ipam"].as_object_mut().unwrap().remove("subnet");
    conf["ipam"]["ranges"] = json!(ranges);
    conf
}

fn sets(count: usize) -> Vec<Value> {
    (0..count).map(|n| json!([{"subnet": subnet(n)}])).collect()
}

fn refused(command: &str, conf: &Value, expected: &str) {
    let (code, msg) = Call::cni(command, "a", conf).run().error();
    assert_eq!((code, msg.as_str()), (7, expected));
}

#[test]
fn ranges() {
    let lab = Lab::new();
    let most = with(&lab, &sets(1024));
    let ips = Call::cni("ADD", "a", &most).run().ips();
    assert_eq!(ips.len(), 1024);
    assert_eq!((ips[0].as_str(), ips[1023].as_str()), ("10.0.0.2/24", "10.3.255.2/24"));
    assert_eq!(Call::cni("ADD", "a", &most).run().ips(), ips, "repeated");
    assert_eq!(lab.list().len(), 1024);
    let text = "ipam has 1025 ranges in its range sets; at most 1024 are allowed";
    let more = with(&lab, &sets(1025));
    refused("ADD", &more, text);
    // A DEL must work even if the configuration is too large for an ADD.
    Call::cni("DEL", "a", &more).run().silent();
    assert!(lab.list().is_empty());

    let one = |count| sets(count).iter().map(|set| set[0].clone()).collect::<Vec<_>>();
    let most = with(&lab, &[json!(one(1024))]);
    assert_eq!(Call::cni("ADD", "a", &most).run().ips(), ["10.0.0.3/24"]);
    refused("ADD", &with(&lab, &[json!(one(1025))]), text);
    refused("ADD", &with(&lab, &[json!(one(1000)), json!(one(25))]), text);
}

#[test]
fn requested_addresses() {
    let lab = Lab::new();
    let mut conf = with(&lab, &sets(1024));
    let wanted = |count| (0..count).map(address).collect::<Vec<_>>();
    for (place, at) in [("args.cni.ips", "/args/cni"), ("runtimeConfig.ips", "/runtimeConfig")] {
        let mut conf = conf.clone();
        conf["args"] = json!({"cni": {}});
        conf["runtimeConfig"] = json!({});
        conf.pointer_mut(at).unwrap()["ips"] = json!(wanted(1025));
        let text = format!("{place} has 1025 addresses; at most 1024 are allowed");
        refused("ADD", &conf, &text);
        conf.pointer_mut(at).unwrap()["ips"] = json!(wanted(1024));
        let ips = Call::cni("ADD", place, &conf).run().ips();
        let expected: Vec<String> = wanted(1024).iter().map(|a| format!("{a}/24")).collect();
        assert_eq!(ips, expected, "{place}");
        Call::cni("DEL", place, &conf).run().silent();
    }
    let ips = Call::cni("ADD", "a", &conf).run().ips();
    let of_result = |count: usize| {
        let others = (ips.len()..count).map(|n| format!("192.168.{}.{}/16", n / 256, n % 256));
        let all = ips.iter().cloned().chain(others).map(|a| json!({"address": a}));
        json!({"ips": all.collect::<Vec<_>>()})
    };
    conf["prevResult"] = of_result(4096);
    Call::cni("CHECK", "a", &conf).run().silent();
    conf["prevResult"] = of_result(4097);
    refused("CHECK", &conf, "prevResult.ips has 4097 addresses; at most 4096 are allowed");
}

#[test]
fn excluded_addresses() {
    let lab = Lab::new();
    let mut conf = conf(&lab.data_dir(), "10.0.0.0/16");
    // Returns `count` addresses as text. These are every second address from 10.0.0.2 on.
    let every_second = |count: usize| {
        let of = |n: usize| format!("10.0.{}.{}", n / 256, n % 256);
        (1..=count).map(|n| of(2 * n)).collect::<Vec<_>>()
    };
    conf["ipam"]["exclude"] = json!(every_second(4096));
    assert_eq!(Call::cni("ADD", "a", &conf).run().ips(), ["10.0.0.3/16"]);
    assert_eq!(Call::cni("ADD", "b", &conf).run().ips(), ["10.0.0.5/16"]);
    conf["ipam"]["exclude"] = json!(every_second(4097));
    refused("ADD", &conf, "ipam.exclude has 4097 entries; at most 4096 are allowed");
}

/// A GC receives a list of all valid attachments. Even with 200,000 of them, 64 MiB of memory must be enough.
#[test]
fn many_attachments_need_little_memory() {
    let lab = Lab::new();
    let mut conf = conf(&lab.data_dir(), "10.0.0.0/16");
    let id = |n: usize| format!("{n:0>40x}");
    for container in [id(150_000), id(200_000)] {
        Call::cni("ADD", &container, &conf).run().ok();
    }
    conf["cniVersion"] = json!("1.1.0");
    conf["cni.dev/valid-attachments"] = json!([]);
    let attachment = |n| format!(r#"{{"containerID":"{}","ifname":"eth0"}}"#, id(n));
    let all = (0..200_000).map(attachment).collect::<Vec<_>>().join(",");
    let text = conf.to_string().replace("[]", &format!("[{all}]"));
    let gc = Call::cni("GC", "", &Value::Null).stdin(&text);
    gc.under("sh", &["-c", "ulimit -d 65536; exec \"$0\" \"$@\""]).run().silent();
    let left: Vec<Value> = lab.list().iter().map(|row| row["containerID"].clone()).collect();
    assert_eq!(left, [json!(id(150_000))]);
}
