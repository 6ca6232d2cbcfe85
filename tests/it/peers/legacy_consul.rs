//! Tests that sublet continues with the data that cni-ipam-consul or kontena-ipam has stored on a server.

use serde_json::{Value, json};
use std::fmt::Write as _;

use crate::docker::{Daemon, until};
use crate::lab::Call;
use crate::peers::clusters::{self, Server};

/// Returns the configuration from the README of cni-ipam-consul, with the address of the test's server.
fn conf(server: &Server) -> Value {
    let text = include_str!("../../../testdata/consul/default.json");
    let mut conf: Value = serde_json::from_str(text).unwrap();
    let (host, port) =
        server.address().split_once(':').map(|(h, p)| (h.to_owned(), p.to_owned())).unwrap();
    conf["ipam"]["consul_addr"] = json!(host);
    conf["ipam"]["consul_port"] = json!(port);
    conf
}

/// Writes a lease of cni-ipam-consul for the address 203.0.113.`last`.
pub fn lease(server: &Server, network: &str, last: u8) {
    let ip = format!("203.0.113.{last}");
    let value = json!({"ip": ip, "mac": "00:00:00:00:00:00", "id": format!("old-{last}")});
    assert_eq!(server.http("PUT", &format!("/v1/kv/{network}/{ip}"), &value.to_string()).0, 200);
}

fn leases(server: &Server) -> Vec<Value> {
    let store = server.store("sublet");
    Call::sublet().arg("list").arg("--json").arg("--store").arg(&store).run().rows()
}

/// Calls the plugin on a node. The call must succeed.
fn plugin(node: &str, command: &str, container: &str, conf: &Value) -> String {
    let answer = Call::cni(command, container, conf).env("NODE_ID", node).run();
    answer.check(answer.succeeded(), command);
    answer.stdout
}

/// Calls the plugin. The call must be refused, because the network has not been imported yet.
fn refused(command: &str, container: &str, conf: &Value) {
    let answer = Call::cni(command, container, conf).env("NODE_ID", "a").run();
    let (code, msg) = answer.error();
    answer.check(code == 11 && msg.contains("sublet import consul default"), command);
}

fn import(server: &Server, more: &[&str]) -> String {
    let store = server.store("sublet");
    let call = ["import", "consul", "default", "--store", &store];
    let answer = Call::sublet().args(&[&call[..], more].concat()).run();
    answer.check(answer.succeeded(), "import");
    answer.stdout
}

#[test]
fn consuls_old_leases_are_imported_before_the_first_add() {
    let server = clusters::consul();
    let network =
        json!({"gw": "", "net": "203.0.113.0/24", "start": "", "end": "", "routes": null});
    server.http("PUT", "/v1/kv/default", &network.to_string());
    for last in 2..=250 {
        lease(&server, "default", last);
    }
    lease(&server, "default2", 251);
    let conf = conf(&server);
    refused("ADD", "new", &conf);
    refused("DEL", "old-7", &conf);
    plugin("b", "DEL", "unknown", &conf);
    assert_eq!(leases(&server).len(), 0);
    import(&server, &[]);
    let added = plugin("a", "ADD", "new", &conf);
    assert!(["251", "252", "253", "254"].iter().any(|n| added.contains(&format!("113.{n}/24"))));
    assert_eq!(leases(&server).len(), 250);
    // The DEL runs on node b, but the ADD ran on another node. The DEL must still free the lease.
    plugin("b", "DEL", "old-7", &conf);
    plugin("b", "DEL", "old-7", &conf);
    plugin("a", "DEL", "new", &conf);
    assert_eq!(leases(&server).len(), 248);
    // The keys of cni-ipam-consul must stay, so that an operator can return to it.
    let (_, keys) = server.http("GET", "/v1/kv/default/?keys", "");
    assert_eq!(keys.matches("203.0.113.").count(), 249);
}

#[test]
fn an_import_is_done_once() {
    let server = clusters::consul();
    lease(&server, "default", 2);
    lease(&server, "default", 3);
    let import = |more| import(&server, more);
    assert!(import(&["--dry-run"]).contains("2 addresses would be imported"));
    assert_eq!(leases(&server).len(), 0);
    assert!(import(&[]).contains("2 addresses imported"));
    assert!(import(&[]).contains("already imported"));
    assert_eq!(leases(&server).len(), 2);
    let etcd = clusters::etcd();
    let wrong = ["import", "consul", "default", "--store", &etcd.store("sublet")];
    let wrong = Call::sublet().args(&wrong).run();
    wrong.check(
        wrong.code == Some(1) && wrong.stderr.contains("cni-ipam-consul stores leases in Consul"),
        "etcd",
    );
}

/// Writes a key of kontena-ipam, in the form in which kontena-ipam writes it.
fn put(server: &Server, key: &str, value: &Value) {
    let mut escaped = String::new();
    for byte in value.to_string().bytes() {
        write!(escaped, "%{byte:02X}").unwrap();
    }
    let path = format!("/v2/keys/kontena/ipam/{key}");
    assert_eq!(server.http("PUT", &path, &format!("value={escaped}")).0, 201, "{key}");
}

