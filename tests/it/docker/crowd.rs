//! Tests many simultaneous Docker requests, and a subletd that is killed while it handles requests.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};

use super::daemon::{Client, Daemon, until};

const POOL: &str = "/IpamDriver.RequestPool";
const ADDRESS: &str = "/IpamDriver.RequestAddress";
const FREE: &str = "/IpamDriver.ReleaseAddress";

fn pool(daemon: &Daemon, subnet: &str) -> String {
    let body = json!({"AddressSpace": "L", "Pool": subnet}).to_string();
    let answer = daemon.call(POOL, &body).1;
    answer["PoolID"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

fn ask(client: &mut Client<UnixStream>, pool: &str, serial: bool) -> Value {
    let options = json!({"com.docker.network.ipam.serial": serial.to_string()});
    client.call(ADDRESS, &json!({"PoolID": pool, "Options": options}).to_string()).1
}

fn bare(answer: &Value) -> String {
    answer["Address"].as_str().unwrap().split('/').next().unwrap().to_owned()
}

fn free(client: &mut Client<UnixStream>, pool: &str, addr: &str) {
    let body = json!({"PoolID": pool, "Address": addr}).to_string();
    assert_eq!(client.call(FREE, &body), (200, json!({})));
}

#[test]
fn a33_freed_and_leased_again_without_a_duplicate() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let pool = pool(&daemon, "172.25.0.0/16");
    let mut held: Vec<String> = (0..96).map(|_| bare(&ask(&mut client, &pool, false))).collect();
    // Release half of the addresses, in pseudo-random order.
    for at in (0..48).map(|n| (n * 37) % 96).collect::<BTreeSet<_>>().into_iter().rev() {
        free(&mut client, &pool, &held.remove(at));
    }
    for _ in 0..48 {
        held.push(bare(&ask(&mut client, &pool, false)));
    }
    let all: BTreeSet<&String> = held.iter().collect();
    assert_eq!(all.len(), held.len());
    assert_eq!(daemon.leases().len(), 96);
}

#[test]
fn a34_nobody_gets_what_another_has() {
    let daemon = Daemon::start();
    let pool = pool(&daemon, "10.0.0.0/26");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = daemon.client();
                let mut held = Vec::new();
                for turn in 0..60 {
                    let addr = bare(&ask(&mut client, &pool, true));
                    assert!(!held.contains(&addr));
                    held.push(addr);
                    if turn % 3 != 0 || held.len() > 8 {
                        free(&mut client, &pool, &held.remove(0));
                    }
                }
                for addr in held {
                    free(&mut client, &pool, &addr);
                }
            });
        }
    });
    assert!(daemon.leases().is_empty());
}

