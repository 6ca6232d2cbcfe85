//! `sublet reserve` and `sublet unreserve`: begin and end reservations. A reserved address is never
//! allocated, except to the pod or container for which it is reserved.
//!
//! Invariant: either all named addresses are reserved, or none. If the addresses do not fit into one
//! transaction of a cluster, the command uses several transactions. If one fails, the command undoes the
//! earlier ones. The error lists the addresses whose reservation could not be undone.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use serde_json::json;

use super::{Call, OpenStore, misuse, network_name};
use crate::alloc;
use crate::engine;
use crate::error::{Error, StoreError};
use crate::model::{SetName, StaticName};
use crate::net::{Addr, Span, Subnet, parse_cidr};
use crate::rows::Text;
use crate::sys::files;

/// The maximum number of addresses in one command. Each address is a record in the store.
const MOST: u128 = 65_536;

/// The maximum length of a file of addresses, in bytes.
const LONGEST_FILE: u64 = 4 << 20;

/// The maximum number of addresses that the command reserves without asking.
const FEW: usize = 256;

/// The maximum number of addresses that one command reserves for a name (`--for`). This many addresses fit
/// into one transaction of a cluster.
const MOST_FOR: usize = 16;

/// Reserve addresses, so that sublet never allocates them.
///
/// A reservation survives reboots and ends with `unreserve`. If one of the addresses is in use, none is
/// reserved. With --for, only the named pod or container can lease the addresses. Give at most one address
/// from each range set of the network.
#[derive(Debug, Args)]
pub struct Reserve {
    #[command(flatten)]
    what: What,
    /// Purpose of the reservation
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Reserve even if the network has no lease yet
    #[arg(long)]
    create: bool,
    /// Owner of the reservation
    #[arg(long, value_name = "TEXT")]
    owner: Option<String>,
    /// Pod (namespace/name) or container name that gets the addresses
    #[arg(long = "for", value_name = "NAME", value_parser = static_name)]
    name: Option<StaticName>,
}

fn static_name(text: &str) -> Result<StaticName, &'static str> {
    StaticName::new(text).map_err(|_| {
        "a pod is namespace/name; a name has letters, digits, \"_\", \".\" and \"-\", and begins with a \
         letter or digit"
    })
}

/// The addresses, and the network to which they belong.
#[derive(Debug, Args)]
pub struct What {
    /// The network's name in its configuration
    #[arg(value_name = "NETWORK")]
    network: String,
    /// Addresses, FIRST-LAST, or prefixes
    #[arg(value_name = "ADDRESS|A-B|CIDR", required_unless_present = "file")]
    addresses: Vec<String>,
    /// File with one entry on each line; text after # is ignored
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Continue without asking
    #[arg(long, short)]
    yes: bool,
}

impl What {
    /// Returns the entries on the command line, followed by the entries in the file.
    fn texts(&self) -> Result<Vec<String>> {
        let Some(file) = &self.file else { return Ok(self.addresses.clone()) };
        let read = files::read(file, LONGEST_FILE);
        let text = read.with_context(|| format!("cannot read {}", file.display()))?;
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        let mut all = self.addresses.clone();
        all.extend(lines.filter(|line| !line.is_empty()).map(str::to_owned));
        if all.is_empty() {
            return Err(misuse(format!("no addresses in {}", file.display())));
        }
        Ok(all)
    }

    /// Returns the network's set of leases and the addresses. With `inside`, fails if an entry overlaps no
    /// range of the network. `unreserve` does not pass `inside`, because the ranges may have changed since
    /// the reservation.
    fn find(&self, inside: bool, open: &mut OpenStore) -> Result<(SetName, Vec<Addr>)> {
        let texts = self.texts()?;
        let spans = texts.iter().map(|text| span(text)).collect::<Result<Vec<Span>>>()?;
        let count = spans.iter().map(|span| span.size()).fold(0, u128::saturating_add);
        if count > MOST {
            return Err(misuse(format!(
                "{} contains {count} addresses, but at most {MOST} can be reserved at a time; exclude these \
                 addresses from the range with \"exclude\" in the network configuration instead",
                texts.join(" ")
            )));
        }
        let asked: Vec<_> = texts.iter().map(String::as_str).zip(spans.iter().copied()).collect();
        let set = set_of(&self.network, &asked, inside, open)?;
        let mut addrs: Vec<Addr> = spans.into_iter().flat_map(Span::addresses).collect();
        addrs.sort_unstable();
        addrs.dedup();
        Ok((set, addrs))
    }

