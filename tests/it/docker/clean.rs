//! Tests `subletd cleanup` with a fake dockerd. Addresses that dockerd lists must stay leased, and all other
//! addresses must be freed. If dockerd's list is incomplete, nothing may be freed.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::daemon::{Daemon, subletd, until};

/// Runs a fake dockerd until the test ends. It responds to `/networks` and `/networks/ID`. If `broken` is
/// set, it responds to `/networks/ID` with status 500.
pub fn dockerd(socket: &Path, networks: Vec<Value>, broken: bool) {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            while line.trim() != "" {
                line.clear();
                stream.read_line(&mut line).unwrap();
            }
            let one = networks
                .iter()
                .find(|n| path == format!("/networks/{}", n["Id"].as_str().unwrap()));
            let (status, body) = match one {
                _ if path == "/networks" => (200, json!(networks).to_string()),
                Some(_) if broken => (500, "{\"message\":\"no\"}".to_owned()),
                Some(one) => (200, one.to_string()),
                None => (404, "{}".to_owned()),
            };
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.get_mut().write_all(format!("{head}{body}").as_bytes());
        }
    });
}

fn network(id: &str, subnet: &str, addrs: &[&str], scope: &str) -> Value {
    let containers: serde_json::Map<String, Value> = addrs
        .iter()
        .map(|a| ((*a).to_owned(), json!({"IPv4Address": format!("{a}/24"), "IPv6Address": ""})))
        .collect();
    json!({"Id": id, "Scope": scope, "Containers": containers, "IPAM": {"Driver": "sublet", "Options": {},
        "Config": [{"Subnet": subnet, "Gateway": subnet.replace(".0/24", ".1"),
            "AuxiliaryAddresses": {"a": subnet.replace(".0/24", ".99")}}]}})
}

struct Stage {
    daemon: Daemon,
}

impl Stage {
    /// Makes three pools. Each pool has a gateway, an auxiliary address and two other addresses.
    fn new(args: &[&str]) -> Stage {
        let daemon = Daemon::with(&[&["--address-spaces", "L,G"], args].concat(), &[]);
        let mut client = daemon.client();
        for (space, third) in [("L", 1), ("L", 2), ("L", 3), ("G", 4)] {
            let body =
                json!({"AddressSpace": space, "Pool": format!("10.0.{third}.0/24")}).to_string();
            let id = client.call("/IpamDriver.RequestPool", &body).1["PoolID"].clone();
            for (last, options) in [
                (1, json!({"RequestAddressType": "com.docker.network.gateway"})),
                (99, Value::Null),
                (5, Value::Null),
                (6, Value::Null),
            ] {
                let address = format!("10.0.{third}.{last}");
                let body =
                    json!({"PoolID": id, "Address": address, "Options": options}).to_string();
                assert_eq!(client.call("/IpamDriver.RequestAddress", &body).0, 200);
            }
        }
        Stage { daemon }
    }

    fn cleanup(&self, socket: &Path, more: &[&str]) -> (bool, String) {
        let grace = if more.contains(&"--grace") { &[][..] } else { &["--grace", "0s"] };
        let output = subletd(&["cleanup", "--address-spaces", "L,G"])
            .args(grace)
            .args(more)
            .arg("--docker")
            .arg(socket)
            .arg("--store")
            .arg(self.daemon.store())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    }

    /// Waits until the leases are old enough to be freed. Cleanup keeps leases that were made in the same
    /// second in which it starts.
    fn grow_old() {
        let begin = sublet::sys::host::now();
        until("a second", || sublet::sys::host::now() > begin);
    }
}

