//! Random operations on redb and on the model: the answers and the leases are equal.
//!
//! Two handles to one file take turns, so that every call opens the file as the other handle left it.

use proptest::prelude::*;
use proptest::strategy::Strategy as Generate;
use proptest::test_runner::Config;

use super::contract::{add, addr, at, attachment, del_target, leases, net, owner, set};
use super::memory::Memory;
use crate::alloc::{
    Add, Check, Collected, Command, Context, Cooldown, Del, Gc, OnDuplicate, Outcome, Requested,
    Reserve, Status, Strategy, Target, Unreserve,
};
use crate::error::Error;
use crate::model::{IfName, NetworkName, Origin, Owner, Persist, Pod, Wait};
use crate::net::RangeSet;
use crate::store::{Embedded, Store};

/// Small enough to be full at times, with a block boundary inside.
fn sets(choice: u8) -> Vec<RangeSet> {
    match choice % 4 {
        0 => vec![set("10.0.1.248/29")],
        1 => vec![set("10.0.0.0/22 10.0.1.250 10.0.2.5")],
        2 => vec![set("10.0.1.248/29"), set("fd00::/125")],
        _ => vec![set("fd00::/64 fd00::1fa fd00::206"), set("10.0.1.248/29")],
    }
}

fn strategy(choice: u8) -> Strategy {
    [Strategy::RoundRobin, Strategy::Lowest, Strategy::Random, Strategy::Hash]
        [usize::from(choice % 4)]
}

#[derive(Clone, Debug)]
enum Op {
    Add { who: u8, ranges: u8, wish: Option<u8>, how: u8, cool: u8, same: bool },
    Del { who: u8, undo: bool, rewind: bool },
    DelAt { at: u8 },
    Check { who: u8 },
    Status { ranges: u8 },
    Gc { valid: u16 },
    Reserve { at: u8 },
    Wait { seconds: u8 },
}

fn op() -> impl Generate<Value = Op> {
    prop_oneof![
        8 => (0..12_u8, any::<u8>(), prop::option::weighted(0.2, 0..20_u8), any::<u8>(),
              0..40_u8, prop::bool::weighted(0.9))
            .prop_map(|(who, ranges, wish, how, cool, same)| {
                Op::Add { who, ranges, wish, how, cool, same }
            }),
        4 => (0..12_u8, any::<bool>(), any::<bool>())
            .prop_map(|(who, undo, rewind)| Op::Del { who, undo, rewind }),
        1 => (0..20_u8).prop_map(|at| Op::DelAt { at }),
        1 => (0..12_u8).prop_map(|who| Op::Check { who }),
        1 => any::<u8>().prop_map(|ranges| Op::Status { ranges }),
        1 => any::<u16>().prop_map(|valid| Op::Gc { valid }),
        1 => (0..20_u8).prop_map(|at| Op::Reserve { at }),
        2 => (0..60_u8).prop_map(|seconds| Op::Wait { seconds }),
    ]
}

fn wish(at: u8) -> crate::net::Addr {
    addr(&format!("10.0.1.{}", 240 + at.min(15)))
}

fn command(op: &Op) -> Option<Command> {
    let who = |n: u8| format!("c{n}");
    Some(match op {
        Op::Add { who: n, ranges, wish: wished, how, cool, same } => {
            let name = who(*n);
            let pod = Pod { namespace: "ns".into(), name: who(n / 2), uid: String::new() };
            Command::Add(Add {
                requested: wished
                    .iter()
                    .map(|w| Requested { addr: wish(*w), prefix: None })
                    .collect(),
                strategy: strategy(*how),
                cooldown: Cooldown { seconds: u32::from(*cool), strict: how & 8 != 0 },
                sticky: how & 16 != 0,
                on_duplicate: if *same { OnDuplicate::Same } else { OnDuplicate::Error },
                claim_gateways: how & 32 != 0,
                define: None,
                origin: Origin {
                    attachment: Some(attachment(&name)),
                    pod: Some(pod),
                    ..Origin::default()
                },
                ..add(&name, &sets(*ranges))
            })
        }
        Op::Del { who: n, undo, rewind } => Command::Del(Del {
            set: net(),
            target: Target::Owner(owner(&who(*n))),
            rewind: *rewind,
            undo: *undo,
            legacy: None,
        }),
        Op::DelAt { at } => Command::Del(del_target(Target::Addresses(vec![wish(*at)]))),
        Op::Check { who: n } => Command::Check(Check {
            set: net(),
            owner: owner(&who(*n)),
            sets: sets(*n),
            expected: (n % 2 == 0).then(|| vec![wish(*n)]),
        }),
        Op::Status { ranges } => {
            Command::Status(Status { set: net(), sets: sets(*ranges), strict: ranges & 4 != 0 })
        }
        Op::Gc { valid } => Command::Gc(Gc {
            set: net(),
            network: NetworkName::new("net").unwrap(),
            valid: {
                let mut valid: Vec<_> = (0..12_u8)
                    .filter(|n| valid & (1 << n) != 0)
                    .map(|n| (attachment(&who(n)).container, IfName::new("eth0").unwrap()))
                    .collect();
                valid.sort();
                valid.into()
            },
            after: None,
        }),
        Op::Reserve { at } => Command::Reserve(Reserve {
            set: net(),
            addrs: vec![wish(*at)],
            note: None,
            holder: None,
        }),
        Op::Wait { .. } => return None,
    })
}

/// An answer in a form that can be compared: the model lists owners in another order.
fn answer(store: &mut dyn Store, command: &Command, cx: &Context) -> String {
    match store.apply(command, cx) {
        Ok(Outcome::Collected(Collected { mut freed, done, .. })) => {
            freed.sort_unstable();
            format!("collected {freed:?} {done}")
        }
        Ok(outcome) => format!("{outcome:?}"),
        Err(Error::Refused(refusal)) => format!("{refusal:?}"),
        Err(Error::Store(error)) => panic!("{error}"),
    }
}

proptest! {
    #![proptest_config(Config { cases: 120, failure_persistence: None, ..Config::default() })]

    #[test]
    fn redb_behaves_as_the_model(ops in prop::collection::vec(op(), 1..60), disk in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leases.redb");
        let persist = if disk { Persist::Disk } else { Persist::Boot };
        let mut handles = [(); 2].map(|()| Embedded::new(path.clone(), persist, Wait::Forever));
        let mut model = Memory::default();
        let mut now = 1000;
        for (i, op) in ops.iter().enumerate() {
            if let Op::Wait { seconds } = op {
                now += u64::from(*seconds);
            }
            let Some(command) = command(op) else { continue };
            let cx = at(now);
            let got = answer(&mut handles[i % 2], &command, &cx);
            prop_assert_eq!(got, answer(&mut model, &command, &cx), "{:?}", op);
        }
        prop_assert_eq!(leases(&mut handles[0]), leases(&mut model));
        let owners: Vec<Owner> = leases(&mut model).into_iter().map(|l| l.owner).collect();
        for owner in owners {
            let free_all = if let Owner::Reservation(addr) = owner {
                Command::Unreserve(Unreserve { set: net(), addrs: vec![addr] })
            } else {
                Command::Del(Del { undo: true, ..del_target(Target::Owner(owner)) })
            };
            let got = answer(&mut handles[1], &free_all, &at(now));
            prop_assert_eq!(got, answer(&mut model, &free_all, &at(now)));
        }
        prop_assert!(leases(&mut handles[0]).is_empty());
    }
}
