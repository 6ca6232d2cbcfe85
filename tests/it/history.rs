//! Tests what operators see of a store: history, statistics, reservations, and the problems that `doctor`
//! finds.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::lab::{Call, Lab, addresses, conf};

fn sublet(lab: &Lab, args: &str) -> Call {
    let store = lab.store().display().to_string();
    let words = args.split_whitespace().fold(Call::sublet(), Call::arg);
    words.arg("--store").arg(&store)
}

fn add(lab: &Lab, container: &str, conf: &Value) -> String {
    let _ = lab;
    addresses(&Call::cni("ADD", container, conf).run().ok()).remove(0)
}

/// Returns the event, the address and the container of each row of `sublet history --json`.
fn told(rows: &[Value]) -> Vec<String> {
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    rows.iter()
        .map(|r| ["event", "address", "containerID"].map(|key| text(r, key)).join(" "))
        .collect()
}

#[test]
fn who_held_an_address_and_when() {
    let lab = Lab::new();
    let conf = conf(&lab.data_dir(), "10.1.2.0/30");
    assert_eq!(add(&lab, "first", &conf), "10.1.2.2");
    Call::cni("DEL", "first", &conf).run().silent();
    assert_eq!(add(&lab, "second", &conf), "10.1.2.2");
    lab.release("10.1.2.2");
    let rows = sublet(&lab, "history 10.1.2.2 --json").run().rows();
    let expected = [
        "added 10.1.2.2 first",
        "deleted 10.1.2.2 first",
        "added 10.1.2.2 second",
        "released 10.1.2.2 second",
    ];
    assert_eq!(told(&rows), expected);
    assert_eq!((&rows[0]["face"], &rows[3]["face"]), (&json!("cni"), &json!("cli")));
    let of = |args: &str| told(&sublet(&lab, args).run().rows());
    assert_eq!(of("history seco --json"), expected[2..]);
    assert_eq!(of("history 10.1.2.2 --network mynet --since 1h --json"), expected);
    assert!(of("history 10.1.2.2 --since 2100-01-01T00:00:00Z --json").is_empty());
    let unknown = sublet(&lab, "history 10.1.2.2 --network other --json").run();
    unknown.check(unknown.code == Some(1) && unknown.stderr.contains("mynet"), "unknown network");
    let table = sublet(&lab, "history second").run();
    table.check(table.succeeded() && table.stdout.lines().count() == 3, "a table of two rows");
    let none = sublet(&lab, "history 10.9.9.9").run();
    none.check(none.succeeded() && none.stderr.contains("no history for"), "nothing is told");
    let bad = sublet(&lab, "history 10.1.2.2 --since yesterday").run();
    bad.check(bad.code == Some(2) && bad.stderr.contains("2h"), "a time that is none");
}

#[test]
fn history_is_off_where_the_configuration_says_so() {
    let lab = Lab::new();
    let mut conf = conf(&lab.data_dir(), "10.1.2.0/29");
    conf["ipam"]["history"] = "off".into();
    add(&lab, "quiet", &conf);
    assert!(sublet(&lab, "history quiet --json").run().rows().is_empty());
    for (history, wrong) in [
        (json!("on"), "ipam.history"),
        (json!({"count": -1}), "ipam.history.count"),
        (json!({"age": "a week"}), "ipam.history.age"),
        (json!(7), "ipam.history"),
    ] {
        conf["ipam"]["history"] = history;
        let (code, msg) = Call::cni("ADD", "bad", &conf).run().error();
        assert!(code == 7 && msg.contains(wrong), "{code}: {msg}");
    }
    // A DEL must work with an invalid history setting.
    Call::cni("DEL", "quiet", &conf).run().silent();
    assert!(lab.list().is_empty());
}