#[test]
fn frees_what_dockerd_does_not_know() {
    let stage = Stage::new(&[]);
    Stage::grow_old();
    let socket = stage.daemon.lab.join("docker.sock");
    // The first pool's network has one container, the second pool's network belongs to a swarm, and the third
    // pool's network no longer exists.
    let one = network("n1", "10.0.1.0/24", &["10.0.1.5"], "local");
    let two = network("n2", "10.0.2.0/24", &[], "swarm");
    dockerd(&socket, vec![one, two], false);
    let before = stage.daemon.leases();
    assert_eq!(before.len(), 16);
    let (done, text) = stage.cleanup(&socket, &["--dry-run"]);
    assert!(
        done && text.contains("would free addresses of pool L/10.0.1.0/24 (10.0.1.6)"),
        "{text}"
    );
    assert!(text.contains("would free pool L/10.0.3.0/24"), "{text}");
    assert_eq!(stage.daemon.leases(), before);
    let (done, text) = stage.cleanup(&socket, &["--grace", "1h"]);
    assert!(done && text == "nothing to do\n", "{text}");
    assert!(stage.cleanup(&socket, &[]).0);
    let left = stage.daemon.leases();
    assert_eq!(left.len(), 11, "{left:?}");
    for kept in ["10.0.1.1", "10.0.1.99", "10.0.1.5", "10.0.2.6", "10.0.4.6"] {
        assert!(left.contains(&kept.to_owned()), "{kept} is gone");
    }
    assert_eq!(stage.cleanup(&socket, &[]).1, "nothing to do\n");
    // The pool was freed, so its subnet can be requested again.
    let body = r#"{"AddressSpace":"L","Pool":"10.0.3.0/24"}"#;
    assert!(stage.daemon.call("/IpamDriver.RequestPool", body).1["PoolID"].is_string());
}

/// An address that dockerd no longer lists must stay leased for a while, because its release may still
/// arrive. If cleanup freed the address at once, another container could get it, and the late release would
/// free the new lease.
#[test]
fn frees_nothing_while_a_release_may_be_under_way() {
    let stage = Stage::new(&[]);
    let socket = stage.daemon.lab.join("docker.sock");
    dockerd(&socket, vec![network("n1", "10.0.1.0/24", &["10.0.1.5"], "local")], false);
    let begin = Instant::now();
    let is_later = |seconds| begin.elapsed() > Duration::from_secs(seconds);
    until("leases older than the grace period", || is_later(3));
    thread::scope(|scope| {
        let cleanup = scope.spawn(|| stage.cleanup(&socket, &["--grace", "2s"]));
        until("a listing", || is_later(4));
        assert!(!cleanup.is_finished());
        assert!(stage.daemon.leases().contains(&"10.0.1.6".to_owned()), "it was freed at once");
        let (done, text) = cleanup.join().unwrap();
        assert!(done && text.contains("10.0.1.6"), "{text}");
    });
    assert!(!stage.daemon.leases().contains(&"10.0.1.6".to_owned()));
}

#[test]
fn frees_nothing_on_half_a_listing() {
    let stage = Stage::new(&[]);
    Stage::grow_old();
    let before = stage.daemon.leases();
    let missing = stage.daemon.lab.join("no.sock");
    let (done, text) = stage.cleanup(&missing, &[]);
    assert!(!done && text.contains("nothing was freed"), "{text}");
    let broken = stage.daemon.lab.join("broken.sock");
    dockerd(&broken, vec![network("n1", "10.0.1.0/24", &[], "local")], true);
    let (done, text) = stage.cleanup(&broken, &[]);
    assert!(!done && text.contains("has status 500"), "{text}");
    let odd = stage.daemon.lab.join("odd.sock");
    dockerd(&odd, vec![network("n1", "somewhere", &[], "local")], false);
    let (done, text) = stage.cleanup(&odd, &[]);
    assert!(!done && text.contains("somewhere"), "{text}");
    assert_eq!(stage.daemon.leases(), before);
}

