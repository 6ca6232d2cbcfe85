//! Tests subletd with etcd and Consul. Most tests run two daemons that share one store.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::docker::{Daemon, dockerd, subletd, until};
use crate::lab::Call;
use crate::peers::clusters::{self, Server};

const POOL: &str = "/IpamDriver.RequestPool";
const ADDRESS: &str = "/IpamDriver.RequestAddress";
const FREE: &str = "/IpamDriver.ReleaseAddress";
const DROP: &str = "/IpamDriver.ReleasePool";

/// Starts the subletd of one host in the cluster.
fn host(server: &Server, node: &str, more: &[&str]) -> Daemon {
    let spaces = ["--address-spaces", "L,G", "--node", node];
    Daemon::on(Some(&server.store("pools")), &[&spaces, more].concat(), &[])
}

fn call(daemon: &Daemon, path: &str, body: &Value) -> Value {
    let (status, answer) = daemon.call(path, &body.to_string());
    assert!(status == 200, "{path}: {answer}\n{}", daemon.log());
    answer
}

fn address(daemon: &Daemon, pool: &str) -> String {
    let answer = call(daemon, ADDRESS, &json!({"PoolID": pool}));
    answer["Address"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

fn leased(server: &Server) -> Vec<Value> {
    let store = server.store("pools");
    Call::sublet().arg("list").arg("--json").arg("--store").arg(&store).run().rows()
}

fn shared_by_two_hosts(server: &Server) {
    let [one, two] = ["one", "two"].map(|node| host(server, node, &[]));
    let ask = json!({"AddressSpace": "L", "Options": {"network": "kontena"}});
    let pools = [&one, &two].map(|daemon| call(daemon, POOL, &ask));
    assert_eq!(pools[0], pools[1]);
    assert_eq!(pools[0]["Data"]["com.docker.network.gateway"], "10.80.0.1/24");
    let options = json!({"RequestAddressType": "com.docker.network.gateway"});
    for daemon in [&one, &two] {
        let gateway = call(daemon, ADDRESS, &json!({"PoolID": "kontena", "Options": options}));
        assert_eq!(gateway["Address"], "10.80.0.1/24");
    }
    let mut given = Vec::new();
    thread::scope(|scope| {
        let asking: Vec<_> = (0..20)
            .map(|n| {
                let daemon = [&one, &two][n % 2];
                scope.spawn(move || address(daemon, "kontena"))
            })
            .collect();
        given.extend(asking.into_iter().map(|a| a.join().unwrap()));
    });
    assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 20, "{given:?}");
    assert_eq!(leased(server).len(), 21);
    // If one host releases the pool, only the addresses that this host has leased may be freed.
    assert_eq!(call(&one, DROP, &json!({"PoolID": "kontena"})), json!({}));
    let left = leased(server);
    assert!(left.len() == 11 && left.iter().all(|row| row["pool"] == "kontena"), "{left:?}");
    assert_eq!(call(&two, DROP, &json!({"PoolID": "kontena"})), json!({}));
    assert_eq!(leased(server), Vec::<Value>::new());
}

#[test]
fn a_network_of_two_hosts_on_etcd() {
    shared_by_two_hosts(&clusters::etcd());
}

#[test]
fn a_network_of_two_hosts_on_consul() {
    shared_by_two_hosts(&clusters::consul());
}

#[test]
fn automatic_pools_of_two_hosts_never_meet() {
    let server = clusters::etcd();
    let [one, two] = ["one", "two"].map(|node| host(&server, node, &["--v4", "10.80.0.0/16"]));
    // Request a pool in the middle of the supernet. subletd must skip this subnet when it chooses subnets
    // itself.
    call(&one, POOL, &json!({"AddressSpace": "L", "Pool": "10.80.4.0/23"}));
    let mut subnets = BTreeSet::new();
    thread::scope(|scope| {
        let asking: Vec<_> = (0..24)
            .map(|n| {
                let daemon = [&one, &two][n % 2];
                scope.spawn(move || call(daemon, POOL, &json!({"AddressSpace": "L"})))
            })
            .collect();
        for pool in asking {
            let pool = pool.join().unwrap();
            assert!(subnets.insert(pool["Pool"].to_string()), "{pool} twice");
        }
    });
    assert!(!subnets.contains("\"10.80.4.0/24\"") && !subnets.contains("\"10.80.5.0/24\""));
    let clash = call(&two, POOL, &json!({"AddressSpace": "L", "Pool": "10.80.0.0/20"}));
    assert!(clash["Error"].as_str().unwrap().contains("overlaps"), "{clash}");
}

#[test]
fn kontenas_variables_choose_the_cluster_and_the_node() {
    let server = clusters::etcd();
    // kontena-ipam used only the first of several servers. subletd must try the other servers if the first
    // one does not respond.
    let endpoints = format!("http://127.0.0.1:1, http://{}", server.address());
    let env = [("ETCD_ENDPOINT", &*endpoints), ("NODE_ID", "n7"), ("KONTENA_IPAM_SUPERNET", "")];
    let daemon = Daemon::on(Some(""), &[], &env);
    let ask = json!({"Options": {"network": "kontena"}, "Pool": "10.81.0.0/16"});
    call(&daemon, POOL, &ask);
    address(&daemon, "kontena");
    let rows = Call::sublet().arg("list").arg("--json").arg("--store").arg(&server.store("sublet"));
    let rows = rows.run().rows();
    assert!(rows.len() == 2 && rows.iter().all(|row| row["node"] == "n7"), "{rows:?}");
}

#[test]
fn a_cluster_that_hangs_is_an_error_in_time_and_hangs_nothing_else() {
    let server = clusters::etcd();
    let daemon = host(&server, "one", &["--timeout", "2s"]);
    let pool = call(&daemon, POOL, &json!({"AddressSpace": "L"}))["PoolID"].clone();
    let pool = pool.as_str().unwrap();
    let held = address(&daemon, pool);
    server.signal("STOP");
    thread::scope(|scope| {
        let begin = Instant::now();
        let asking: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| daemon.call(ADDRESS, &json!({"PoolID": pool}).to_string())))
            .collect();
        // While these requests wait for the cluster, a request that needs no store must get its response.
        assert_eq!(daemon.call("/Plugin.Activate", "").0, 200);
        assert!(begin.elapsed() < Duration::from_secs(1));
        for asked in asking {
            let (status, answer) = asked.join().unwrap();
            assert_eq!(status, 500, "{answer}");
            assert!(answer["Err"].as_str().unwrap().contains("etcd at"), "{answer}");
        }
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    });
    server.signal("CONT");
    assert_eq!(call(&daemon, FREE, &json!({"PoolID": pool, "Address": "10.80.0.1"})), json!({}));
    assert_eq!(address(&daemon, pool), held);
    assert_eq!(leased(&server).len(), 1);
}

