//! Tests the rules of Docker's IPAM protocol, as observed with dockerd 20.10 and 29. The name of each test
//! contains the number of its rule.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sublet::alloc::{Command, Outcome, ReleaseAddress};
use sublet::docker::{Driver, Undo, handle};
use sublet::model::Wait;
use sublet::net::{Addr, Span};
use sublet::store::lock_file;
use sublet::sys::host;

use super::daemon::{Client, Daemon, a_pool, exists, subletd, until};
use super::story::Pure;

const POOL: &str = "/IpamDriver.RequestPool";
const ADDRESS: &str = "/IpamDriver.RequestAddress";

fn request(pool: &str) -> String {
    json!({"PoolID": pool, "Address": "", "Options": null}).to_string()
}

#[test]
fn r01_routes_on_the_path_alone() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    // All requests can use the same connection, with any method and host name, and with a wrong content type
    // or none.
    for head in [
        "POST /Plugin.Activate HTTP/1.1\r\nHost: \r\nContent-Length: 0\r\n\r\n",
        "POST /Plugin.Activate HTTP/1.1\r\nHost: plugin.moby.localhost\r\nContent-Length: 0\r\n\r\n",
        "POST /Plugin.Activate HTTP/1.1\r\nHost: %2Frun%2Fdocker\r\nContent-Type: text/x\r\n\
         Content-Length: 0\r\n\r\n",
        "GET /Plugin.Activate?x=y HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST /Plugin.Activate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ] {
        client.raw(head);
        let (status, head, body) = client.answer().unwrap();
        assert_eq!((status, body.as_str()), (200, r#"{"Implements":["IpamDriver"]}"#));
        assert!(head.contains("application/vnd.docker.plugins.v1.2+json"), "{head}");
    }
    assert_eq!(client.call("/IpamDriver.Nope", "{}").0, 404);
}

#[test]
fn r02_tolerates_what_dockerd_leaves_out() {
    let mut pure = Pure::new();
    for body in [
        r#"{"AddressSpace":"L","Pool":"10.0.0.0/24","SubPool":"","Options":null,"V6":false}"#,
        r#"{"AddressSpace":"L","Pool":"10.0.1.0/24","Options":{}}"#,
        "{\"AddressSpace\":\"L\",\"Pool\":\"10.0.2.0/24\",\"New\":[{\"a\":1}],\"V6\":null}\n",
    ] {
        assert_eq!(pure.call(POOL, body).0, 200, "{body}");
    }
    for body in
        [r#"{"PoolID":"L/10.0.0.0/24"}"#, "{\"PoolID\":\"L/10.0.0.0/24\",\"Address\":\"\"}\n"]
    {
        assert!(pure.call(ADDRESS, body).1["Address"].is_string(), "{body}");
    }
    for nothing in ["", "{}", "null", " \n"] {
        assert!(pure.call("/IpamDriver.GetCapabilities", nothing).1.is_object());
    }
}

#[test]
fn r03_a_failure_has_both_keys() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    for (path, body, status) in [
        (ADDRESS, r#"{"PoolID":"nope"}"#.to_owned(), 200),
        (POOL, "{".to_owned(), 400),
        ("/x", String::new(), 404),
        (POOL, "x".repeat(2 << 20), 413),
    ] {
        if status == 413 {
            // The daemon responds before it has read the whole body, so the rest need not be sent.
            client.raw(&format!(
                "POST {path} HTTP/1.1\r\nHost:\r\nContent-Length: {}\r\n\r\n",
                body.len()
            ));
        } else {
            client.send(path, &body);
        }
        let (got, _, answer) = client.answer().unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(got, status, "{answer}");
        assert!(answer["Error"].is_string() && answer["Err"] == answer["Error"], "{answer}");
    }
}

#[test]
fn r04_an_address_has_the_pools_prefix_and_is_the_one_asked_for() {
    let mut pure = Pure::new();
    pure.call(POOL, r#"{"AddressSpace":"L","Pool":"10.0.0.0/16","SubPool":"10.0.5.0/24"}"#);
    for (asked, got) in
        [("", "10.0.5.0/16"), ("10.0.9.9", "10.0.9.9/16"), ("10.0.9.8/32", "10.0.9.8/16")]
    {
        let body = json!({"PoolID": "L/10.0.0.0/16/10.0.5.0/24", "Address": asked}).to_string();
        assert_eq!(pure.call(ADDRESS, &body).1["Address"], got);
    }
}

/// An idle connection must stay open. A request that is in progress must get its response even after SIGTERM.
/// If the response to a request cannot be written, the lease that the request made must be freed.
#[test]
fn r05_drains_and_takes_back() {
    let mut daemon = Daemon::start();
    let mut client = daemon.client();
    let pool = a_pool(&mut client);
    // This test holds the lock of the store, so that requests must wait.
    let lock = daemon.store().with_extension("redb.lock");
    let held = lock_file(&lock, Wait::Forever).unwrap();
    let mut gone = daemon.client();
    gone.send(ADDRESS, &request(&pool));
    let mut waiting = daemon.client();
    waiting.send(ADDRESS, &request(&pool));
    // The test still holds the store's lock, so subletd cannot have handled any request yet.
    drop(gone);
    daemon.signal("TERM");
    drop(held);
    let (status, _, body) = waiting.answer().expect("the answer of a request that was in flight");
    assert!(status == 200 && body.contains("10.0.0."), "{body}");
    // The lease whose response was lost must be freed before the process ends.
    assert!(daemon.ended().success());
    assert_eq!(daemon.leases().len(), 1, "{}", daemon.log());
}

/// If the client closes the connection before it gets the response, its lease must be freed.
#[test]
fn r05_a_lost_answer_is_no_lease() {
    let daemon = Daemon::start();
    let pool = a_pool(&mut daemon.client());
    let lock = daemon.store().with_extension("redb.lock");
    for _ in 0..20 {
        let held = lock_file(&lock, Wait::Forever).unwrap();
        let mut gone = daemon.client();
        gone.send(ADDRESS, &request(&pool));
        gone.send(POOL, r#"{"AddressSpace":"L"}"#);
        drop(gone);
        drop(held);
    }
    // Requests are handled in order, so a response to this request shows that the earlier requests have been
    // handled.
    until("the rollback", || {
        daemon.call("/Plugin.Activate", "");
        daemon.leases().is_empty()
    });
}

#[test]
fn r06_a_wait_is_bounded() {
    let daemon = Daemon::with(&["--address-spaces", "L,G", "--timeout", "300ms"], &[]);
    let mut client = daemon.client();
    let pool = a_pool(&mut client);
    let lock = daemon.store().with_extension("redb.lock");
    let held = lock_file(&lock, Wait::Forever).unwrap();
    let begin = Instant::now();
    let mut others: Vec<_> = (0..4).map(|_| daemon.client()).collect();
    for other in &mut others {
        other.send(ADDRESS, &request(&pool));
    }
    for other in &mut others {
        let (status, _, body) = other.answer().unwrap();
        assert!((500..=503).contains(&status) && body.contains("try again"), "{status} {body}");
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    drop(held);
    assert_eq!(client.call(ADDRESS, &request(&pool)).1["Address"], "10.0.0.1/24");
}

/// subletd must handle every request without contacting dockerd. Only cleanup contacts dockerd.
#[test]
fn r07_no_handler_asks_dockerd() {
    for name in ["api", "pool", "wire", "server/worker", "server/http"] {
        let text = crate::tidy::read(&crate::tidy::root().join(format!("src/docker/{name}.rs")));
        let code: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
        for word in ["dockerd::", "cleanup::"] {
            assert!(!code.contains(word), "src/docker/{name}.rs names {word}");
        }
    }
}

#[test]
fn r08_is_there_before_dockerd() {
    let unit = crate::tidy::read(&crate::tidy::root().join("packaging/systemd/subletd.service"));
    let socket = crate::tidy::read(&crate::tidy::root().join("packaging/systemd/subletd.socket"));
    assert!(unit.contains("Before=docker.service") && unit.contains("Type=notify"));
    assert!(socket.contains("Before=docker.service"));
    assert!(socket.contains("ListenStream=/run/docker/plugins/sublet.sock"));
    // subletd must not report that it is ready before its socket accepts requests.
    let lab = crate::lab::Lab::new();
    let notify = UnixDatagram::bind(lab.join("notify")).unwrap();
    notify.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let socket = lab.join("x.sock");
    let mut child = subletd(&["--log-level", "error"])
        .arg("--socket")
        .arg(&socket)
        .arg("--store")
        .arg(lab.join("s.redb"))
        .env("NOTIFY_SOCKET", lab.join("notify"))
        .spawn()
        .unwrap();
    let mut buffer = [0; 100];
    let length = notify.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"READY=1");
    let mut client = Client::new(UnixStream::connect(&socket).unwrap());
    assert_eq!(client.call("/Plugin.Activate", "").0, 200);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// subletd must use a socket that another process has opened for it (systemd's socket activation). It must
/// also handle the requests that are already waiting on this socket.
#[test]
fn r08_takes_a_socket_that_was_opened_for_it() {
    let lab = crate::lab::Lab::new();
    let path = lab.join("sublet.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut early = Client::new(UnixStream::connect(&path).unwrap());
    early.send("/Plugin.Activate", "");
    // The shell makes the socket file descriptor 3, and sets LISTEN_PID to its own process ID.
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\" 3<&0 0</dev/null";
    let store = lab.join("s.redb").display().to_string();
    let mut child = std::process::Command::new("sh")
        .args(["-c", script, "sh", super::daemon::SUBLETD, "--store", &store])
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(early.answer().unwrap().0, 200);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(exists(&path), "systemd removes what systemd made");
}

#[test]
fn r09_a_restart_is_not_noticed() {
    let mut daemon = Daemon::start();
    let pool = a_pool(&mut daemon.client());
    assert_eq!(daemon.call(ADDRESS, &request(&pool)).1["Address"], "10.0.0.1/24");
    daemon.kill();
    assert!(exists(&daemon.socket()), "a killed process leaves its socket");
    daemon.spawn();
    let mode = fs::metadata(daemon.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(daemon.call(ADDRESS, &request(&pool)).1["Address"], "10.0.0.2/24");
    assert!(daemon.terminate().success());
    assert!(!exists(&daemon.socket()));
    assert_eq!(daemon.leases().len(), 2);
}

#[test]
fn r10_two_spaces_have_nothing_to_do_with_each_other() {
    let mut pure = Pure::new();
    for space in ["L", "G"] {
        let body = json!({"AddressSpace": space, "Pool": "10.0.0.0/24"}).to_string();
        let pool = pure.call(POOL, &body).1["PoolID"].clone();
        let body = json!({"PoolID": pool, "Address": "10.0.0.7"}).to_string();
        assert_eq!(pure.call(ADDRESS, &body).1["Address"], "10.0.0.7/24");
    }
}

#[test]
fn r11_pool_ids_are_unique() {
    let mut pure = Pure::new();
    let mut ids = std::collections::BTreeSet::new();
    for (pool, sub, v6, space) in [
        ("", "", false, "L"),
        ("", "", true, "L"),
        ("", "", false, "G"),
        ("10.1.0.0/16", "10.1.1.0/24", false, "L"),
        ("10.1.0.0/16", "10.1.2.0/24", false, "L"),
        ("10.2.0.0/16", "", false, "L"),
    ] {
        for options in [json!({}), json!({"network": "n"})] {
            if options != json!({}) && (pool, space) == ("10.1.0.0/16", "L") {
                continue;
            }
            let body = json!({"AddressSpace": space, "Pool": pool, "SubPool": sub, "V6": v6,
                "Options": options});
            let answer = pure.call(POOL, &body.to_string()).1;
            if let Some(id) = answer["PoolID"].as_str() {
                assert!(ids.insert(id.to_owned()), "{id} twice");
            }
        }
    }
    assert_eq!(ids.len(), 9);
}

#[test]
fn r12_reads_pools_as_moby_does() {
    let mut pure = Pure::new();
    for (pool, sub, got) in [
        ("10.220.0.5/24", "", "10.220.0.0/24"),
        ("0.0.0.0/24", "", "10.80.0.0/24"),
        ("::/64", "", "fd00:1::/64"),
        ("10.221.0.0/16", "10.221.4.77/24", "10.221.0.0/16"),
    ] {
        let body = json!({"AddressSpace": "L", "Pool": pool, "SubPool": sub}).to_string();
        assert_eq!(pure.call(POOL, &body).1["Pool"], got);
    }
    for (pool, sub) in
        [("", "10.0.0.0/24"), ("0.0.0.0/24", "10.80.0.0/25"), ("10.0.0.0", ""), ("/", "")]
    {
        let body = json!({"AddressSpace": "L", "Pool": pool, "SubPool": sub}).to_string();
        assert!(pure.call(POOL, &body).1["Error"].is_string());
    }
}

fn routes() -> Vec<Span> {
    let addr = |text: &str| text.parse::<Addr>().unwrap();
    vec![Span::new(addr("10.80.0.0"), addr("10.80.1.255")).unwrap()]
}

/// dockerd requests pools until it accepts one. Each request must return a different pool. After the last
/// free pool, requests must fail.
#[test]
fn r13_never_the_same_block_again() {
    let mut pure = Pure::new();
    pure.driver.settings.v4[0].within =
        sublet::net::Subnet::masked("10.80.0.0".parse().unwrap(), 21).unwrap();
    pure.driver.routes = routes;
    let body = r#"{"AddressSpace":"L","Pool":""}"#;
    for third in 2..8 {
        assert_eq!(pure.call(POOL, body).1["Pool"], format!("10.80.{third}.0/24"));
    }
    let full = "all predefined address pools have been fully subnetted";
    for _ in 0..2 {
        assert_eq!(pure.call(POOL, body).1["Error"], full);
    }
    // If a request names its subnet, subletd must not compare the subnet with the host's routes.
    assert_eq!(pure.call(POOL, r#"{"AddressSpace":"L","Pool":"10.80.0.0/24"}"#).0, 200);
    // The shared pool already exists and cannot get another subnet. If its subnet overlaps a route, the
    // request must fail; otherwise dockerd would repeat it forever.
    pure.driver.routes = Vec::new;
    let shared = r#"{"AddressSpace":"L","Pool":"10.81.0.0/24","Options":{"network":"n"}}"#;
    assert_eq!(pure.call(POOL, shared).0, 200);
    pure.driver.routes =
        || vec![Span::new("10.81.0.0".parse().unwrap(), "10.81.0.255".parse().unwrap()).unwrap()];
    let again = r#"{"AddressSpace":"L","Pool":"","Options":{"network":"n"}}"#;
    assert!(pure.call(POOL, again).1["Error"].as_str().unwrap().contains("pool n exists"));
}

#[test]
fn r14_an_address_may_be_asked_for_anywhere_in_the_pool() {
    let mut pure = Pure::new();
    pure.call(POOL, r#"{"AddressSpace":"L","Pool":"10.0.0.0/16","SubPool":"10.0.5.0/30"}"#);
    let mut ask = |address: &str| {
        let body = json!({"PoolID": "L/10.0.0.0/16/10.0.5.0/30", "Address": address}).to_string();
        pure.call(ADDRESS, &body).1
    };
    assert_eq!(ask("10.0.77.1")["Address"], "10.0.77.1/16");
    for last in 0..4 {
        assert_eq!(ask("")["Address"], format!("10.0.5.{last}/16"));
    }
    assert_eq!(ask("")["Error"], "no available addresses on this pool");
    assert_eq!(ask("10.0.5.4")["Address"], "10.0.5.4/16");
}

#[test]
fn r15_a_gateway_is_found_or_was_there() {
    let mut pure = Pure::new();
    let gateway = |pool: &str, address: &str| {
        json!({"PoolID": pool, "Address": address,
            "Options": {"RequestAddressType": "com.docker.network.gateway"}})
        .to_string()
    };
    pure.call(POOL, r#"{"AddressSpace":"L","Pool":"10.0.0.0/16","SubPool":"10.0.5.0/24"}"#);
    let id = "L/10.0.0.0/16/10.0.5.0/24";
    assert_eq!(pure.call(ADDRESS, &gateway(id, "")).1["Address"], "10.0.5.0/16");
    assert_eq!(pure.call(ADDRESS, &gateway(id, "10.0.5.0")).1["Error"], "Address already in use");
    for _ in 0..2 {
        let pool = pure.call(POOL, r#"{"AddressSpace":"L","Options":{"network":"n"}}"#).1;
        assert_eq!(pool["Data"]["com.docker.network.gateway"], "10.80.0.1/24");
        assert_eq!(pure.call(ADDRESS, &gateway("n", "")).1["Address"], "10.80.0.1/24");
    }
    // If no gateway is requested, the pool's first address must be available to containers. The macvlan
    // driver, for example, does not request a gateway.
    pure.call(POOL, r#"{"AddressSpace":"L","Pool":"10.9.0.0/24"}"#);
    assert_eq!(pure.call(ADDRESS, r#"{"PoolID":"L/10.9.0.0/24"}"#).1["Address"], "10.9.0.1/24");
}

#[test]
fn r16_asks_for_no_replay() {
    let capabilities = Pure::new().call("/IpamDriver.GetCapabilities", "").1;
    assert_eq!(capabilities["RequiresRequestReplay"], false);
    let daemon = Daemon::with(&["--mac"], &[]);
    assert_eq!(daemon.call("/IpamDriver.GetCapabilities", "").1["RequiresMACAddress"], true);
}

#[test]
fn r17_a_release_may_be_repeated() {
    let mut pure = Pure::new();
    for (path, body) in [
        ("/IpamDriver.ReleaseAddress", r#"{"PoolID":"L/1.0.0.0/24","Address":"1.0.0.1"}"#),
        ("/IpamDriver.ReleasePool", r#"{"PoolID":"L/1.0.0.0/24"}"#),
    ] {
        assert_eq!(pure.call(path, body), (200, json!({})));
    }
}

/// If an auxiliary address is refused, dockerd releases only the pool. This release must also free the pool's
/// addresses.
#[test]
fn r17b_a_pool_takes_its_leases_along() {
    let mut pure = Pure::new();
    let body = r#"{"AddressSpace":"L","Pool":"10.0.0.0/24"}"#;
    for _ in 0..2 {
        pure.call(POOL, body);
        assert_eq!(pure.call(ADDRESS, &request("L/10.0.0.0/24")).1["Address"], "10.0.0.1/24");
        pure.call("/IpamDriver.ReleasePool", r#"{"PoolID":"L/10.0.0.0/24"}"#);
    }
}

#[test]
fn r18_a_lease_says_whose_it_is() {
    let daemon = Daemon::with(&["--address-spaces", "L,G"], &[("NODE_ID", "node-7")]);
    let mut client = daemon.client();
    let pool = a_pool(&mut client);
    let body = json!({"PoolID": pool, "Options": {
        "com.docker.network.endpoint.name": "web-1",
        "com.docker.network.endpoint.macaddress": "02:42:0a:00:00:02"}});
    assert_eq!(client.call(ADDRESS, &body.to_string()).0, 200);
    let row = &crate::lab::list(&daemon.store())[0];
    assert_eq!(row["node"], "node-7");
    assert_eq!(row["pool"], pool);
    assert_eq!(row["endpoint"], "web-1");
    assert_eq!(row["mac"], "02:42:0a:00:00:02");
    assert_eq!(row["kind"], "dynamic");
}

#[test]
fn r19_texts_are_ipamapis() {
    let seed = [
        "invalid address space",
        "invalid address pool",
        "invalid address subpool",
        "no available addresses on this pool",
        "Address already in use",
        "requested address is out of range",
        "invalid pool request: Pool overlaps with other one on this address space",
        "address space does not contain specified address pool",
    ];
    let folder = crate::lab::testdata().join("docker");
    let stories: String = fs::read_dir(folder)
        .unwrap()
        .map(|f| fs::read_to_string(f.unwrap().path().join("calls")).unwrap())
        .collect();
    for text in seed {
        assert!(stories.contains(&format!("\n! {text}\n")), "no story has {text:?}");
    }
}

#[test]
fn r20_a_network_may_have_ipv6_alone() {
    let mut pure = Pure::new();
    let pool = pure.call(POOL, r#"{"AddressSpace":"L","Pool":"","V6":true}"#).1;
    assert_eq!(pool["Pool"], "fd00:1::/64");
    assert_eq!(pure.call(ADDRESS, &request("L/fd00:1::/64")).1["Address"], "fd00:1::1/64");
}

#[test]
fn r21_is_a_managed_plugin_too() {
    let path = crate::tidy::root().join("packaging/docker-plugin/config.json");
    let config: Value = serde_json::from_str(&crate::tidy::read(&path)).unwrap();
    assert_eq!(config["interface"]["types"], json!(["docker.ipamdriver/1.0"]));
    assert_eq!(config["entrypoint"][0], "/subletd");
    // dockerd does not activate a managed plugin, so requests must work without an activation.
    let mut pure = Pure::new();
    assert_eq!(pure.call(POOL, r#"{"AddressSpace":"G"}"#).0, 200);
}

/// Undoing a request must free only the lease that this request made.
#[test]
fn an_undo_frees_what_was_made_and_nothing_else() {
    let mut pure = Pure::new();
    let cx = host::facts(&|_| None).context();
    pure.call(POOL, r#"{"AddressSpace":"L","Options":{"network":"n"}}"#);
    let driver: &Driver = &pure.driver.clone();
    let gateway =
        json!({"PoolID": "n", "Options": {"RequestAddressType": "com.docker.network.gateway"}});
    let reply = handle(driver, &mut *pure.store, &cx, ADDRESS, gateway.to_string().as_bytes());
    assert_eq!(reply.undo, None, "the gateway was there");
    let reply = handle(driver, &mut *pure.store, &cx, ADDRESS, request("n").as_bytes());
    let Some(Undo::Address(pool, lease)) = reply.undo else { panic!("{reply:?}") };
    let undo = |only| {
        Command::ReleaseAddress(ReleaseAddress { pool: pool.clone(), addr: lease.addr, only })
    };
    let mut later = lease.clone();
    later.time += 1;
    assert_eq!(pure.store.apply(&undo(Some(later)), &cx).unwrap(), Outcome::Freed(vec![]));
    let freed = pure.store.apply(&undo(Some(lease.clone())), &cx).unwrap();
    assert!(matches!(freed, Outcome::Freed(all) if all.len() == 1));
}

/// If a client sends hostile bytes, the daemon must send a response or close the connection, and must
/// continue to run.
#[test]
fn nonsense_does_no_harm() {
    let daemon = Daemon::start();
    let deep = "[".repeat(100_000);
    for text in [
        "\0\0\0\r\n\r\n".to_owned(),
        "POST / HTTP/9.9\r\n\r\n".to_owned(),
        "POST /IpamDriver.RequestPool HTTP/1.1\r\nContent-Length: -1\r\n\r\n".to_owned(),
        format!(
            "POST {POOL} HTTP/1.1\r\nHost:\r\nContent-Length: {}\r\n\r\n{{\"Options\":{deep}",
            deep.len() + 11
        ),
        format!("POST /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20)),
    ] {
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        let _ = stream.write_all(text.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    }
    assert_eq!(daemon.call("/Plugin.Activate", "").0, 200);
}

#[test]
fn a_half_closed_connection_gets_its_answer() {
    let daemon = Daemon::start();
    let pool = a_pool(&mut daemon.client());
    let body = json!({"PoolID": pool}).to_string();
    let request = format!(
        "POST /IpamDriver.RequestAddress HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let before = daemon.leases().len();
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let answer = std::io::read_to_string(&mut stream).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("Address"), "{answer}");
    assert_eq!(daemon.leases().len(), before + 1);
    // A client that closes the connection early must get no lease.
    for _ in 0..20 {
        UnixStream::connect(daemon.socket()).unwrap().write_all(request.as_bytes()).unwrap();
    }
    until("the undo", || {
        daemon.log().matches("leased (dynamic)").count() >= 21
            && daemon.leases().len() == before + 1
    });
}

#[test]
fn a_socket_is_taken_from_nobody() {
    let daemon = Daemon::start();
    let socket = daemon.socket().display().to_string();
    let store = daemon.store().display().to_string();
    let output = subletd(&["--socket", &socket, "--store", &store]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("another process already serves"), "{text}");
    assert_eq!(daemon.call("/Plugin.Activate", "").0, 200);
    let file = daemon.lab.join("file");
    fs::write(&file, "precious").unwrap();
    let path = file.display().to_string();
    let output = subletd(&["--socket", &path, "--store", &store]).output().unwrap();
    assert!(!output.status.success());
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn a_limit_on_file_size_ends_no_daemon() {
    let daemon = Daemon::start();
    let pid = daemon.pid().to_string();
    let mut limit = std::process::Command::new("prlimit");
    limit.args(["--fsize=512", "--pid", &pid]);
    assert!(limit.status().unwrap().success());
    let body = json!({"AddressSpace": "L", "Pool": "10.80.0.0/24", "SubPool": "", "V6": false});
    let (status, answer) = daemon.call(POOL, &body.to_string());
    assert!((500..=503).contains(&status), "{status} {answer}");
    assert!(answer["Err"].as_str().unwrap().contains("File too large"), "{answer}");
    assert_eq!(daemon.call("/Plugin.Activate", "").0, 200);
}
