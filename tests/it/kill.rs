//! X14: an ADD over two range sets, killed at any moment, leaves both addresses or none, and can be
//! repeated.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::util::{Sublet, leases};

const ROUNDS: u32 = 40;

#[test]
fn a_killed_add_leaves_all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({
        "cniVersion": "1.0.0",
        "name": "net",
        "ipam": {
            "type": "sublet",
            "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8:1::/64"}]],
            "dataDir": dir.path().join("none"),
        },
    });
    let add = |round: u32| {
        Sublet::plugin(dir.path(), "ADD")
            .env("CNI_CONTAINERID", &format!("c{round}"))
            .stdin(config.to_string())
    };
    for round in 0..ROUNDS {
        let mut child = add(round).spawn();
        #[allow(clippy::disallowed_methods, reason = "the moment of the kill is what is tested")]
        thread::sleep(Duration::from_micros(u64::from(round) * 500));
        let _ = child.kill();
        child.wait().unwrap();
    }
    let mut held: BTreeMap<String, usize> = BTreeMap::new();
    let store = dir.path().join("leases.redb");
    for lease in leases(dir.path(), store.to_str().unwrap()) {
        let container = lease["containerID"].as_str().unwrap().to_owned();
        *held.entry(container).or_default() += 1;
    }
    assert!(held.values().all(|count| *count == 2), "{held:?}");
    let mut given = Vec::new();
    for round in 0..ROUNDS {
        let ran = add(round).run();
        ran.check(ran.ok(), format!("repeating ADD {round}"));
        given.extend(ran.ips());
    }
    given.sort();
    given.dedup();
    assert_eq!(given.len(), 2 * ROUNDS as usize);
}
