//! Tests CNI 1.1.0 with a main plugin that passes every command on to its IPAM plugin. Debian's main plugins
//! cannot be used, because they support only versions up to 1.0.0.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::lab::{Call, Lab, SUBLET, addresses, by_attachment};

/// The program of `examples/delegate.rs`, which cargo builds together with the tests.
pub fn delegate() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_sublet")).parent().unwrap();
    let path = folder.join("examples/delegate");
    assert!(path.is_file(), "{} is missing: run `cargo build --example delegate`", path.display());
    path
}

struct Network {
    lab: Lab,
    conf: Value,
}

impl Network {
    fn new() -> Network {
        let lab = Lab::new();
        fs::create_dir(lab.join("cni")).unwrap();
        symlink(SUBLET, lab.join("cni/sublet")).unwrap();
        let conf = json!({
            "cniVersion": "1.1.0",
            "name": "mynet",
            "type": "delegate",
            "ipam": {
                "type": "sublet",
                "ranges": [[{"subnet": "10.1.2.0/29"}], [{"subnet": "2001:db8:1::/64"}]],
                "dataDir": lab.data_dir()
            }
        });
        Network { lab, conf }
    }

    fn call(&self, command: &str, container: &str, conf: &Value) -> Call {
        Call::cni(command, container, conf)
            .program(delegate().to_str().unwrap())
            .env("CNI_PATH", self.lab.join("cni").to_str().unwrap())
    }

    fn holders(&self) -> Vec<String> {
        by_attachment(&self.lab.list()).into_keys().collect()
    }
}

#[test]
fn add_check_del() {
    let network = Network::new();
    let result = network.call("ADD", "a", &network.conf).run().ok();
    assert_eq!(result["cniVersion"], "1.1.0");
    assert_eq!(addresses(&result), ["10.1.2.2", "2001:db8:1::2"]);
    let mut conf = network.conf.clone();
    conf["prevResult"] = result;
    network.call("CHECK", "a", &conf).run().silent();
    network.call("DEL", "a", &conf).run().silent();
    assert_eq!(network.lab.list(), Vec::<Value>::new());
}

#[test]
fn gc_frees_what_is_not_named() {
    let network = Network::new();
    for container in ["a", "b", "c"] {
        network.call("ADD", container, &network.conf).run().ok();
    }
    // Pass the list of valid attachments under both names of its key, as libcni does.
    let valid = json!([{"containerID": "b", "ifname": "eth0"}]);
    let mut conf = network.conf.clone();
    conf["cni.dev/valid-attachments"] = valid.clone();
    conf["cni.dev/attachments"] = valid;
    network.call("GC", "", &conf).run().silent();
    assert_eq!(network.holders(), ["b/eth0"]);
    // If a main plugin parses the configuration and writes it again, it may drop an empty list. A GC without
    // the list must free nothing.
    let (code, _) = network.call("GC", "", &network.conf).run().error();
    assert_eq!(code, 7);
    assert_eq!(network.holders(), ["b/eth0"]);
    conf["cni.dev/valid-attachments"] = Value::Null;
    conf["cni.dev/attachments"] = Value::Null;
    network.call("GC", "", &conf).run().silent();
    assert_eq!(network.holders(), Vec::<String>::new());
}

#[test]
fn status_tells_an_exhausted_range() {
    let mut network = Network::new();
    network.conf["ipam"]["statusWhenFull"] = "fail".into();
    network.call("STATUS", "", &network.conf).run().silent();
    for n in 0..5 {
        let container = format!("c{n}");
        network.call("STATUS", "", &network.conf).run().silent();
        network.call("ADD", &container, &network.conf).run().ok();
    }
    let (code, msg) = network.call("STATUS", "", &network.conf).run().error();
    assert_eq!(code, 50, "{msg}");
    assert!(msg.contains("10.1.2.1-10.1.2.6"), "which range? {msg}");
    let (code, _) = network.call("ADD", "c5", &network.conf).run().error();
    assert_eq!(code, 100);
    network.call("DEL", "c2", &network.conf).run().silent();
    network.call("STATUS", "", &network.conf).run().silent();
}
