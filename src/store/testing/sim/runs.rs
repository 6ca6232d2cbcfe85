//! Runs a simulation with one seed after another. If a run fails, shortens it.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use super::super::long;
use super::random::Random;
use crate::sys::panic;

/// The message of a check that failed.
pub type Finding = String;

/// Returns the numbers of the turns in the run of a seed. A turn is one event from outside, such as an ADD or
/// a power cut.
fn turns<S: Simulation>(seed: u64) -> Vec<usize> {
    (0..if seed.is_multiple_of(8) { 250 } else { S::TURNS }).collect()
}

/// A simulation. A seed determines its whole run.
pub trait Simulation {
    /// The number of turns in most runs. A run whose seed is a multiple of 8 has 250 turns.
    const TURNS: usize;

    fn new(seed: u64) -> Self;

    /// Runs one turn: an event from outside, everything that follows from it, and the checks.
    fn turn(&self, random: Random);

    fn with_story(&self, act: &mut dyn FnMut(&mut Story));
}

/// The record of a run: its events and, if a check failed, its finding.
#[derive(Clone, Debug, Default)]
pub struct Story {
    pub trace: Vec<String>,
    pub finding: Option<Finding>,
    /// The number of processes that are suspended.
    pub depth: usize,
    /// The optional parts of the turns so far: events while a process is suspended, and failures of
    /// processes. A shortened run leaves some of them out.
    pub optional: Vec<Optional>,
    turn: usize,
    left_out: Rc<BTreeSet<Optional>>,
    /// The number of steps of all processes that have ended.
    pub steps: u64,
}

/// Identifies an optional part: the number of its turn, and its number within that turn.
type Optional = (usize, usize);

impl Story {
    /// Records the next optional part of the turn. Returns whether this part happens; it does not if the run
    /// is shortened and leaves it out. Leaving a part out does not change the later parts.
    pub fn happens(&mut self) -> bool {
        let before = self.optional.iter().rev().take_while(|(turn, _)| *turn == self.turn).count();
        let next = (self.turn, before);
        self.optional.push(next);
        !self.left_out.contains(&next)
    }

    pub fn note(&mut self, text: impl std::fmt::Display) {
        self.trace.push(format!("{}{text}", "  ".repeat(self.depth)));
    }

    /// Records a finding, which ends the run after this turn. Only the first finding is kept.
    pub fn found(&mut self, what: String) {
        if self.finding.is_none() {
            self.note(format_args!("FINDING: {what}"));
            self.finding = Some(what);
        }
    }
}

/// Runs the given turns of a seed, without the optional parts in `left_out`. Stops at the first finding. A
/// panic counts as a finding.
fn run<S: Simulation>(seed: u64, turns: &[usize], left_out: &[Optional]) -> Story {
    let world = S::new(seed);
    world.with_story(&mut |story| story.left_out = Rc::new(left_out.iter().copied().collect()));
    for turn in turns {
        world.with_story(&mut |story| story.turn = *turn);
        let random = Random::new(seed, 1 + *turn as u64);
        let ended = catch_unwind(AssertUnwindSafe(|| world.turn(random)));
        if let Err(panic) = ended {
            let what = panic::explain(&*panic).msg;
            world.with_story(&mut |story| story.found(what.clone()));
        }
        let mut has_found = false;
        world.with_story(&mut |story| has_found = story.finding.is_some());
        if has_found {
            break;
        }
    }
    let mut story = Story::default();
    world.with_story(&mut |of_world| story = std::mem::take(of_world));
    story
}

/// Shortens a failing run: removes as many turns and optional parts as it can while the run still fails.
fn shrink<S: Simulation>(seed: u64, until: Instant) -> Story {
    let all = turns::<S>(seed);
    let mut failure = run::<S>(seed, &all, &[]);
    let turns = shrunk(all, until, &mut failure, &mut |turns| run::<S>(seed, turns, &[]));
    let kept = failure.optional.clone();
    let without = |kept: &[Optional]| {
        let is_left_out = |optional: &Optional| !kept.contains(optional);
        (0..turns.len())
            .flat_map(|at| (0..MOST_OPTIONAL).map(move |n| (at, n)))
            .map(|(at, n)| (turns[at], n))
            .filter(is_left_out)
            .collect::<Vec<_>>()
    };
    shrunk(kept, until, &mut failure, &mut |kept| run::<S>(seed, &turns, &without(kept)));
    failure
}

/// The maximum number of optional parts in a turn.
const MOST_OPTIONAL: usize = 200;

/// Removes parts of a list, large parts first. Keeps a part if the run without it no longer fails.
fn shrunk<T: Clone>(
    mut list: Vec<T>,
    until: Instant,
    failure: &mut Story,
    run: &mut dyn FnMut(&[T]) -> Story,
) -> Vec<T> {
    let mut part = list.len().div_ceil(2);
    while part > 0 {
        let mut from = 0;
        while from < list.len() && Instant::now() < until {
            let mut fewer = list.clone();
            fewer.drain(from..(from + part).min(list.len()));
            let smaller = run(&fewer);
            if smaller.finding.is_some() {
                (list, *failure) = (fewer, smaller);
            } else {
                from += part;
            }
        }
        part /= 2;
    }
    list
}

/// Runs one seed after another until the time is up. `SUBLET_SEED` sets the first seed, and `SUBLET_SECONDS`
/// the duration. In continuous integration, each run uses new seeds, unless `SUBLET_SEED` is set.
#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a test's own settings")]
pub fn seeds<S: Simulation>(what: &str, default_seconds: u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let is_ci = std::env::var_os("CI").is_some();
    let default_seconds = if is_ci { 60 } else { default_seconds };
    let seconds = number("SUBLET_SECONDS").unwrap_or(if long() { 600 } else { default_seconds });
    let fresh = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() << 16;
    let first = number("SUBLET_SEED").unwrap_or_else(|| if is_ci { fresh() } else { 1 });
    println!("{what}: from SUBLET_SEED={first} on");
    panic::record();
    let begin = Instant::now();
    let (mut steps, mut seed) = (0, first);
    while begin.elapsed() < Duration::from_secs(seconds) {
        let story = run::<S>(seed, &turns::<S>(seed), &[]);
        if story.finding.is_some() {
            // Shortening takes at most two minutes, because the test runner ends a test after five minutes.
            let story = shrink::<S>(seed, Instant::now() + Duration::from_secs(120));
            drop(std::panic::take_hook());
            panic!("{what}, seed {seed}: {}\n{}", story.finding.unwrap(), story.trace.join("\n"));
        }
        steps += story.steps;
        seed += 1;
    }
    drop(std::panic::take_hook());
    let (runs, rate) = (seed - first, steps / begin.elapsed().as_secs().max(1));
    println!("{what}: {runs} runs from seed {first}: {steps} steps, {rate} a second");
    assert!(steps > 0);
}

/// Checks that two runs of a seed have the same trace.
pub fn same_seed_same_run<S: Simulation>() {
    let turns: Vec<usize> = (0..60).collect();
    for seed in 0..5 {
        assert_eq!(run::<S>(seed, &turns, &[]).trace, run::<S>(seed, &turns, &[]).trace);
    }
}