#[test]
fn reserving_is_all_or_nothing() {
    let lab = Lab::new();
    let conf = conf(&lab.data_dir(), "10.1.2.0/24");
    assert_eq!(add(&lab, "c", &conf), "10.1.2.2");
    let ended = |code: i32, args: &str, text: &str| {
        let answer = sublet(&lab, args).run();
        answer.check(answer.code == Some(code) && answer.stderr.contains(text), text);
        assert_eq!(lab.list().len(), 1);
    };
    let refused = |args: &str, text: &str| ended(1, args, text);
    // In the following calls, the command line itself is invalid.
    let misused = |args: &str, text: &str| ended(2, args, text);
    refused("reserve mynet 10.1.2.0/28", "nothing was reserved");
    refused("reserve mynet 10.1.2.0/28", "container c (eth0) holds the address");
    refused("reserve mynet 10.9.0.1", "outside the ranges of network mynet");
    refused("reserve later 10.7.0.9", "--create");
    misused("reserve mynet 10.0.0.0/8", "at most 65536");
    misused("reserve mynet 10.1.2.9-10.1.2.7", "the last address is lower than the first");
    misused("reserve mynet 10.1.2.9/28", "host bits");
    refused("unreserve mynet 10.1.2.9 --yes", "no reservation of 10.1.2.9");
    misused("unreserve mynet 10.1.2.9", "--yes");
    // A lease does not count as a reservation.
    refused("unreserve mynet 10.1.2.2 --yes", "no reservation of 10.1.2.2");
    let done = sublet(&lab, "reserve mynet 10.1.2.16/28 --json").run().ok();
    assert_eq!(done["addresses"].as_array().unwrap().len(), 16);
    let done = sublet(&lab, "reserve mynet 10.1.2.16/28 --json").run().ok();
    assert_eq!(done["addresses"], json!([]), "they are reserved already");
    assert_eq!(lab.list().len(), 17);
    // DEL, `gc` and `release` must not free reservations. With `--create`, it must be possible to reserve
    // addresses of a network that the store does not know.
    sublet(&lab, "reserve later 10.7.0.9 --create --json").run().ok();
    let done = sublet(&lab, "unreserve mynet 10.1.2.0/24 --yes --json").run().ok();
    assert_eq!(done["addresses"].as_array().unwrap().len(), 16);
}

#[test]
fn a_reservation_ends_whatever_the_range_has_become() {
    let lab = Lab::new();
    let mut conf = conf(&lab.data_dir(), "10.1.2.0/24");
    add(&lab, "a", &conf);
    sublet(&lab, "reserve mynet 10.1.2.200 --json").run().ok();
    conf["ipam"]["rangeEnd"] = "10.1.2.100".into();
    add(&lab, "b", &conf);
    let done = sublet(&lab, "unreserve mynet 10.1.2.200 --yes --json").run().ok();
    assert_eq!(done["addresses"], json!(["10.1.2.200"]));
    assert_eq!(lab.list().len(), 2);
}

/// Makes a network with three ADDs, a reservation, a refused ADD and a DEL.
fn busy() -> Lab {
    let lab = Lab::new();
    let mut conf = conf(&lab.data_dir(), "10.1.2.0/29");
    conf["ipam"]["ranges"] = json!([[{"subnet": "fd00::/64"}]]);
    let ips = addresses(&Call::cni("ADD", "a", &conf).run().ok());
    assert_eq!(ips.len(), 2, "{ips:?}");
    sublet(&lab, "reserve mynet 10.1.2.6").run();
    for n in 0..3 {
        Call::cni("ADD", &format!("b{n}"), &conf).run().ok();
    }
    assert_eq!(Call::cni("ADD", "full", &conf).run().error().0, 100);
    Call::cni("DEL", "b0", &conf).run().silent();
    lab
}

#[test]
fn statistics_count_addresses_and_requests() {
    let lab = busy();
    let stats = sublet(&lab, "stats --json").run().ok();
    let v4 = &stats["pools"][0];
    for (key, count) in
        [("size", 5), ("used", 3), ("reserved", 1), ("cooling", 0), ("free", 1), ("largestGap", 1)]
    {
        assert_eq!(v4[key], count, "{key}: {stats}");
    }
    assert_eq!(stats["pools"][1]["used"], 3, "{stats}");
    assert!(stats["pools"][1]["size"].to_string().starts_with("1844674407370955161"), "{stats}");
    assert_eq!(stats["requests"][0]["count"], 4, "{stats}");
    let text = sublet(&lab, "stats --prometheus").run().stdout;
    for line in [
        "sublet_pool_addresses{network=\"mynet\",range=\"10.1.2.0/29\",state=\"used\"} 3",
        "sublet_requests_total{network=\"mynet\",face=\"cni\",command=\"add\",outcome=\"ok\"} 4",
        "sublet_requests_total{network=\"mynet\",face=\"cni\",command=\"add\",outcome=\"exhausted\"} 1",
        "sublet_requests_total{network=\"mynet\",face=\"cli\",command=\"reserve\",outcome=\"ok\"} 1",
        "sublet_requests_total{network=\"mynet\",face=\"cni\",command=\"del\",outcome=\"ok\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
    }
    let file = lab.join("sublet.prom");
    let answer = sublet(&lab, &format!("stats --prometheus {}", file.display())).run();
    answer.check(answer.succeeded() && answer.stdout.is_empty(), "a file was asked for");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    // node_exporter runs as another user, so the file must have the mode that the umask allows.
    fs::write(lab.join("usual"), "").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&file), mode(&lab.join("usual")));
    let table = sublet(&lab, "stats").run();
    table.check(table.stdout.contains("GAP"), "a table");
    let empty = Lab::new();
    fs::create_dir(empty.join("data")).unwrap();
    let answer = sublet(&empty, "stats --prometheus").run();
    answer.check(answer.code == Some(1) && answer.stderr.contains("does not exist"), "no store");
}

