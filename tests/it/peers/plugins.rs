//! Tests Debian's main plugins (such as bridge) on real interfaces, with sublet as their IPAM plugin. The
//! test calls the plugins as libcni does: it chains them with another plugin, checks and deletes containers,
//! and undoes an ADD if a later plugin fails. Debian's plugins do not support CNI 1.1.0, so the tests of this
//! version use `examples/delegate.rs`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::{Value, json};

use crate::delegate::delegate;
use crate::lab::{Lab, SUBLET, addresses, by_attachment};
use crate::peers::host::Host;
use crate::peers::libcni::{List, Runtime};

const DEBIAN: &str = "/usr/lib/cni";

/// A chained plugin whose ADD fails and whose DEL does nothing.
const BROKEN: &str = r#"#!/bin/sh
cat > /dev/null
[ "$CNI_COMMAND" != ADD ] || { echo '{"code": 120, "msg": "broken on purpose"}'; exit 1; }
"#;

/// Makes a folder for `CNI_PATH` with all plugins that these tests use. Returns its path.
fn plugins(lab: &Lab) -> String {
    let folder = lab.join("cni");
    fs::create_dir(&folder).unwrap();
    for plugin in ["bridge", "ptp", "macvlan", "ipvlan", "tuning"] {
        let program = Path::new(DEBIAN).join(plugin);
        assert!(
            program.is_file(),
            "{} is missing: install it as root with `apt-get install containernetworking-plugins`",
            program.display()
        );
        symlink(program, folder.join(plugin)).unwrap();
    }
    symlink(SUBLET, folder.join("sublet")).unwrap();
    symlink(delegate(), folder.join("delegate")).unwrap();
    fs::write(folder.join("broken"), BROKEN).unwrap();
    fs::set_permissions(folder.join("broken"), fs::Permissions::from_mode(0o755)).unwrap();
    folder.display().to_string()
}

