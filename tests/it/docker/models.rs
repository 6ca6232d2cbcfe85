//! Random requests for pools and addresses, compared with a simple model of moby's rules.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::Config;
use serde_json::{Value, json};

use super::story::Pure;

type Prefix = (u32, u8);

fn last((base, len): Prefix) -> u32 {
    if len == 0 { u32::MAX } else { base | u32::MAX.checked_shr(len.into()).unwrap_or(0) }
}

fn masked(addr: u32, len: u8) -> Prefix {
    (if len == 0 { 0 } else { addr & !u32::MAX.checked_shr(len.into()).unwrap_or(0) }, len)
}

fn text((base, len): Prefix) -> String {
    format!("{}/{len}", std::net::Ipv4Addr::from(base))
}

/// A model of the pools and leases. It is as simple as possible: for each request, it searches all pools and
/// leases.
#[derive(Default)]
struct Model {
    /// The pools by name: address space, subnet, sub-pool.
    pools: BTreeMap<String, (char, Prefix, Option<Prefix>)>,
    /// The leases, by address space, subnet and address. The value is the name of the pool through which the
    /// lease was made.
    leases: BTreeMap<(char, Prefix, u32), String>,
    /// The last address that a serial request got, by address space, subnet and first address.
    cursors: BTreeMap<(char, Prefix, u32), u32>,
}

const WITHIN: Prefix = (0x0a50_0000, 24);

impl Model {
    fn overlaps(&self, space: char, subnet: Prefix) -> bool {
        self.pools
            .values()
            .any(|(s, p, _)| *s == space && p.0 <= last(subnet) && subnet.0 <= last(*p))
    }

    fn pool(&mut self, space: char, ask: Option<(Prefix, Option<Prefix>)>) -> Result<String, ()> {
        let (subnet, part) = if let Some((subnet, part)) = ask {
            (subnet, part.filter(|p| p.1 > subnet.1))
        } else {
            let blocks = (0..16).map(|n| (WITHIN.0 + n * 16, 28));
            (blocks.into_iter().find(|b| !self.overlaps(space, *b)).ok_or(())?, None)
        };
        let id = match part {
            None => format!("{space}/{}", text(subnet)),
            Some(part) => format!("{space}/{}/{}", text(subnet), text(part)),
        };
        let taken = match part {
            None => self.overlaps(space, subnet),
            Some(_) => self.pools.contains_key(&id),
        };
        if taken {
            return Err(());
        }
        self.pools.insert(id.clone(), (space, subnet, part));
        Ok(id)
    }

    fn drop_pool(&mut self, id: &str) {
        self.pools.remove(id);
        self.leases.retain(|_, through| through != id);
    }

    fn lease(&mut self, id: &str, wanted: Option<u32>, serial: bool) -> Result<u32, ()> {
        let (space, subnet, part) = *self.pools.get(id).ok_or(())?;
        let (mut low, mut high) = (subnet.0, last(subnet));
        if subnet.1 < 31 {
            (low, high) = (low + 1, high - 1);
        }
        let free = |a: u32| !self.leases.contains_key(&(space, subnet, a));
        let part = part.unwrap_or(subnet);
        let chosen = if let Some(a) = wanted {
            (low <= a && a <= high && free(a)).then_some(a)
        } else {
            let (from, to) = (low.max(part.0), high.min(last(part)));
            let key = (space, subnet, part.0);
            let after =
                self.cursors.get(&key).copied().filter(|c| serial && (from..=to).contains(c));
            let begin = after.map_or(from, |c| c + 1);
            let found = (begin..=to).chain(from..begin.min(to + 1)).find(|a| free(*a));
            if let (Some(a), true) = (found, serial) {
                self.cursors.insert(key, a);
            }
            found
        };
        let addr = chosen.ok_or(())?;
        self.leases.insert((space, subnet, addr), id.to_owned());
        Ok(addr)
    }

