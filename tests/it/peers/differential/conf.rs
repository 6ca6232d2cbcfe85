//! Makes random configurations, and computes facts about a configuration without running a program.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::lab::Dice;

/// A configuration that both host-local and sublet can read.
pub struct Conf(pub Value);

impl Conf {
    /// Makes a configuration and a list of addresses to request. Some of the addresses are in its ranges, and
    /// some are not.
    pub fn random(dice: &mut Dice) -> (Conf, Vec<String>) {
        let mut pool = Vec::new();
        let conf = random(dice, &mut pool);
        (Conf(conf), pool)
    }

    /// Returns the range sets, in the order in which both programs use them.
    fn sets(&self) -> Vec<Vec<&Value>> {
        let ipam = &self.0["ipam"];
        let mut sets = lists(&self.0["runtimeConfig"]["ipRanges"]);
        sets.extend(ipam.get("subnet").map(|_| vec![ipam]));
        sets.extend(lists(&ipam["ranges"]));
        sets
    }

    pub fn small(&self) -> bool {
        self.sets().iter().flatten().any(|range| {
            let subnet = range["subnet"].as_str().unwrap_or_default();
            let small = ["/31", "/32", "/127", "/128"];
            small.iter().any(|end| subnet.ends_with(end))
        })
    }

    pub fn starts_behind_end(&self) -> bool {
        let sets = self.sets();
        let mut ranges = sets.iter().flatten();
        ranges.any(|range| range["rangeStart"] == "172.31.9.7" && range["rangeEnd"].is_null())
    }

    /// Returns whether the request contains two different addresses of the same range set.
    pub fn two_in_one_set(&self, asked: &[String]) -> bool {
        let distinct: BTreeSet<&String> = asked.iter().collect();
        self.sets().iter().any(|set| {
            let inside = |a: &&&String| set.iter().any(|range| contains(range, a));
            distinct.iter().filter(inside).count() > 1
        })
    }
}

fn lists(sets: &Value) -> Vec<Vec<&Value>> {
    let sets = sets.as_array().into_iter().flatten();
    sets.map(|set| set.as_array().into_iter().flatten().collect()).collect()
}

/// Returns whether a range contains an address. If the range does not set `rangeStart` or `rangeEnd`, the
/// default bounds of its subnet apply.
fn contains(range: &Value, address: &str) -> bool {
    let number = |text: &str| match text.parse() {
        Ok(IpAddr::V4(a)) => (4, u128::from(a.to_bits())),
        Ok(IpAddr::V6(a)) => (6, a.to_bits()),
        Err(e) => panic!("{text}: {e}"),
    };
    let Some((base, length)) = range["subnet"].as_str().and_then(|s| s.split_once('/')) else {
        return false;
    };
    let (family, base) = number(base);
    let host_bits = if family == 4 { 32 } else { 128 } - length.parse::<u32>().unwrap();
    let size = 1_u128 << host_bits;
    let bound = |key: &str, default| range[key].as_str().map_or(default, |a| number(a).1);
    let start = bound("rangeStart", base + 1);
    let end = bound("rangeEnd", base + size - if family == 4 { 2 } else { 1 });
    let (asked_family, asked) = number(address);
    asked_family == family && (start..=end).contains(&asked)
}

const VERSIONS: [&str; 6] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"];

