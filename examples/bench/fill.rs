//! Fills stores with many leases. It uses sublet's own import from host-local, because an import is a single
//! transaction.

use std::fs;
use std::io::Read;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use sublet::alloc::{Add, Command, ForeignLease, Legacy, LegacyCursor, Outcome};
use sublet::config::{Inputs, Netconf};
use sublet::model::{Attachment, ContainerId, IfName, Kind, NetworkName, Owner, StoreSpec};
use sublet::net::Addr;
use sublet::store;
use sublet::sys::host;

use super::bed::{Fill, id};

/// The number of the first container whose lease is imported to fill a store.
pub const FIRST: usize = 10_000_000;

fn address(offset: u32) -> Addr {
    Addr::from(std::net::IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + offset)))
}

/// Runs `bench fill WHAT NETWORK < CONFIGURATION`, which fills sublet's store.
pub fn sublet(fill: Fill, network: &str) -> Result<()> {
    let mut conf = Vec::new();
    std::io::stdin().read_to_end(&mut conf)?;
    let name = |e| anyhow!("{e:?}");
    let (mut add, store) = add_of(&conf, network, id(FIRST - 1))?;
    let ifname = Some(IfName::new("eth0").map_err(name)?);
    let mut leases = Vec::new();
    for (n, offset) in fill.taken().enumerate() {
        let attachment = Attachment {
            network: add.network.clone(),
            container: ContainerId::new(id(FIRST + n)).map_err(name)?,
            ifname: ifname.clone(),
        };
        leases.push(ForeignLease {
            addr: address(offset),
            kind: Kind::Dynamic,
            owner: Owner::Attachment(attachment),
        });
    }
    let cursor = LegacyCursor { index: 0, addr: address(fill.last()) };
    add.legacy = Legacy::Read(leases, vec![cursor]);
    let cx = host::facts(&|_| None).context();
    let mut store = store::open(&store).map_err(|e| anyhow!("{e:?}"))?;
    match store.apply(&Command::Add(add), &cx).map_err(|e| anyhow!("{e:?}"))? {
        Outcome::Added { .. } => Ok(()),
        other => bail!("unexpected: {other:?}"),
    }
}

/// Returns the ADD of a container in a network with this configuration, and the store that the configuration
/// names.
pub fn add_of(conf: &[u8], network: &str, container: String) -> Result<(Add, StoreSpec)> {
    let name = |e| anyhow!("{e:?}");
    let inputs = Inputs {
        container: Some(ContainerId::new(container).map_err(name)?),
        ifname: Some(IfName::new("eth0").map_err(name)?),
        ..Inputs::default()
    };
    let config = Netconf::decode(conf).and_then(|n| n.config(&inputs));
    let config = config.map_err(|e| anyhow!("{e:?}"))?;
    let add = Add {
        set: config.cleanup.set,
        network: NetworkName::new(network).map_err(name)?,
        owner: config.cleanup.owner.context("an owner")?,
        sets: config.sets,
        requested: Vec::new(),
        strategy: config.strategy,
        cooldown: config.cooldown,
        sticky: false,
        on_duplicate: config.on_duplicate,
        claim_gateways: false,
        define: None,
        origin: config.origin,
        statics: Vec::new(),
        gone: Vec::new(),
        legacy: Legacy::Absent,
    };
    Ok((add, config.cleanup.store))
}

/// Fills host-local's store: writes a folder with lease files in host-local's format.
pub fn host_local(dir: &Path, fill: Fill) -> Result<()> {
    fs::create_dir_all(dir)?;
    fs::write(dir.join("lock"), "")?;
    for (n, offset) in fill.taken().enumerate() {
        fs::write(dir.join(address(offset).to_string()), format!("{}\r\neth0", id(FIRST + n)))?;
    }
    fs::write(dir.join("last_reserved_ip.0"), address(fill.last()).to_string())?;
    Ok(())
}
