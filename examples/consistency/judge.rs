//! Decides whether a correct store could have produced the recorded histories.
//!
//! A client certainly holds an address from the time when its ADD succeeds until it sends the DEL. It
//! possibly holds the address from the time when it sends its first ADD until its last DEL succeeds. The
//! judge checks five rules. First, no two containers certainly hold the same address at the same time.
//! Second, an ADD reports that no address is left only if all addresses are possibly held. Third, CHECK finds
//! every lease that is certainly held, and no lease that is certainly gone. Fourth, addresses that are held
//! at the end are in the store's list. Fifth, the store's count of the requests for a pool agrees with the
//! requests that succeeded.
//!
//! If a server was stopped during a request, it may apply the request long after the client has given up and
//! deleted the container. The judge calls the resulting lease `late`. The container possibly holds it from
//! then on, until a GC frees it. If every ADD of the container has a definite outcome, a late lease is a
//! fault.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::event::{Answer, Ask, Event};

/// The history of one container. All times are in nanoseconds.
#[derive(Default)]
struct Life {
    address: Option<String>,
    asked: u128,
    /// The time at which an ADD returned the address; `None` if no ADD succeeded.
    granted: Option<u128>,
    /// The time at which the first DEL was sent; `None` if there was no DEL.
    leaving: Option<u128>,
    /// The time at which a DEL succeeded; `None` if none succeeded.
    gone: Option<u128>,
    /// Whether the outcome of an ADD is unknown and no later ADD returned the address, so that the lease may
    /// appear late.
    late: bool,
}

pub fn judge(files: &[PathBuf], at_least: usize) -> Result<()> {
    let mut events: Vec<Event> = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        for (n, line) in text.lines().enumerate() {
            let event = serde_json::from_str(line);
            events.push(event.with_context(|| format!("{}:{}", file.display(), n + 1))?);
        }
    }
    events.sort_by_key(|e| e.asked);
    let (listed, events): (Vec<Event>, Vec<Event>) =
        events.into_iter().partition(|e| e.ask == Ask::List);
    let lost = events.iter().filter(|e| e.answer == Answer::Error(11)).count();
    let full = events.iter().filter(|e| e.answer == Answer::Error(100)).count();
    let answered = events.len() - lost;
    let lives = lives(&events)?;
    held_once(&lives)?;
    for event in &events {
        match (event.ask, &event.answer) {
            (Ask::Add, Answer::Error(100)) => all_perhaps_held(&lives, event)?,
            (Ask::Check, _) => checked_rightly(&lives, event)?,
            _ => {}
        }
    }
    let left = listed_rightly(&lives, &listed)?;
    users_rightly(&events, &listed)?;
    ensure!(answered >= at_least, "{answered} answers prove nothing");
    println!(
        "sound: {answered} answers, {lost} calls without one, {full} times no address left, {} \
         containers, {left}",
        lives.len(),
    );
    Ok(())
}

/// Checks that the store's list contains the addresses that are held at the end. Any other address in the
/// list must be explained by a call with an unknown outcome. For a pool, the list names no containers.
fn listed_rightly(lives: &BTreeMap<String, Life>, listed: &[Event]) -> Result<String> {
    let there: BTreeSet<(&str, &str)> = listed
        .iter()
        .filter_map(|e| match &e.answer {
            Answer::Address(address) => Some((e.container.as_str(), address.as_str())),
            _ => None,
        })
        .collect();
    let of_pool = there.iter().all(|(name, _)| name.is_empty());
    let key = |(name, life): &(&'_ String, &'_ Life)| -> (String, String) {
        let name = if of_pool { String::new() } else { (*name).clone() };
        (name, life.address.clone().unwrap_or_default())
    };
    let there: BTreeSet<(String, String)> =
        there.iter().map(|(name, address)| ((*name).to_owned(), (*address).to_owned())).collect();
    let granted = || lives.iter().filter(|(_, life)| life.granted.is_some() && life.gone.is_none());
    let kept: BTreeSet<_> =
        granted().filter(|(_, l)| l.leaving.is_none()).map(|l| key(&l)).collect();
    let perhaps: BTreeSet<_> = granted().map(|l| key(&l)).collect();
    let lost: Vec<_> = kept.difference(&there).collect();
    ensure!(lost.is_empty(), "the store does not list {lost:?}");
    let more: Vec<_> = there.difference(&perhaps).collect();
    let late = lives.values().filter(|life| life.late).count();
    let may_be = |name: &String| lives.get(name).is_some_and(|life| life.late);
    let leaked =
        more.iter().find(|(name, _)| if of_pool { more.len() > late } else { !may_be(name) });
    ensure!(leaked.is_none(), "nobody holds {leaked:?}, and the store lists it");
    Ok(format!("{} kept, {} late", kept.len(), more.len()))
}