#[test]
fn a_sound_store_has_nothing_for_the_doctor() {
    let lab = Lab::new();
    let missing = sublet(&lab, "doctor").run();
    missing.check(missing.code == Some(1), "no store");
    let conf = conf(&lab.data_dir(), "10.1.2.0/24");
    for n in 0..20 {
        let mut conf = conf.clone();
        conf["ipam"]["cooldown"] = "1h".into();
        conf["ipam"]["sticky"] = true.into();
        add(&lab, &format!("c{n}"), &conf);
    }
    for n in 0..7 {
        Call::cni("DEL", &format!("c{n}"), &conf).run().silent();
    }
    sublet(&lab, "reserve mynet 10.1.2.200-10.1.2.210").run();
    let answer = sublet(&lab, "doctor").run();
    answer.check(answer.succeeded() && answer.stdout.contains("13 leases"), "all is well");
    let answer = sublet(&lab, "doctor --json --repair --yes").run().ok();
    assert_eq!(answer, json!({"checked": {"leases": 13, "ranges": 1}, "problems": []}));
}

#[test]
fn the_doctor_tells_what_is_odd() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::new();
    let conf = conf(&lab.data_dir(), "10.1.2.0/24");
    add(&lab, "c", &conf);
    let mut other = conf.clone();
    other["name"] = "other".into();
    add(&lab, "c", &other);
    fs::set_permissions(lab.boot_file(), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(lab.join("data/leases.redb.new"), "half").unwrap();
    let answer = sublet(&lab, "doctor").run();
    assert_eq!(answer.code, Some(1));
    for text in [
        "networks mynet and other",
        "the file mode 644",
        "leases.redb.new: this temporary file was left behind",
    ] {
        answer.check(answer.stdout.contains(text), text);
    }
    answer.check(answer.stderr.contains("3 problems"), "how many");
    let answer = sublet(&lab, "doctor --repair --yes").run();
    answer.check(answer.code == Some(1) && !lab.join("data/leases.redb.new").exists(), "one less");
    answer.check(answer.stderr.contains("2 problems"), "how many are left");
    assert_eq!(sublet(&lab, "doctor --nonsense").run().code, Some(2));
}

/// Tests that need a mount namespace and promtool.
mod peers {
    use super::*;
    use crate::peers::reboot;
    use crate::web::peers::promtool;

    #[test]
    fn promtool_accepts_the_statistics() {
        let text = sublet(&busy(), "stats --prometheus").run().stdout;
        assert_eq!(promtool(&["check", "metrics"], &text), "");
    }

    #[test]
    fn a_reservation_outlives_boots() {
        let lab = Lab::new();
        for persist in ["boot", "disk"] {
            let conf = reboot::conf(&lab, "1.0.0", persist);
            let mut conf = conf;
            conf["name"] = persist.into();
            let run = |boot: u8, args: &str| {
                let args = format!("{args} --store {}", lab.store().display());
                let (code, out) = reboot::in_boot(&lab, boot, &[], &args, "");
                assert_eq!(code, 0, "{args}: {out}");
                out
            };
            let add = |boot: u8, container: &str| {
                reboot::address(&reboot::cni(&lab, boot, "ADD", container, &conf))
            };
            // Reserve addresses before the network has any lease, and again afterwards.
            run(1, &format!("reserve {persist} 10.1.2.2 --note printer --owner ops --create"));
            assert_eq!(add(1, "a"), "10.1.2.3/29");
            run(1, &format!("reserve {persist} 10.1.2.4-10.1.2.5"));
            assert_eq!(add(1, "b"), "10.1.2.6/29");
            let kept = if persist == "disk" { 2 } else { 0 };
            for boot in 2..4 {
                let rows: Value =
                    serde_json::from_str(&run(boot, &format!("list --json --network {persist}")))
                        .unwrap();
                assert_eq!(rows.as_array().unwrap().len(), kept + 3, "boot {boot}: {rows}");
                let out = run(boot, &format!("show 10.1.2.2 --json --network {persist}"));
                let shown: Value = serde_json::from_str(&out).unwrap();
                assert_eq!(shown[0]["note"], "printer");
                assert_eq!(shown[0]["holder"], "ops");
            }
            if persist == "boot" {
                assert_eq!(add(3, "c"), "10.1.2.3/29");
                assert_eq!(add(3, "d"), "10.1.2.6/29");
            }
            let (code, out) = reboot::cni(&lab, 3, "ADD", "e", &conf);
            assert!(code == 1 && out.contains("\"code\": 100"), "{out}");
            run(3, &format!("unreserve {persist} 10.1.2.0/29 --yes"));
            assert_eq!(add(3, "e"), "10.1.2.2/29");
            assert_eq!(add(4, "f"), if persist == "disk" { "10.1.2.4/29" } else { "10.1.2.2/29" });
        }
    }
}