/// dockerd 26 and later list the subnet that a network requested (here 0.0.0.0/24, any /24) instead of the
/// allocated subnet. Cleanup must still keep the pool that the network uses.
#[test]
fn a_network_that_asked_for_any_block_keeps_its_pool() {
    let any = |addrs: &[&str]| {
        let mut network = network("n1", "10.0.1.0/24", addrs, "local");
        network["IPAM"]["Config"] = json!([{"Subnet": "0.0.0.0/24"}]);
        network
    };
    let unlisted = |addrs: &[&str]| {
        let mut network = any(addrs);
        network["IPAM"]["Config"] = Value::Null;
        network
    };
    let of_pool = |stage: &Stage, third: u8| {
        let start = format!("10.0.{third}.");
        stage.daemon.leases().iter().filter(|addr| addr.starts_with(&start)).count()
    };
    for (networks, left) in [
        // The network has no addresses that show which pool it uses, so all pools stay.
        (vec![any(&[])], [4, 4, 4]),
        (vec![unlisted(&[])], [4, 4, 4]),
        // The address of a container shows which pool the network uses. Only this address and the gateway of
        // that pool stay.
        (vec![any(&["10.0.2.5"])], [0, 2, 0]),
        (vec![unlisted(&["10.0.2.5"])], [0, 2, 0]),
        // dockerd does not list the allocated subnets of these two networks. The address of one network shows
        // which pool it uses. The other network may use any of the remaining pools, so these stay.
        (
            vec![
                any(&["10.0.2.5"]),
                json!({"Id": "n2", "Scope": "local", "IPAM": {"Driver": "sublet",
            "Config": [{"Subnet": "0.0.0.0/24"}]}}),
            ],
            [4, 2, 4],
        ),
        // These networks requested subnets of a different size or family, so they use none of the pools.
        (
            vec![json!({"Id": "n2", "Scope": "local", "IPAM": {"Driver": "sublet",
            "Config": [{"Subnet": "0.0.0.0/20"}, {"Subnet": "::/24"}]}})],
            [0, 0, 0],
        ),
    ] {
        let stage = Stage::new(&[]);
        Stage::grow_old();
        let socket = stage.daemon.lab.join("docker.sock");
        dockerd(&socket, networks.clone(), false);
        let (done, text) = stage.cleanup(&socket, &[]);
        assert!(done, "{text}");
        assert_eq!([1, 2, 3].map(|third| of_pool(&stage, third)), left, "{networks:?}: {text}");
    }
}

/// gipam ignored the subnet that a network requested and allocated its own next free block instead, but
/// dockerd lists the requested subnet. Cleanup must still keep the pool that the network uses.
#[test]
fn a_network_of_gipams_keeps_its_pool() {
    let file = json!({"v4": "192.168.0.0/16", "v4ab": 24, "v6": "2001:db8::/56", "v6ab": 64, "allocated": [
        {"id": "p1", "v": 4, "pool": "192.168.0.0/24",
         "allocated": ["192.168.0.3", "192.168.0.1", "192.168.0.2"]},
        {"id": "p2", "v": 4, "pool": "192.168.1.0/24", "allocated": ["192.168.1.1", "192.168.1.2"]},
        {"id": "p6", "v": 6, "pool": "2001:db8::/64", "allocated": ["2001:db8::1", "2001:db8::2"]},
    ]});
    let network = |config: Value, options: Value, addrs: &[&str]| {
        let mut network = network("n1", "10.9.0.0/24", addrs, "local");
        network["IPAM"] = json!({"Driver": "gipam", "Options": options, "Config": config});
        network
    };
    let asked = || json!([{"Subnet": "10.9.0.0/24"}]);
    for (networks, left) in [
        // The network has no addresses that show which IPv4 pool it uses, so all IPv4 pools stay.
        (vec![network(asked(), Value::Null, &[])], [3, 2, 0]),
        // The address of a container shows which pool the network uses. Only this address and the gateway of
        // that pool stay.
        (vec![network(asked(), Value::Null, &["192.168.0.2"])], [2, 0, 0]),
        (vec![network(asked(), json!({"network": "web"}), &["192.168.0.2"])], [2, 0, 0]),
        // The requested subnet happens to be the same as another pool's block. This must not protect that
        // pool.
        (
            vec![network(json!([{"Subnet": "192.168.1.0/24"}]), Value::Null, &["192.168.0.2"])],
            [2, 0, 0],
        ),
        // The network did not request an IPv6 subnet, so dockerd lists the IPv6 subnet that gipam allocated.
        (
            vec![network(
                json!([{"Subnet": "10.9.0.0/24"},
                    {"Subnet": "2001:db8::/64", "Gateway": "2001:db8::1"}]),
                Value::Null,
                &[],
            )],
            [3, 2, 1],
        ),
        (vec![], [0, 0, 0]),
    ] {
        let daemon = Daemon::with(&["--address-spaces", "L,G"], &[]);
        let path = daemon.lab.join("leases.json");
        std::fs::write(&path, file.to_string()).unwrap();
        let (path, store) = (path.display().to_string(), daemon.store().display().to_string());
        let import = ["import", "gipam", &path, "--address-space", "L", "--store", &store];
        assert!(crate::lab::Call::sublet().args(&import).run().succeeded());
        Stage::grow_old();
        let socket = daemon.lab.join("docker.sock");
        dockerd(&socket, networks.clone(), false);
        let stage = Stage { daemon };
        let (done, text) = stage.cleanup(&socket, &[]);
        assert!(done, "{text}");
        let leases = stage.daemon.leases();
        let count = |start: &str| leases.iter().filter(|addr| addr.starts_with(start)).count();
        assert_eq!(["192.168.0.", "192.168.1.", "2001:"].map(count), left, "{networks:?}: {text}");
    }
}