#[test]
fn cleanup_frees_this_hosts_alone() {
    let server = clusters::etcd();
    let [one, two] = ["one", "two"].map(|node| host(&server, node, &[]));
    let ask = json!({"AddressSpace": "L", "Options": {"network": "kontena"}});
    for daemon in [&one, &two] {
        call(daemon, POOL, &ask);
        address(daemon, "kontena");
    }
    // Lease an address in a pool that only node "two" uses. The fake dockerd of node "one" does not list this
    // pool.
    address(&two, call(&two, POOL, &json!({"AddressSpace": "L"}))["PoolID"].as_str().unwrap());
    // Fake a dockerd that has no networks.
    let socket = one.lab.join("docker.sock");
    dockerd(&socket, vec![], false);
    let socket = socket.display().to_string();
    let store = server.store("pools");
    let args =
        ["cleanup", "--store", &store, "--node", "one", "--grace", "0s", "--docker", &socket];
    let args = [&args[..], &["--address-spaces", "L,G"]].concat();
    until("the second to be over", || {
        let output = subletd(&args).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        text.contains("freed pool kontena")
    });
    let left: Vec<_> = leased(&server).iter().map(|row| row["node"].clone()).collect();
    // The gateway must stay as long as the pool exists, whichever host requested it first.
    assert_eq!(left, ["one", "two", "two"], "{left:?}");
}
