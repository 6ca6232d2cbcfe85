//! Tests many processes that use a store at the same time, and processes that are killed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::lab::{Answer, Call, Dice, Lab, addresses, by_attachment};

const WORKERS: usize = 64;
const ADDS: usize = 20;

fn network(lab: &Lab, persist: &str) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "swarm",
        "type": "bridge",
        "ipam": {
            "type": "sublet",
            "ranges": [[{"subnet": "10.9.0.0/20"}], [{"subnet": "fd09::/64"}]],
            "dataDir": lab.data_dir(),
            "persist": persist
        }
    })
}

#[test]
fn sixty_four_processes_at_once_on_boot() {
    swarm("boot");
}

#[test]
fn sixty_four_processes_at_once_on_disk() {
    swarm("disk");
}

/// Runs 64 workers with 20 ADDs each; every second ADD is followed by its DEL. `held` contains the addresses
/// that have been returned and not freed yet. If an address is inserted twice, it has two holders at the same
/// time.
fn swarm(persist: &str) {
    let lab = Lab::new();
    let mut conf = network(&lab, persist);
    if persist == "disk" {
        // If 63 other processes flush to a busy disk, a process may wait for the lock longer than the default
        // limit of 5 s. This test checks the leases, not the speed of the machine.
        conf["ipam"]["lockTimeout"] = json!("60s");
    }
    let held: Mutex<HashMap<String, String>> = Mutex::default();
    let start = Barrier::new(WORKERS);
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (conf, held, start) = (&conf, &held, &start);
            scope.spawn(move || {
                start.wait();
                for turn in 0..ADDS {
                    let id = format!("w{worker}-{turn}");
                    let got = addresses(&Call::cni("ADD", &id, conf).run().ok());
                    assert_eq!(got.len(), 2, "{id} got {got:?}");
                    for address in &got {
                        let other = held.lock().unwrap().insert(address.clone(), id.clone());
                        assert_eq!(other, None, "{address} was given to {id} as well");
                    }
                    if turn % 2 == 1 {
                        // Remove the address from `held` before the DEL, because another process may get the
                        // address as soon as the DEL runs.
                        for address in &got {
                            held.lock().unwrap().remove(address);
                        }
                        Call::cni("DEL", &id, conf).run().silent();
                    }
                }
            });
        }
    });
    let held = held.into_inner().unwrap();
    assert_eq!(held.len(), WORKERS * ADDS / 2 * 2);
    let listed: BTreeMap<String, String> = lab
        .list()
        .iter()
        .map(|row| {
            let text = |key: &str| row[key].as_str().unwrap().to_owned();
            (text("address"), text("containerID"))
        })
        .collect();
    assert_eq!(listed, held.into_iter().collect());
}

#[test]
fn killed_adds_lose_nothing_on_boot() {
    kills("boot");
}

#[test]
fn killed_adds_lose_nothing_on_disk() {
    kills("disk");
}