/// Networks may have been removed while subletd was not running. When dockerd activates the plugin after
/// subletd has restarted, subletd must therefore clean up once.
#[test]
fn once_after_an_activation() {
    for (addrs, left) in [(&["10.0.1.5"][..], 7), (&[], 16)] {
        let lab = crate::lab::Lab::new();
        let path = lab.join("docker.sock");
        // If none of dockerd's networks use a pool of this store, this may be the wrong dockerd. In that
        // case, nothing may be freed.
        let networks = addrs.iter().map(|addr| network("n1", "10.0.1.0/24", &[addr], "local"));
        dockerd(&path, networks.collect(), false);
        let docker = path.display().to_string();
        let stage = Stage::new(&["--grace", "0s", "--docker", &docker]);
        Stage::grow_old();
        stage.daemon.call("/Plugin.Activate", "");
        until("cleanup", || stage.daemon.log().contains("cleanup: "));
        assert_eq!(stage.daemon.leases().len(), left, "{}", stage.daemon.log());
    }
}

/// Cleanup must free only leases of the node on which it runs.
#[test]
fn frees_nothing_of_another_node() {
    let stage = Stage::new(&[]);
    Stage::grow_old();
    let socket = stage.daemon.lab.join("docker.sock");
    dockerd(&socket, vec![network("n1", "10.0.1.0/24", &[], "local")], false);
    let before = stage.daemon.leases();
    let output = subletd(&["cleanup", "--address-spaces", "L,G", "--grace", "0s", "--dry-run"])
        .env("NODE_ID", "somebody-else")
        .arg("--docker")
        .arg(&socket)
        .arg("--store")
        .arg(stage.daemon.store())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !text.contains("10.0.1.5"), "{text}");
    assert_eq!(stage.daemon.leases(), before);
}

#[test]
fn by_the_clock() {
    let socket = crate::lab::Lab::new();
    let path = socket.join("docker.sock");
    dockerd(&path, vec![], false);
    let docker = path.display().to_string();
    let args = ["--cleanup-every", "200ms", "--grace", "0s", "--docker", &docker];
    let stage = Stage::new(&args);
    until("cleanup", || stage.daemon.leases().len() == 4);
    assert!(stage.daemon.leases().iter().all(|a| a.starts_with("10.0.4.")));
}

/// Tests that need ping.
mod peers {
    use super::*;

    /// With `--probe`, an address that responds to a ping must stay leased, even if dockerd does not list it.
    #[test]
    fn spares_what_answers() {
        let daemon = Daemon::with(&["--address-spaces", "L,G"], &[]);
        let mut client = daemon.client();
        client.call("/IpamDriver.RequestPool", r#"{"AddressSpace":"L","Pool":"127.0.0.0/8"}"#);
        let body = r#"{"PoolID":"L/127.0.0.0/8","Address":"127.0.0.1"}"#;
        assert_eq!(client.call("/IpamDriver.RequestAddress", body).0, 200);
        let stage = Stage { daemon };
        Stage::grow_old();
        let socket = stage.daemon.lab.join("docker.sock");
        dockerd(&socket, vec![], false);
        let (done, text) = stage.cleanup(&socket, &["--probe"]);
        assert!(done && text == "nothing to do\n", "{text}");
        assert_eq!(stage.daemon.leases(), ["127.0.0.1"]);
        assert!(stage.cleanup(&socket, &[]).1.contains("freed pool"));
    }
}