/// Makes an `ipam` section that is usually valid. It has one to three range sets with one or two ranges each.
/// The ranges are so small that they can become full.
fn random(dice: &mut Dice, pool: &mut Vec<String>) -> Value {
    let version = if dice.once_in(2) { "1.0.0" } else { *dice.pick(&VERSIONS) };
    let mut ipam = json!({"type": "host-local"});
    let mut conf = json!({"cniVersion": version, "name": "net", "type": "bridge"});
    let kinds: &[&[bool]] = &[
        &[false],
        &[false],
        &[true],
        &[false, true],
        &[false, true],
        &[true, false],
        &[false, false],
        &[false, false, true],
    ];
    let sets: Vec<Value> = dice
        .pick(kinds)
        .iter()
        .enumerate()
        .map(|(index, wide)| random_set(dice, index, *wide, pool))
        .collect();
    if sets.len() == 1 && dice.once_in(3) {
        for (key, value) in sets[0][0].as_object().unwrap() {
            ipam[key] = value.clone();
        }
    } else if dice.once_in(8) {
        conf["runtimeConfig"]["ipRanges"] = json!([[{"subnet": "172.30.1.0/29"}]]);
        ipam["ranges"] = json!(sets);
    } else {
        ipam["ranges"] = json!(sets);
    }
    if dice.once_in(3) {
        ipam["routes"] = json!([
            {"dst": "0.0.0.0/0"},
            {"dst": "192.168.0.0/16", "gw": "10.0.0.9"},
            {"dst": "2001:db8:2::/64", "gw": "2001:db8:3::1"}
        ]);
    }
    if dice.once_in(6) {
        ipam["resolvConf"] = json!("@");
    }
    if dice.once_in(2) {
        ipam["onDuplicate"] = json!("error");
    }
    if dice.once_in(5) {
        spoil(dice, &mut ipam, &mut conf);
    }
    conf["ipam"] = ipam;
    conf
}

fn random_set(dice: &mut Dice, index: usize, wide: bool, pool: &mut Vec<String>) -> Value {
    let ranges = 1 + u64::from(dice.once_in(3));
    let ranges: Vec<Value> = (0..ranges)
        .map(|n| {
            let net =
                if wide { format!("2001:db8:{index}:{n}::") } else { format!("10.{index}.{n}.") };
            let host = |h: u64| {
                if wide { format!("{net}{h:x}") } else { format!("{net}{h}") }
            };
            let (length, size) = *dice.pick(if wide {
                &[(126_u64, 4_u64), (125, 8), (64, 200)]
            } else {
                &[(30, 4), (29, 8), (28, 16), (24, 256)]
            });
            let base = if wide { net.clone() } else { host(0) };
            let mut range = json!({"subnet": format!("{base}/{length}")});
            let low = 1 + dice.below(size / 2);
            let high = low + dice.below(size - 1 - low);
            if dice.once_in(3) {
                range["rangeStart"] = json!(host(low));
            }
            if dice.once_in(3) {
                range["rangeEnd"] = json!(host(high));
            }
            if dice.once_in(4) {
                range["gateway"] = json!(host(1 + dice.below(size - 2)));
            }
            pool.extend((0..6).map(|_| host(dice.below(size.min(20)))));
            range
        })
        .collect();
    json!(ranges)
}

/// Adds one typical mistake to a configuration.
fn spoil(dice: &mut Dice, ipam: &mut Value, conf: &mut Value) {
    let sets = |text: Value| json!([[text]]);
    let ranges = match dice.below(14) {
        0 => sets(json!({"subnet": "10.0.0.5/24"})),
        1 => sets(json!({"subnet": "10.0.0.0/31"})),
        2 => sets(json!({"subnet": "2001:db8::7/128"})),
        3 => sets(json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1"})),
        4 => sets(json!({"subnet": "10.0.0.0/24", "rangeEnd": "10.9.1.1"})),
        5 => {
            sets(json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.3"}))
        }
        6 => sets(json!({"subnet": "172.31.9.0/29", "rangeStart": "172.31.9.7"})),
        7 => json!([[{"subnet": "10.0.0.0/22"}, {"subnet": "10.0.2.0/24"}]]),
        8 => json!([[{"subnet": "10.0.0.0/22"}], [{"subnet": "10.0.2.0/24"}]]),
        9 => json!([[{"subnet": "10.0.0.0/24"}, {"subnet": "2001:db8::/64"}]]),
        10 => json!([[]]),
        11 => sets(json!({"gateway": "10.0.0.1"})),
        12 => {
            conf["cniVersion"] = json!("1.0");
            return;
        }
        _ => sets(json!({
            "subnet": "10.0.0.0/24", "rangeStart": "10.0.0.1", "rangeEnd": "10.0.0.1"
        })),
    };
    for key in ["subnet", "rangeStart", "rangeEnd", "gateway"] {
        ipam.as_object_mut().unwrap().remove(key);
    }
    ipam["ranges"] = ranges;
}