    /// Returns the number of addresses that fit into one transaction of this store.
    fn slice(open: &OpenStore, addrs: &[Addr]) -> usize {
        // A transaction in Consul has at most 64 operations, and each address needs two records.
        if open.is_cluster() { 16 } else { addrs.len().max(1) }
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
        let (network, named) = (&self.network, self.texts()?.join(" "));
        let question = format!("end the reservation of {named} in network {network}");
        if !self.yes && !call.confirm(&question)? {
            return Ok(writeln!(call.stderr, "canceled; nothing was changed")?);
        }
        let mut freed = Vec::new();
        for some in addrs.chunks(What::slice(&open, &addrs)) {
            let unreserve = alloc::Unreserve { set: set.clone(), addrs: some.to_vec() };
            freed.extend(engine::unreserve(&mut *open.store, unreserve, &open.cx)?);
        }
        if freed.is_empty() {
            return Err(anyhow!("no reservation of {named} in network {network}"));
        }
        self.report(&freed, "unreserved", call)
    }
}

impl Reserve {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open_or_create()?;
        let (set, addrs) = self.what.find(true, &mut open)?;
        let network = &self.what.network;
        if !self.create
            && let Some(unknown) = open.unknown(network)?
        {
            return Err(anyhow!(
                "{unknown}; pass `--create` to reserve addresses before the first lease of the \
                 network"
            ));
        }
        if self.name.is_some() && addrs.len() > MOST_FOR {
            let count = addrs.len();
            return Err(misuse(format!(
                "cannot reserve {count} addresses for one name at a time; pass at most {MOST_FOR}"
            )));
        }
        let question = format!("reserve {} addresses", addrs.len());
        if addrs.len() > FEW && !self.what.yes && !call.confirm(&question)? {
            return Ok(writeln!(call.stderr, "nothing was reserved")?);
        }
        let slice = What::slice(&open, &addrs);
        let (note, holder, name) = (self.note.clone(), self.owner.clone(), self.name.clone());
        let reserve = alloc::Reserve { set, addrs, note, holder, name };
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
                    format!(
                        "only some addresses were reserved, and these stay reserved: {}",
                        left.join(", ")
                    )
                })
            }
        }
    }
}

/// Returns a network's set of leases. With `inside`, fails if a span overlaps no range of the network.
pub(super) fn set_of(
    network: &str,
    spans: &[(&str, Span)],
    inside: bool,
    open: &mut OpenStore,
) -> Result<SetName> {
    let network = network_name(network)?;
    let definitions = open.store.networks(&open.cx)?;
    let defined = definitions.iter().find(|d| d.network == network);
    for (text, span) in spans {
        let outside = |d: &&alloc::NetworkRanges| !d.bounds.iter().any(|b| b.overlaps(*span));
        if let Some(definition) = defined.filter(outside).filter(|_| inside) {
            let ranges: Vec<String> = definition.bounds.iter().map(ToString::to_string).collect();
            return Err(anyhow!(
                "{text} is outside the ranges of network {network} ({})",
                ranges.join(", ")
            ));
        }
    }
    Ok(defined.map_or_else(|| SetName(network.to_string()), |d| d.set.clone()))
}

/// Parses an address, a range or a prefix: `10.0.0.7`, `10.0.0.7-10.0.0.9` or `10.0.0.8/29`.
pub(super) fn span(text: &str) -> Result<Span> {
    let bad = || misuse(format!("{text:?} is not an address, a range FIRST-LAST or a prefix"));
    if text.contains('/') {
        let subnet = Subnet::strict(parse_cidr(text).ok_or_else(bad)?)
            .map_err(|subnet| misuse(format!("{text} has host bits; use {subnet}")))?;
        return Ok(subnet.into());
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let read = |text: &str| text.trim().parse::<Addr>().map_err(|_| bad());
    let (first, last) = (read(first)?, read(last)?);
    if first.family() != last.family() {
        return Err(misuse(format!(
            "invalid range {text}: both ends must be in the same address family"
        )));
    }
    Span::new(first, last).ok_or_else(|| {
        misuse(format!("invalid range {text}: the last address is lower than the first"))
    })
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
        assert_eq!(
            text("10.0.0.9-10.0.0.7"),
            "invalid range 10.0.0.9-10.0.0.7: the last address is lower than the first"
        );
        assert!(text("10.0.0.7/24").contains("host bits"));
        for bad in ["", "-", "10.0.0.7-", "10.0.0.0/33", "x/8", "10.0.0.1-fd00::1", "10.0.0.1 2"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }
}