/// Writes kontena-ipam's records: a pool with three addresses that two nodes use, and a subnet that belongs
/// to no pool.
pub fn kontena(server: &Server) {
    let put = |key: &str, value: &Value| put(server, key, value);
    put("subnets/10.81.0.0", &json!({"address": "10.81.0.0/16"}));
    put("subnets/10.83.0.0", &json!({"address": "10.83.0.0/24"}));
    let pool =
        json!({"subnet": "10.81.0.0/16", "iprange": "10.81.130.0/17", "gateway": "10.81.0.1/16"});
    put("pools/kontena", &pool);
    for node in ["n1", "n2"] {
        put(&format!("pool-nodes/kontena/{node}"), &json!({}));
    }
    for (ip, node) in [("10.81.0.1", "n1"), ("10.81.128.0", "n1"), ("10.81.128.7", "n2")] {
        let value = json!({"address": format!("{ip}/16"), "node": node});
        put(&format!("addresses/kontena/{ip}"), &value);
    }
}

#[test]
fn kontenas_networks_go_on() {
    let server = clusters::etcd();
    kontena(&server);
    let store = server.store("sublet");
    let import = |more: &[&str]| {
        let answer =
            Call::sublet().args(&["import", "kontena", "--store", &store]).args(more).run();
        answer.check(answer.succeeded(), "import");
        (answer.stdout, answer.stderr)
    };
    let (told, left) = import(&["--dry-run"]);
    assert_eq!(told, "pool kontena (10.81.0.0/16): 3 addresses would be imported\n");
    assert_eq!(left, "subnet 10.83.0.0/24 left out: no pool uses this subnet\n");
    assert_eq!(leases(&server).len(), 0);
    assert_eq!(import(&[]).0, "pool kontena (10.81.0.0/16): 3 addresses imported\n");
    let before = leases(&server);
    assert_eq!(import(&[]).0, "/kontena/ipam: already imported; nothing was changed\n");
    assert_eq!(leases(&server), before);

    // dockerd must be able to use the pool's former ID. In kontena-ipam, this ID is the name of the pool.
    let endpoint = format!("http://{}", server.address());
    let env = [("ETCD_ENDPOINT", &*endpoint), ("NODE_ID", "n1")];
    let daemon = Daemon::on(Some(""), &["--address-spaces", "kontenalocal,kontenaglobal"], &env);
    let call = |path: &str, body: Value| {
        let (status, answer) = daemon.call(&format!("/IpamDriver.{path}"), &body.to_string());
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let got = call("RequestAddress", json!({"PoolID": "kontena"}));
    assert_eq!(got["Address"], "10.81.128.1/16");
    call("ReleaseAddress", json!({"PoolID": "kontena", "Address": "10.81.128.0"}));
    let joined = call("RequestPool", json!({"Options": {"network": "kontena"}}));
    assert_eq!(joined["Data"]["com.docker.network.gateway"], "10.81.0.1/16");
    // By now, n1 has requested the pool twice. After n1 has also released it twice, n2's addresses must
    // remain.
    call("ReleasePool", json!({"PoolID": "kontena"}));
    call("ReleasePool", json!({"PoolID": "kontena"}));
    until("n2's alone", || {
        let nodes: Vec<Value> = leases(&server).iter().map(|l| l["address"].clone()).collect();
        nodes == [json!("10.81.0.1"), json!("10.81.128.7")]
    });
}

/// Early versions of kontena-ipam recorded neither the hosts that use a pool nor the address of its gateway.
/// The pool must therefore stay after all recorded hosts have released it, because another host may use it.
#[test]
fn a_pool_of_kontenas_without_recorded_hosts_stays() {
    let server = clusters::etcd();
    put(&server, "pools/web", &json!({"subnet": "10.81.0.0/24", "gateway": "10.81.0.1/24"}));
    for (address, node) in
        [("10.81.0.9", Some("n1")), ("10.81.0.10", Some("n2")), ("10.81.0.11", None)]
    {
        let mut value = json!({"address": format!("{address}/24")});
        if let Some(node) = node {
            value["node"] = json!(node);
        }
        put(&server, &format!("addresses/web/{address}"), &value);
    }
    let store = server.store("sublet");
    let run = |args: &[&str]| {
        let answer = Call::sublet().args(args).args(&["--store", &store]).run();
        answer.check(answer.succeeded(), args[0]);
        answer
    };
    assert!(run(&["import", "kontena"]).stderr.contains("sublet node release kontena-ipam"));
    let endpoint = format!("http://{}", server.address());
    let on = |node: &str, method: &str, address: &str| {
        let env = [("ETCD_ENDPOINT", &*endpoint), ("NODE_ID", node)];
        let spaces = ["--address-spaces", "kontenalocal,kontenaglobal"];
        let body = json!({"PoolID": "web", "Address": address}).to_string();
        let daemon = Daemon::on(Some(""), &spaces, &env);
        let (status, answer) = daemon.call(&format!("/IpamDriver.{method}"), &body);
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let left = || -> Vec<Value> { leases(&server).iter().map(|l| l["address"].clone()).collect() };
    // The address of the gateway must not be leased to a container.
    assert_eq!(on("n1", "RequestAddress", "")["Address"], "10.81.0.2/24");
    on("n1", "ReleasePool", "");
    assert_eq!(left(), ["10.81.0.1", "10.81.0.10", "10.81.0.11"]);
    on("n2", "ReleasePool", "");
    assert_eq!(left(), ["10.81.0.1", "10.81.0.11"]);
    // During the whole test, host n3 has had a network with the pool. kontena-ipam did not record this host.
    assert_eq!(on("n3", "RequestAddress", "")["Address"], "10.81.0.2/24");
    on("n3", "ReleaseAddress", "10.81.0.2");
    on("n3", "ReleasePool", "");
    assert_eq!(left(), ["10.81.0.1", "10.81.0.11"]);
    run(&["node", "release", "kontena-ipam", "--yes"]);
    assert_eq!(leases(&server).len(), 0);
}
