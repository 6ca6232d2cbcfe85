//! `sublet reserve` and `sublet unreserve`: addresses that are never allocated.
//!
//! Invariant: all named addresses are reserved, or none. Where a cluster's transactions are too small for
//! that, the finished ones are undone; an error names what could not be undone.

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use serde_json::json;

use super::open::unknown_network;
use super::{Call, OpenStore, misuse, network_name};
use crate::alloc;
use crate::engine;
use crate::error::{Error, StoreError};
use crate::model::SetName;
use crate::net::{Addr, Span, Subnet, parse_cidr};
use crate::rows::Text;

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
    /// Reserve although the network has no lease yet
    #[arg(long)]
    create: bool,
    /// Whose they are
    #[arg(long, value_name = "TEXT")]
    owner: Option<String>,
}

/// Which addresses.
#[derive(Debug, Args)]
pub struct What {
    /// The network, as its configuration names it
    #[arg(value_name = "NETWORK")]
    network: String,
    /// An address, FIRST-LAST, or a prefix
    #[arg(value_name = "ADDRESS|A-B|CIDR")]
    addresses: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl What {
    /// Returns the network's set of leases, and the addresses. Addresses to reserve must be in one of its
    /// ranges; a reservation can be ended whatever the ranges have become.
    fn find(&self, inside: bool, open: &mut OpenStore) -> Result<(SetName, Vec<Addr>)> {
        let span = span(&self.addresses)?;
        let count = span.size();
        if count > MOST {
            return Err(misuse(format!(
                "{} is {count} addresses; at most {MOST} can be reserved at a time: leave them out of \
                 the range instead, with \"exclude\" in its configuration",
                self.addresses
            )));
        }
        let network = network_name(&self.network)?;
        let definitions = open.store.networks(&open.cx)?;
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
        let set = defined.map_or_else(|| SetName(network.to_string()), |d| d.set.clone());
        let addrs = std::iter::successors(Some(span.first), |addr| addr.next());
        Ok((set, addrs.take_while(|addr| span.contains(*addr)).collect()))
    }

    /// As many as one transaction of this store takes.
    fn slice(open: &OpenStore, addrs: &[Addr]) -> usize {
        // Consul takes 64 records, of which each address has two.
        if open.cluster { 16 } else { addrs.len().max(1) }
    }

    fn report(&self, done: &[Addr], word: &str, call: &mut Call<'_>) -> Result<()> {
        if call.as_json {
            let addresses: Vec<_> = done.iter().copied().map(Text).collect();
            return call.json(&json!({ "network": self.network, "addresses": addresses }));
        }
        let what = match done {
            [one] => one.to_string(),
            _ => format!("{} addresses", done.len()),
        };
        Ok(writeln!(call.stdout, "{word} {what} of network {}", self.network)?)
    }

    pub(super) fn unreserve(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open()?;
        let (set, addrs) = self.find(false, &mut open)?;
        let (network, named) = (&self.network, &self.addresses);
        let question = format!("let {named} of network {network} be given");
        if !self.yes && !call.confirm(&question)? {
            return Ok(writeln!(call.stderr, "nothing was changed")?);
        }
        let mut freed = Vec::new();
        for some in addrs.chunks(What::slice(&open, &addrs)) {
            let unreserve = alloc::Unreserve { set: set.clone(), addrs: some.to_vec() };
            freed.extend(engine::unreserve(&mut *open.store, unreserve, &open.cx)?);
        }
        if freed.is_empty() {
            return Err(anyhow!("nothing of {named} is reserved in network {network}"));
        }
        self.report(&freed, "unreserved", call)
    }
}

impl Reserve {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open_or_create()?;
        let (set, addrs) = self.what.find(true, &mut open)?;
        let network = &self.what.network;
        if !self.create {
            let known = open.known_networks()?;
            if !known.contains(network) {
                return Err(anyhow!(
                    "{}; pass --create to reserve before its first lease",
                    unknown_network(network, &known)
                ));
            }
        }
        let question = format!("reserve {} addresses", addrs.len());
        if addrs.len() > FEW && !self.what.yes && !call.confirm(&question)? {
            return Ok(writeln!(call.stderr, "nothing was reserved")?);
        }
        let slice = What::slice(&open, &addrs);
        let reserve =
            alloc::Reserve { set, addrs, note: self.note.clone(), holder: self.owner.clone() };
        match engine::reserve(&mut *open.store, &reserve, slice, &open.cx) {
            Ok(done) => self.what.report(&done, "reserved", call),
            Err(failed) if matches!(failed.error, Error::Store(StoreError::Unanswered { .. })) => {
                Err(failed.error.into())
            }
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