/// Four workers run 500 ADDs, and each ADD is killed at a random moment. If the ADD returned its result, its
/// lease must exist. Otherwise the ADD is repeated. If the killed ADD has made a lease, the repeated ADD must
/// return that lease.
fn kills(persist: &str) {
    const TOTAL: usize = 500;
    let usual = usual_time(persist);
    let lab = Lab::new();
    let conf = network(&lab, persist);
    let answered: Mutex<BTreeMap<String, Vec<String>>> = Mutex::default();
    let unanswered: Mutex<BTreeSet<String>> = Mutex::default();
    thread::scope(|scope| {
        for worker in 0..4_u64 {
            let (conf, answered, unanswered) = (&conf, &answered, &unanswered);
            scope.spawn(move || {
                let mut dice = Dice(worker);
                for turn in 0..TOTAL / 4 {
                    let id = format!("k{worker}-{turn}");
                    // Four workers share the lock and two processors, so an ADD may take up to four times as
                    // long as it does alone.
                    let moment = usual * u32::try_from(dice.below(400)).unwrap() / 100;
                    let answer = add_killed_after(&id, conf, moment);
                    // If the process printed its whole result before it was killed, its caller has the lease.
                    if let Ok(result) = serde_json::from_str::<Value>(&answer.stdout) {
                        assert!(result.get("ips").is_some(), "{answer:?}");
                        answered.lock().unwrap().insert(id, addresses(&result));
                    } else {
                        assert_eq!(answer.code, None, "failed unkilled: {answer:?}");
                        unanswered.lock().unwrap().insert(id);
                    }
                }
            });
        }
    });
    let mut answered = answered.into_inner().unwrap();
    let unanswered = unanswered.into_inner().unwrap();
    assert!(
        answered.len() >= 20 && unanswered.len() >= 20,
        "{} answered, {} killed before: the moments are badly chosen",
        answered.len(),
        unanswered.len()
    );
    let listed = by_attachment(&lab.list());
    assert!(listed.values().all(|got| got.len() == 2), "half an ADD: {listed:?}");
    for (id, got) in &answered {
        assert_eq!(listed.get(&format!("{id}/eth0")), Some(got), "{id}");
    }
    for id in unanswered {
        let got = addresses(&Call::cni("ADD", &id, &conf).run().ok());
        if let Some(before) = listed.get(&format!("{id}/eth0")) {
            assert_eq!(before, &got, "{id} had a lease and got another");
        }
        answered.insert(id, got);
    }
    let rows = lab.list();
    let distinct: BTreeSet<&str> = rows.iter().filter_map(|r| r["address"].as_str()).collect();
    assert_eq!(distinct.len(), rows.len(), "an address with two holders");
    let expected: BTreeMap<String, Vec<String>> =
        answered.into_iter().map(|(id, got)| (format!("{id}/eth0"), got)).collect();
    assert_eq!(by_attachment(&rows), expected);
}

#[test]
fn a_killed_first_add_is_no_obstacle_on_boot() {
    first_kills("boot");
}

#[test]
fn a_killed_first_add_is_no_obstacle_on_disk() {
    first_kills("disk");
}

/// Kills the ADD that creates the store, a little later in each round. The killed ADD must leave either both
/// addresses of the container or none. `list` must work before the ADD is repeated. The repeated ADD must
/// return the addresses that the killed ADD would have returned.
fn first_kills(persist: &str) {
    const MOMENTS: u32 = 60;
    let usual = usual_time(persist);
    let mut left = BTreeMap::new();
    for moment in 0..MOMENTS {
        let lab = Lab::new();
        let conf = network(&lab, persist);
        // Creating a store takes longer than using one, so spread the moments over four times the usual time.
        let killed = add_killed_after("first", &conf, usual * 4 * moment / MOMENTS);
        let before = by_attachment(&lab.list());
        let held = before.get("first/eth0").map_or(0, Vec::len);
        assert!(held == 0 || held == 2, "moment {moment}: {before:?}");
        killed.check(killed.stdout.is_empty() || held == 2, "answered without a lease");
        let got = addresses(&Call::cni("ADD", "first", &conf).run().ok());
        assert_eq!(got, ["10.9.0.2", "fd09::2"], "moment {moment}");
        assert_eq!(lab.list().len(), 2, "moment {moment}");
        *left.entry(held).or_insert(0) += 1;
    }
    assert!(left.contains_key(&0), "none was killed before its lease: {left:?}");
}

/// Returns how long an ADD takes if nothing disturbs it and the store exists.
fn usual_time(persist: &str) -> Duration {
    let lab = Lab::new();
    let conf = &network(&lab, persist);
    let mut times: Vec<Duration> = (0..9)
        .map(|turn| {
            let id = format!("probe{turn}");
            let begin = Instant::now();
            Call::cni("ADD", &id, conf).run().ok();
            let time = begin.elapsed();
            Call::cni("DEL", &id, conf).run().silent();
            time
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

fn add_killed_after(id: &str, conf: &Value, moment: Duration) -> Answer {
    let begin = Instant::now();
    let call = Call::cni("ADD", id, conf);
    let mut child = call.spawn();
    // Use a busy loop, because the time to wait is much shorter than a tick of the scheduler.
    while begin.elapsed() < moment {
        thread::yield_now();
    }
    child.kill().unwrap();
    call.answer(child)
}
