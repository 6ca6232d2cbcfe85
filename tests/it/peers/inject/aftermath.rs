//! Checks the conditions that must hold after a fault has interrupted a command: makes two more ADDs, runs
//! `list` and `doctor`, and repeats the command.

use std::fs;

use super::Undisturbed;
use super::cases::{Case, SUBJECT, alone};
use super::state::{State, state};
use crate::lab::{Answer, addresses};

/// What an interrupted command claims to have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// The command succeeded (exit status 0).
    Done,
    /// The command reported an error which says that it changed nothing.
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
    /// Checks the folder after a run with a fault. Returns the condition that does not hold.
    pub fn check(&self, case: &Case, claim: Claim) -> Result<(), String> {
        let mut new = State::new();
        let mut refused = false;
        for container in ["n1", "n2"] {
            refused |= case.add_new(container, &mut new)?;
        }
        let doctor = alone(case.operator(&["doctor"])).run();
        let found = if refused {
            // If ADDs are refused, the store still has the problem that the command was meant to repair, and
            // `doctor` must report it.
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
            // After a repair, the state before the command is unknown (`None`), so the state cannot be
            // compared with it.
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

    /// Repeats the command, which must succeed, and checks the state again.
    fn repeat(&self, case: &Case, happened: bool, new: &mut State) -> Result<(), String> {
        let mut again = case.placed(case.call.clone()).run();
        if again.stderr.contains("n1") && !happened {
            // The interrupted command did not reserve the address, and one of the additional ADDs has leased
            // it. Free the address, and repeat the command.
            new.clear();
            for container in ["n1", "n2"] {
                (case.add)(container).env("CNI_COMMAND", "DEL").run().silent();
            }
            again = case.placed(case.call.clone()).run();
        }
        // If the interrupted command has removed the reservation, the repeated command may report that there
        // is no reservation.
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
            // The additional ADDs ran before the repeated command, so the command may lease other addresses.
            // Compare only their number.
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

    /// Returns the state without the leases in `new`. Fails if one of these leases is missing.
    fn without(&self, new: &State) -> Result<State, String> {
        let mut state = self.state()?;
        for (address, container) in new {
            if state.remove(address).as_ref() != Some(container) {
                return Err(format!("{address} is not listed for {container}"));
            }
        }
        Ok(state)
    }

    /// Runs an ADD for a new container. Its addresses must differ from those in `new`, to which this function
    /// adds them. Returns whether the ADD was refused with the error [`Case::refusal`], which is expected
    /// until the command has repaired or converted the store.
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

    /// Checks that `doctor` reports no problem except files that a killed process has left.
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