/// Makes a list of two plugins: a main plugin that uses sublet as its IPAM plugin, and the plugin `chained`.
fn list(lab: &Lab, cni_version: &'static str, main: &Value, chained: Value) -> List {
    let mut main = main.clone();
    main["ipam"] = json!({
        "type": "sublet",
        "ranges": [[{"subnet": "10.33.0.0/24"}], [{"subnet": "fd33::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        "dataDir": lab.data_dir()
    });
    let path = lab.join("cni").display().to_string();
    List { cni_version, name: "chain", plugins: vec![main, chained], path }
}

const VERSIONS: [&str; 3] = ["0.3.1", "0.4.0", "1.0.0"];

#[test]
fn bridge() {
    through(&json!({"type": "bridge", "bridge": "br0", "isGateway": true}));
}

#[test]
fn ptp() {
    through(&json!({"type": "ptp"}));
}

#[test]
fn macvlan() {
    through(&json!({"type": "macvlan", "master": "uplink", "mode": "bridge"}));
}

/// Some kernels do not support ipvlan. On such a kernel, the test checks only that a failed ADD leaves no
/// lease and no interface behind.
#[test]
fn ipvlan_or_its_absence() {
    let conf = json!({"type": "ipvlan", "master": "uplink"});
    let (lab, host) = (Lab::new(), Host::new(&["a"]));
    host.uplink("uplink");
    plugins(&lab);
    let words = ["sh", "-c", "ip link add link uplink name probe type ipvlan 2>&1 || true"];
    let refusal = host.must(&words);
    if refusal.is_empty() {
        return through(&conf);
    }
    for version in VERSIONS {
        let mut runtime =
            Runtime::new(&host, list(&lab, version, &conf, json!({"type": "tuning"})));
        runtime.attach("a").error();
        assert_eq!((lab.list(), host.links("a")), (vec![], vec![]), "{version}");
    }
}

/// Runs two containers with a main plugin and the chained plugin `tuning`, in every version that Debian's
/// plugins support.
fn through(main: &Value) {
    let host = Host::new(&["a", "b"]);
    host.uplink("uplink");
    let lab = Lab::new();
    plugins(&lab);
    for version in VERSIONS {
        let chained = json!({"type": "tuning", "mtu": 1400});
        let mut runtime = Runtime::new(&host, list(&lab, version, main, chained));
        let results = ["a", "b"].map(|c| runtime.attach(c).ok());
        let got = by_attachment(&lab.list());
        assert_eq!(got.values().map(Vec::len).collect::<Vec<_>>(), [2, 2], "{version}: {got:?}");
        for ((container, other), result) in [("a", "b"), ("b", "a")].into_iter().zip(&results) {
            assert_eq!(got[&format!("{container}/eth0")], addresses(result), "{version}");
            for address in addresses(result) {
                host.ping(other, &address);
            }
            if runtime.since("0.4.0") {
                runtime.check(container).silent();
            }
        }
        runtime.del("a");
        // Run DEL again. The runtime no longer has the ADD's result to pass on.
        runtime.del("a");
        let left = by_attachment(&lab.list());
        assert_eq!(left.keys().collect::<Vec<_>>(), ["b/eth0"], "{version}");
        assert_eq!(host.links("a"), Vec::<String>::new(), "{version}");
        // CHECK must report a missing lease.
        if runtime.since("0.4.0") {
            runtime.list.plugins.truncate(1);
            lab.release(&left["b/eth0"][0]);
            let (code, msg) = runtime.check("b").error();
            assert_eq!(code, 103, "{version}: {msg}");
        }
        runtime.del("b");
        assert_eq!((lab.list(), host.links("b")), (vec![], vec![]), "{version}");
        failing(&host, &lab, version, main);
    }
}

/// When a chained plugin fails, the addresses have already been leased. They must be free after the runtime
/// has run DEL.
fn failing(host: &Host, lab: &Lab, version: &'static str, main: &Value) {
    let broken = json!({"type": "broken"});
    let mut runtime = Runtime::new(host, list(lab, version, main, broken));
    let (code, msg) = runtime.add("a").error();
    assert_eq!((code, msg.as_str()), (120, "broken on purpose"), "{version}");
    assert_eq!(lab.list().len(), 2, "{version}: not leased before the failure");
    runtime.del("a");
    runtime.attach("b").error();
    assert_eq!((lab.list(), host.links("b")), (vec![], vec![]), "{version}");
}

#[test]
fn version_1_1_0_with_gc_and_status() {
    let host = Host::new(&["a", "b", "c", "d"]);
    let lab = Lab::new();
    plugins(&lab);
    let main = json!({"type": "delegate"});
    let mut small = list(&lab, "1.1.0", &main, Value::Null);
    small.plugins.pop();
    small.plugins[0]["ipam"]["ranges"][0] = json!([{"subnet": "10.33.0.0/29"}]);
    small.plugins[0]["ipam"]["statusWhenFull"] = json!("fail");
    let mut runtime = Runtime::new(&host, small);
    let held = || by_attachment(&lab.list()).into_keys().collect::<Vec<_>>();
    for container in ["a", "b", "c", "d", "e"] {
        runtime.status().silent();
        let result = runtime.attach(container).ok();
        assert_eq!(result["cniVersion"], "1.1.0");
        runtime.check(container).silent();
    }
    assert_eq!(runtime.status().error().0, 50);
    assert_eq!(runtime.attach("f").error().0, 100);
    // The runtime has cached the result of "b", so it sends a DEL for "b". It has lost the result of "c", so
    // only the GC can free the lease of "c".
    runtime.forget("c");
    runtime.gc(&["a", "d", "e"]);
    assert_eq!(held(), ["a/eth0", "d/eth0", "e/eth0"]);
    runtime.status().silent();
    runtime.gc(&[]);
    assert_eq!(held(), Vec::<String>::new());
    failing(&host, &lab, "1.1.0", &main);
}