    fn free(&mut self, id: &str, addr: u32) -> Result<(), ()> {
        let Some((space, subnet, _)) = self.pools.get(id).copied() else { return Ok(()) };
        if addr < subnet.0 || addr > last(subnet) {
            return Err(());
        }
        if self.leases.get(&(space, subnet, addr)).is_some_and(|through| through == id) {
            self.leases.remove(&(space, subnet, addr));
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Op {
    Pool { global: bool, base: u8, len: u8, part: Option<(u8, u8)> },
    Auto { global: bool },
    Drop { which: u8 },
    Lease { which: u8, wanted: Option<u8>, serial: bool },
    Free { which: u8, addr: u8 },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (any::<bool>(), any::<u8>(), 24..33_u8, prop::option::of((any::<u8>(), 24..33_u8)))
            .prop_map(|(global, base, len, part)| Op::Pool { global, base, len, part }),
        2 => any::<bool>().prop_map(|global| Op::Auto { global }),
        1 => any::<u8>().prop_map(|which| Op::Drop { which }),
        8 => (any::<u8>(), prop::option::weighted(0.3, any::<u8>()), any::<bool>())
            .prop_map(|(which, wanted, serial)| Op::Lease { which, wanted, serial }),
        4 => (any::<u8>(), any::<u8>()).prop_map(|(which, addr)| Op::Free { which, addr }),
    ]
}

fn space(global: bool) -> char {
    if global { 'G' } else { 'L' }
}

fn address(offset: u8) -> String {
    std::net::Ipv4Addr::from(WITHIN.0 + u32::from(offset)).to_string()
}

fn got(answer: &Value, key: &str) -> Result<String, ()> {
    if answer["Error"].is_string() {
        Err(())
    } else {
        Ok(answer[key].as_str().unwrap_or("").to_owned())
    }
}

proptest! {
    #![proptest_config(Config { cases: 40, failure_persistence: None, ..Config::default() })]

    #[test]
    fn the_driver_is_the_model(ops in prop::collection::vec(op(), 1..60)) {
        let mut pure = Pure::new();
        let within = sublet::net::Subnet::masked("10.80.0.0".parse().unwrap(), 24).unwrap();
        pure.driver.settings.v4 = vec![sublet::alloc::Block { within, len: 28 }];
        let mut model = Model::default();
        let mut ids: Vec<String> = vec!["L/10.80.0.0/24".to_owned()];
        for op in &ops {
            let id = |which: u8| ids[usize::from(which) % ids.len()].clone();
            match op {
                Op::Pool { global, base, len, part } => {
                    let subnet = masked(WITHIN.0 + u32::from(*base), *len);
                    // Request a sub-pool that is inside the subnet or covers the whole subnet.
                    let part = part.map(|(at, l)| masked(subnet.0 + u32::from(at) % (last(subnet) - subnet.0 + 1), l.max(*len)));
                    let body = json!({"AddressSpace": space(*global), "Pool": text(subnet),
                        "SubPool": part.map(text).unwrap_or_default()});
                    let answer = pure.call("/IpamDriver.RequestPool", &body.to_string()).1;
                    let expected = model.pool(space(*global), Some((subnet, part)));
                    prop_assert_eq!(got(&answer, "PoolID"), expected.clone(), "{:?} {}", op, answer);
                    ids.extend(expected);
                }
                Op::Auto { global } => {
                    let body = json!({"AddressSpace": space(*global)});
                    let answer = pure.call("/IpamDriver.RequestPool", &body.to_string()).1;
                    let expected = model.pool(space(*global), None);
                    prop_assert_eq!(got(&answer, "PoolID"), expected.clone(), "{:?} {}", op, answer);
                    ids.extend(expected);
                }
                Op::Drop { which } => {
                    let id = id(*which);
                    let body = json!({"PoolID": id}).to_string();
                    prop_assert_eq!(pure.call("/IpamDriver.ReleasePool", &body), (200, json!({})));
                    model.drop_pool(&id);
                }
                Op::Lease { which, wanted, serial } => {
                    let id = id(*which);
                    let body = json!({"PoolID": id, "Address": wanted.map(address).unwrap_or_default(),
                        "Options": {"com.docker.network.ipam.serial": serial.to_string()}});
                    let answer = pure.call("/IpamDriver.RequestAddress", &body.to_string()).1;
                    let len = model.pools.get(&id).map_or(0, |p| p.1.1);
                    let wanted = wanted.map(|w| WITHIN.0 + u32::from(w));
                    let expected = model.lease(&id, wanted, *serial).map(|a| text((a, len)));
                    prop_assert_eq!(got(&answer, "Address"), expected, "{:?} {} {}", op, id, answer);
                }
                Op::Free { which, addr } => {
                    let id = id(*which);
                    let body = json!({"PoolID": id, "Address": address(*addr)}).to_string();
                    let answer = pure.call("/IpamDriver.ReleaseAddress", &body).1;
                    let expected = model.free(&id, WITHIN.0 + u32::from(*addr));
                    prop_assert_eq!(got(&answer, "x").map(|_| ()), expected, "{:?} {} {}", op, id, answer);
                }
            }
        }
        let cx = sublet::sys::host::facts(&|_| None).context();
        let mut leased = BTreeSet::new();
        pure.store.list(&cx, &mut |l| assert!(leased.insert(format!("{} {}", l.set, l.addr)))).unwrap();
        prop_assert_eq!(leased.len(), model.leases.len());
        let names: Vec<String> = pure.store.pools().unwrap().into_iter().map(|p| p.id.0).collect();
        prop_assert_eq!(names, model.pools.keys().cloned().collect::<Vec<_>>());
    }
}
