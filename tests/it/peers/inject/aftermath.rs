//! The conditions that must hold after a command was interrupted. They are checked with two more ADDs, with
//! `list` and `doctor`, and by running the command again.

use std::fs;

use super::Undisturbed;
use super::cases::{Case, SUBJECT, alone};
use super::state::{State, state};
use crate::lab::{Answer, addresses};

/// What the interrupted command reported about its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// The command succeeded (exit status 0).
    Done,
    /// The command reported an error that says that nothing was changed.
    Nothing,
    /// The command reported another error, or was killed.
    Unknown,
}

impl Claim {
    pub fn of(answer: &Answer) -> Claim {
        if answer.succeeded() {
            return Claim::Done;
        }
        let says = |texts: &[&str]| texts.iter().any(|text| answer.stderr.contains(text));
        let nothing =
            ["nothing was leased or freed", "nothing was changed", "nothing was reserved"];
        if says(&nothing) { Claim::Nothing } else { Claim::Unknown }
    }
}

impl Undisturbed {
    /// Checks the state after a run with a fault.
    pub fn check(&self, case: &Case, claim: Claim) -> Result<(), String> {
        let mut new = State::new();
        let mut refused = false;
        for container in ["n1", "n2"] {
            refused |= case.add_new(container, &mut new)?;
        }
        let doctor = alone(case.operator(&["doctor"])).run();
        let found = if refused {
            // `doctor` may report only the problem that the command was meant to repair.
            doctor.check(doctor.code == Some(1), "the doctor");
            if claim == Claim::Done || case.state().is_ok() {
                return Err("done, and an ADD is refused".to_owned());
            }
            None
        } else {
            Case::healthy(&doctor)?;
            Some(case.without(&new)?)
        };
        let happened = found.as_ref() == Some(&self.after);
        let unchanged = found == self.before;
        let right = match claim {
            Claim::Done => happened,
            // A repair neither leases nor frees an address.
            Claim::Nothing if self.before.is_some() => unchanged,
            Claim::Nothing | Claim::Unknown => happened || unchanged,
        };
        if !right {
            return Err(format!(
                "{claim:?}: before {:?}, after {:?}, found {found:?}",
                self.before, self.after
            ));
        }
        self.repeat(case, happened, &mut new)
    }

    /// Runs the command again, which must succeed.
    fn repeat(&self, case: &Case, happened: bool, new: &mut State) -> Result<(), String> {
        let mut again = case.placed(case.call.clone()).run();
        if again.stderr.contains("n1") && !happened {
            // The reservation was not made, because one of the additional ADDs has leased the address.
            new.clear();
            for container in ["n1", "n2"] {
                (case.add)(container).env("CNI_COMMAND", "DEL").run().silent();
            }
            again = case.placed(case.call.clone()).run();
        }
        // The reservation has already been removed, so the repeated command finds nothing to remove.
        let nothing = happened && again.stderr.contains("no reservation of");
        if !again.succeeded() && !nothing {
            return Err(format!("again: {again:?}"));
        }
        if new.is_empty() {
            for container in ["n1", "n2"] {
                if case.add_new(container, new)? {
                    return Err("an ADD is refused after the repetition".to_owned());
                }
            }
        }
        let (mut found, mut after) = (case.without(new)?, self.after.clone());
        if !happened {
            // The ADDs of the other containers ran before this one.
            let held = |state: &mut State| {
                let all = state.len();
                state.retain(|_, holder| holder != SUBJECT);
                all - state.len()
            };
            if held(&mut found) != held(&mut after) {
                return Err(format!("again: {SUBJECT} has another number of addresses"));
            }
        }
        if found == after { Ok(()) } else { Err(format!("again: {found:?}, not {after:?}")) }
    }
}

impl Case {
    pub fn state(&self) -> Result<State, String> {
        let list = self.operator(&["list"]).run();
        if list.is_without_store() {
            return Ok(State::new());
        }
        if !list.succeeded() {
            return Err(format!("list: {list:?}"));
        }
        state(&list.rows(), &self.data().join("mynet"))
    }

    /// Returns the state without these leases. Fails if one of them is missing.
    fn without(&self, new: &State) -> Result<State, String> {
        let mut state = self.state()?;
        for (address, container) in new {
            if state.remove(address).as_ref() != Some(container) {
                return Err(format!("{address} is not listed for {container}"));
            }
        }
        Ok(state)
    }

    /// Runs an ADD for a new container, which must not get the address of the other new container. Returns
    /// whether the ADD was refused. Until the command has repaired or converted the store, the ADD must be
    /// refused.
    fn add_new(&self, container: &str, new: &mut State) -> Result<bool, String> {
        let answer = (self.add)(container).run();
        if !answer.succeeded() {
            let (code, msg) = answer.error();
            let expected = self.refusal.is_some_and(|text| msg.contains(text)) && code == 104;
            return if expected { Ok(true) } else { Err(format!("{container}: {answer:?}")) };
        }
        for address in addresses(&answer.json()) {
            if let Some(other) = new.insert(address.clone(), container.to_owned()) {
                return Err(format!("{address} is given to {other} and {container}"));
            }
        }
        Ok(false)
    }

    /// Checks that `doctor` finds no problem except files that a killed process has left.
    fn healthy(doctor: &Answer) -> Result<(), String> {
        let report = doctor.json();
        for problem in report["problems"].as_array().unwrap() {
            let left = problem["what"].as_str().unwrap().contains("left behind by a process");
            let there = fs::exists(problem["place"].as_str().unwrap()).unwrap();
            if !left || !there {
                return Err(format!("the doctor: {problem}"));
            }
        }
        Ok(())
    }
}
