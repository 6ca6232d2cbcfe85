//! `sublet reserve` and `sublet unreserve`: addresses that are given to nobody.
//!
//! Invariant: all that was named is reserved, or nothing; where a cluster's transactions are too small
//! for that, what was done is taken back, and told if it could not be.

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use serde_json::json;

use super::output;
use super::{Desk, Terminal, confirm, misuse};
use crate::alloc;
use crate::engine;
use crate::model::{NetworkName, SetName};
use crate::net::{Addr, Span, Subnet, parse_cidr};
use crate::rows;

/// Most addresses at a time: each is a record.
const MOST: u128 = 65_536;

/// As many as need no second thought.
const FEW: usize = 256;

/// Set addresses aside: they are given to nobody, over reboots too, until they are unreserved.
///
/// All that is named is reserved, or nothing: an address that somebody holds refuses it all.
#[derive(Debug, Args)]
pub struct Reserve {
    #[command(flatten)]
    what: What,
    /// What for
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Whose they are
    #[arg(long, value_name = "TEXT")]
    owner: Option<String>,
}

/// Let reserved addresses be given again.
#[derive(Debug, Args)]
pub struct Unreserve {
    #[command(flatten)]
    what: What,
}

#[derive(Debug, Args)]
struct What {
    /// The network, as its configuration names it
    #[arg(value_name = "NETWORK")]
    network: String,
    /// An address, FIRST-LAST, or a prefix
    #[arg(value_name = "ADDRESS|A-B|CIDR")]
    addresses: String,
    /// The addresses that were reserved or freed, as JSON
    #[arg(long)]
    json: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl What {
    /// The network's set of leases, and the addresses. Those to reserve have to be in a range of it;
    /// a reservation can be ended whatever the ranges have become.
    fn find(
        &self,
        inside: bool,
        desk: &mut Desk,
        terminal: &mut Terminal<'_>,
    ) -> Result<(SetName, Vec<Addr>)> {
        let span = span(&self.addresses)?;
        let count = span.size();
        if count > MOST {
            return Err(misuse(format!(
                "{} is {count} addresses; at most {MOST} can be reserved at a time: leave them out of \
                 the range instead, with \"exclude\" in its configuration",
                self.addresses
            )));
        }
        let network = NetworkName::new(&*self.network)
            .map_err(|_| misuse(format!("{:?} is no network's name", self.network)))?;
        let definitions = desk.store.networks(&desk.cx)?;
        let defined = definitions.iter().find(|d| d.network == network);
        let outside = |d: &&alloc::NetworkRanges| !d.bounds.iter().any(|b| b.overlaps(span));
        if let Some(definition) = defined.filter(outside).filter(|_| inside) {
            let ranges: Vec<String> = definition.bounds.iter().map(ToString::to_string).collect();
            return Err(anyhow!(
                "{} is in no range of network {network}, which has {}",
                self.addresses,
                ranges.join(", ")
            ));
        }
        if defined.is_none() && !desk.cluster {
            writeln!(
                terminal.stderr,
                "network {network} has given no address in {} yet; this is for when it does",
                desk.place
            )?;
        }
        let set = defined.map_or_else(|| SetName(network.to_string()), |d| d.set.clone());
        let addrs = std::iter::successors(Some(span.first), |addr| addr.next());
        Ok((set, addrs.take_while(|addr| span.contains(*addr)).collect()))
    }

    /// As many as one transaction of this store takes.
    fn slice(desk: &Desk, addrs: &[Addr]) -> usize {
        // Consul takes 64 records, of which each address has two.
        if desk.cluster { 16 } else { addrs.len().max(1) }
    }

    fn tell(&self, done: &[Addr], word: &str, terminal: &mut Terminal<'_>) -> Result<()> {
        if self.json {
            let addresses: Vec<_> = done.iter().copied().map(rows::Text).collect();
            let report = json!({ "network": self.network, "addresses": addresses });
            output::json(terminal.stdout, &report)?;
        } else {
            writeln!(
                terminal.stdout,
                "{word} {} of network {}",
                if let [one] = done {
                    one.to_string()
                } else {
                    format!("{} addresses", done.len())
                },
                self.network
            )?;
        }
        Ok(terminal.stdout.flush()?)
    }
}

impl Reserve {
    pub(super) fn run(&self, desk: &mut Desk, terminal: &mut Terminal<'_>) -> Result<()> {
        let (set, addrs) = self.what.find(true, desk, terminal)?;
        let question = format!("reserve {} addresses", addrs.len());
        if addrs.len() > FEW && !self.what.yes && !confirm(terminal, &question)? {
            return Ok(writeln!(terminal.stderr, "nothing was reserved")?);
        }
        let slice = What::slice(desk, &addrs);
        let reserve =
            alloc::Reserve { set, addrs, note: self.note.clone(), holder: self.owner.clone() };
        match engine::reserve(&mut *desk.store, &reserve, slice, &desk.cx) {
            Ok(done) => self.what.tell(&done, "reserved", terminal),
            Err(failed) if failed.left.is_empty() => {
                Err(failed.error).context("nothing was reserved")
            }
            Err(failed) => {
                let left: Vec<String> = failed.left.iter().map(ToString::to_string).collect();
                Err(failed.error).with_context(|| {
                    format!("these are reserved all the same: {}", left.join(", "))
                })
            }
        }
    }
}

impl Unreserve {
    pub(super) fn run(&self, desk: &mut Desk, terminal: &mut Terminal<'_>) -> Result<()> {
        let (set, addrs) = self.what.find(false, desk, terminal)?;
        let question =
            format!("let {} of network {} be given", self.what.addresses, self.what.network);
        if !self.what.yes && !confirm(terminal, &question)? {
            return Ok(writeln!(terminal.stderr, "nothing was changed")?);
        }
        let mut freed = Vec::new();
        for some in addrs.chunks(What::slice(desk, &addrs)) {
            let unreserve = alloc::Unreserve { set: set.clone(), addrs: some.to_vec() };
            freed.extend(engine::unreserve(&mut *desk.store, unreserve, &desk.cx)?);
        }
        if freed.is_empty() {
            let (network, named) = (&self.what.network, &self.what.addresses);
            return Err(anyhow!("nothing of {named} is reserved in network {network}"));
        }
        self.what.tell(&freed, "unreserved", terminal)
    }
}

/// `10.0.0.7`, `10.0.0.7-10.0.0.9` or `10.0.0.8/29`.
fn span(text: &str) -> Result<Span> {
    let bad = || misuse(format!("{text:?} is no address, FIRST-LAST or prefix"));
    if text.contains('/') {
        let subnet = Subnet::strict(parse_cidr(text).ok_or_else(bad)?)
            .map_err(|subnet| misuse(format!("{text} has host bits; the prefix is {subnet}")))?;
        return Ok(subnet.into());
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let read = |text: &str| text.trim().parse::<Addr>().map_err(|_| bad());
    let (first, last) = (read(first)?, read(last)?);
    if first.family() != last.family() {
        return Err(misuse(format!("{text} begins in one family and ends in another")));
    }
    Span::new(first, last).ok_or_else(|| misuse(format!("{text} ends before it begins")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_one_some_or_a_prefix() {
        let text = |t: &str| span(t).map_or_else(|e| e.to_string(), |s| s.to_string());
        assert_eq!(text("10.0.0.7"), "10.0.0.7-10.0.0.7");
        assert_eq!(text("10.0.0.7-10.0.0.9"), "10.0.0.7-10.0.0.9");
        assert_eq!(text("fd00::/126"), "fd00::-fd00::3");
        assert_eq!(text("10.0.0.9-10.0.0.7"), "10.0.0.9-10.0.0.7 ends before it begins");
        assert!(text("10.0.0.7/24").contains("host bits"));
        for bad in ["", "-", "10.0.0.7-", "10.0.0.0/33", "x/8", "10.0.0.1-fd00::1", "10.0.0.1 2"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }
}