#[test]
fn a35_a37_every_block_once() {
    let daemon = Daemon::with(
        &["--address-spaces", "L,G", "--v4", "10.0.0.0/18", "--v4", "11.0.0.0/20"],
        &[],
    );
    let pools: Vec<String> = thread::scope(|scope| {
        let ask = || {
            let mut client = daemon.client();
            let mut got = Vec::new();
            for _ in 0..16 {
                let answer = client.call(POOL, r#"{"AddressSpace":"L"}"#).1;
                got.push(answer["Pool"].as_str().unwrap().to_owned());
            }
            got
        };
        let threads: Vec<_> = (0..5).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    let mut expected: BTreeSet<String> = (0..64).map(|n| format!("10.0.{n}.0/24")).collect();
    expected.extend((0..16).map(|n| format!("11.0.{n}.0/24")));
    assert_eq!(pools.len(), expected.len());
    assert_eq!(pools.into_iter().collect::<BTreeSet<_>>(), expected);
    assert!(daemon.call(POOL, r#"{"AddressSpace":"L"}"#).1["Error"].is_string());
}

#[test]
fn a36_as_many_as_there_are() {
    let daemon = Daemon::start();
    for (at, (len, hosts)) in [(29, 6), (27, 30), (25, 126)].into_iter().enumerate() {
        let pool = pool(&daemon, &format!("10.{at}.0.0/{len}"));
        let got: Vec<Value> = thread::scope(|scope| {
            let ask = |count: usize| {
                let (daemon, pool) = (&daemon, &pool);
                move || {
                    let mut client = daemon.client();
                    (0..count).map(|_| ask(&mut client, pool, false)).collect::<Vec<_>>()
                }
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask(hosts / 8 + 2))).collect();
            threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
        });
        let given: BTreeSet<String> =
            got.iter().filter(|a| a["Address"].is_string()).map(bare).collect();
        let count = got.iter().filter(|a| a["Address"].is_string()).count();
        assert_eq!((given.len(), count), (hosts, hosts), "/{len}");
        let full = "no available addresses on this pool";
        assert!(got.iter().all(|a| a["Address"].is_string() || a["Error"] == full));
        // Each address that was released must be available again.
        let mut client = daemon.client();
        for addr in given.iter().take(5) {
            free(&mut client, &pool, addr);
            let body = json!({"PoolID": pool, "Address": addr}).to_string();
            assert_eq!(bare(&client.call(ADDRESS, &body).1), *addr);
        }
    }
}

/// Two subletd processes that share one store must never lease the same address twice.
#[test]
fn two_of_them_do_no_harm() {
    let one = Daemon::start();
    let store = one.store().display().to_string();
    let lab = crate::lab::Lab::new();
    let socket = lab.join("two.sock");
    let mut child = super::daemon::subletd(&["--address-spaces", "L,G", "--store", &store])
        .arg("--socket")
        .arg(&socket)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("the second", || UnixStream::connect(&socket).is_ok());
    let pool = pool(&one, "10.0.0.0/24");
    let got: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let path = if n % 2 == 0 { one.socket() } else { socket.clone() };
                let pool = &pool;
                scope.spawn(move || {
                    let mut client = Client::new(UnixStream::connect(path).unwrap());
                    (0..25).map(|_| bare(&ask(&mut client, pool, false))).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(got.iter().collect::<BTreeSet<_>>().len(), 100);
}

/// subletd is killed (kill -9) under load. Every lease that subletd confirmed to a client must survive. Each
/// kill may leave at most one more lease per client, for the request that got no response.
#[test]
fn killed_under_load() {
    let mut daemon = Daemon::start();
    let pool = pool(&daemon, "10.0.0.0/16");
    let mut answered = BTreeSet::new();
    let mut lost = 0;
    for _ in 0..5 {
        let stop = AtomicBool::new(false);
        let got: Vec<String> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    let mut client = daemon.client();
                    let (pool, stop) = (&pool, &stop);
                    scope.spawn(move || {
                        let mut got = Vec::new();
                        let body = json!({"PoolID": pool}).to_string();
                        while !stop.load(Ordering::Relaxed) {
                            if client.try_send(ADDRESS, &body).is_err() {
                                break;
                            }
                            let Some((_, _, answer)) = client.answer() else { break };
                            got.push(bare(&serde_json::from_str(&answer).unwrap()));
                        }
                        got
                    })
                })
                .collect();
            until("some leases", || daemon.log().matches("leased").count() > answered.len() + 20);
            daemon.signal("KILL");
            stop.store(true, Ordering::Relaxed);
            threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
        });
        for addr in got {
            assert!(answered.insert(addr), "given twice");
        }
        daemon.kill();
        daemon.spawn();
        let leases: BTreeSet<String> = daemon.leases().into_iter().collect();
        assert!(answered.is_subset(&leases), "an answered lease is gone");
        lost = leases.len() - answered.len();
    }
    assert!(lost <= 5 * 8, "{lost}");
    // Releasing the pool also frees the leases whose responses were lost.
    let body = json!({"PoolID": pool}).to_string();
    assert_eq!(daemon.call("/IpamDriver.ReleasePool", &body).0, 200);
    assert!(daemon.leases().is_empty());
}