/// Checks that the store's count of a node's requests for the pool agrees with the calls that succeeded. A
/// call with an unknown outcome may or may not count.
fn users_rightly(events: &[Event], listed: &[Event]) -> Result<()> {
    for list in listed {
        let Answer::Uses(uses) = list.answer else { continue };
        let count = |ask: Ask, sure: bool| {
            let calls = events.iter().filter(|e| e.ask == ask && e.container == list.container);
            calls.filter(|e| !sure || e.answer == Answer::Fine).count()
        };
        let least = count(Ask::Join, true).saturating_sub(count(Ask::Leave, false));
        let most = count(Ask::Join, false) - count(Ask::Leave, true);
        let node = &list.container;
        ensure!(
            (least..=most).contains(&uses),
            "{node} uses the pool {uses} times, and was told {least} to {most}"
        );
    }
    Ok(())
}

fn lives(events: &[Event]) -> Result<BTreeMap<String, Life>> {
    let mut lives: BTreeMap<String, Life> = BTreeMap::new();
    for event in events.iter().filter(|e| !matches!(e.ask, Ask::Join | Ask::Leave)) {
        let life = lives.entry(event.container.clone()).or_default();
        match (event.ask, &event.answer) {
            (Ask::Add, answer) => {
                if life.asked == 0 {
                    life.asked = event.asked;
                }
                if let Answer::Address(address) = answer {
                    life.granted = Some(event.answered);
                    life.address = Some(address.clone());
                }
                life.late |= *answer == Answer::Error(11);
            }
            (Ask::Del, answer) => {
                life.leaving.get_or_insert(event.asked);
                if *answer == Answer::Fine {
                    life.gone = Some(event.answered);
                }
            }
            _ => {}
        }
    }
    for (name, life) in &mut lives {
        life.late &= life.granted.is_none();
        let ends = life.granted.is_some() || life.gone.is_some();
        ensure!(ends, "{name} was left without an answer");
    }
    Ok(lives)
}

fn held_once(lives: &BTreeMap<String, Life>) -> Result<()> {
    let mut sure: Vec<(&str, u128, u128, &str)> = lives
        .iter()
        .filter_map(|(name, life)| {
            let address = life.address.as_deref()?;
            Some((address, life.granted?, life.leaving.unwrap_or(u128::MAX), name.as_str()))
        })
        .collect();
    sure.sort_unstable();
    for pair in sure.windows(2) {
        let [(one, _, end, first), (other, begin, _, second)] = pair else { continue };
        ensure!(one != other || end <= begin, "{one} has two holders: {first} and {second}");
    }
    Ok(())
}

/// Checks that every address that occurs in any of the histories was possibly held at the time of an event.
fn all_perhaps_held(lives: &BTreeMap<String, Life>, event: &Event) -> Result<()> {
    let mut free: BTreeSet<&str> = lives.values().filter_map(|l| l.address.as_deref()).collect();
    for life in lives.values() {
        if let Some(address) = &life.address
            && life.asked < event.answered
            && life.gone.is_none_or(|gone| gone > event.asked)
        {
            free.remove(address.as_str());
        }
    }
    let late = lives.values().filter(|l| l.late && l.asked < event.answered).count();
    let told = &event.container;
    ensure!(free.len() <= late, "{told} is told that no address is left, and {free:?} are");
    Ok(())
}

fn checked_rightly(lives: &BTreeMap<String, Life>, event: &Event) -> Result<()> {
    let Some(life) = lives.get(&event.container) else { return Ok(()) };
    let held = life.granted.is_some_and(|granted| granted <= event.asked)
        && life.leaving.is_none_or(|leaving| leaving >= event.answered);
    let gone = life.gone.is_some_and(|gone| gone <= event.asked);
    let wrong = match event.answer {
        Answer::Error(103) => held,
        Answer::Fine => gone,
        _ => false,
    };
    ensure!(!wrong, "CHECK of {} is {:?}", event.container, event.answer);
    Ok(())
}
