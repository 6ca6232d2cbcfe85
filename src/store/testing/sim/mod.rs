//! Simulates hosts that run the embedded store's own code on an in-memory disk.
//!
//! A seed determines the whole run: time is virtual and there are no threads. At any file system operation a
//! process may be killed, get an error or be suspended; other processes run while it is suspended. After
//! each turn (one event from outside, such as an ADD or a power cut), `list` must agree with the results
//! that commands have returned.

pub mod disk;
pub mod random;
mod world;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use self::random::Random;
use self::world::{Finding, World, turn};
use super::long;

/// How many turns a run has.
const TURNS: usize = 250;

/// A run that failed.
struct Failure {
    finding: Finding,
    trace: Vec<String>,
}

/// Runs these turns of a seed; the number of steps.
fn run(seed: u64, turns: &[usize]) -> Result<u64, Failure> {
    let world = Rc::new(RefCell::new(World::new(seed)));
    for number in turns {
        let random = Random::new(seed, 1 + *number as u64);
        if let Err(finding) = turn(&world, random) {
            let trace = std::mem::take(&mut world.borrow_mut().trace);
            return Err(Failure { finding, trace });
        }
    }
    let steps = world.borrow().steps;
    Ok(steps)
}

/// Leaves out as many turns as can be left out of a run that fails.
fn shrink(seed: u64) -> Option<Failure> {
    let mut turns: Vec<usize> = (0..TURNS).collect();
    let mut failure = run(seed, &turns).err()?;
    let mut part = turns.len() / 2;
    while part > 0 {
        let mut from = 0;
        while from < turns.len() {
            let mut fewer = turns.clone();
            fewer.drain(from..(from + part).min(turns.len()));
            match run(seed, &fewer) {
                Err(smaller) => (turns, failure) = (fewer, smaller),
                Ok(_) => from += part,
            }
        }
        part /= 2;
    }
    Some(failure)
}

/// Runs seeds from `first` on until the time is over; steps and runs.
fn seeds(first: u64, time: Duration) -> (u64, u64) {
    let (begin, all) = (Instant::now(), (0..TURNS).collect::<Vec<_>>());
    let (mut steps, mut runs) = (0, 0);
    while begin.elapsed() < time {
        let seed = first + runs;
        let Ok(more) = run(seed, &all) else {
            let failure = shrink(seed).expect("the same seed gives the same run");
            panic!("seed {seed}: {}\n{}", failure.finding, failure.trace.join("\n"));
        };
        steps += more;
        runs += 1;
    }
    (steps, runs)
}

/// `SUBLET_SEED` begins with that seed, `SUBLET_SECONDS` sets for how long.
#[test]
#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a test's own settings")]
fn simulated_hosts_never_lease_an_address_twice() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seconds = number("SUBLET_SECONDS").unwrap_or(if long() { 600 } else { 20 });
    let first = number("SUBLET_SEED").unwrap_or(1);
    let (steps, runs) = seeds(first, Duration::from_secs(seconds));
    println!("{runs} runs from seed {first}: {steps} steps in {seconds} s");
    assert!(steps > 0);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let all: Vec<usize> = (0..60).collect();
    let trace = |seed| {
        let world = Rc::new(RefCell::new(World::new(seed)));
        for number in &all {
            turn(&world, Random::new(seed, 1 + *number as u64)).unwrap();
        }
        std::mem::take(&mut world.borrow_mut().trace)
    };
    for seed in 0..5 {
        assert_eq!(trace(seed), trace(seed));
    }
}
