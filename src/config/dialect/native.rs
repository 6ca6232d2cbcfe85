//! The native dialect: host-local's keys and sublet's own keys.
//!
//! This module interprets sublet's own keys. `host_local` reads ranges and routes, and `locations` reads
//! where the leases are stored.
//! Invariant: every error gives the path of the invalid value, and says which values are valid.

use super::host_local::{Sources, range_sets, routes};
use crate::alloc::{Cooldown, OnDuplicate, Strategy};
use crate::config::args;
use crate::config::args::Args;
use crate::config::cidr::span;
use crate::config::error::{ConfigError, Warning};
use crate::config::fields::Fields;
use crate::config::locations::Locations;
use crate::config::netconf::{Netconf, attachment};
use crate::config::statics::Statics;
use crate::config::{Cleanup, Config, Dialect, Inputs, choice, define, dns, duration, keys};
use crate::model::{NetworkName, Owner, SetName, StoreSpec};
use crate::net::{Range, RangeSet, Span};

/// The maximum number of entries in `exclude`.
const MOST_EXCLUDED: usize = 4096;

/// Returns the complete configuration, from host-local's keys and sublet's own. The Consul dialect has the
/// same keys, so this function handles it too.
pub fn config(conf: &Netconf, inputs: &Inputs, dialect: Dialect) -> Result<Config, ConfigError> {
    let mut warnings = Vec::new();
    let root = conf.root();
    let ipam = conf.ipam()?;
    let network = conf.name();
    let locations = Locations { ipam: &ipam, inputs, dialect };
    keys::warn_of_typos(&ipam, keys::IPAM, &mut warnings);
    let args = Args::parse(&inputs.args);
    let exclude = exclude(&ipam);
    let statics = Statics::read(&ipam);
    let none = Vec::new();
    let excluded = exclude.as_ref().unwrap_or(&none);
    let kept = statics.iter().flat_map(Statics::spans);
    let not_searched: Vec<Span> = excluded.iter().copied().chain(kept).collect();
    let sets = range_sets(
        &Sources {
            root: &root,
            ipam: &ipam,
            exclude: &not_searched,
            mask: dialect == Dialect::Consul,
            one_per_family: inputs.one_per_family.then(|| conf.version()),
        },
        &mut warnings,
    );
    warn_of_unused_exclusions(excluded, sets.as_deref().unwrap_or_default(), &mut warnings);
    let placed = match (&statics, &sets) {
        (Ok(statics), Ok(sets)) => statics.check(sets),
        _ => Ok(()),
    };
    let shared = shared(&ipam);
    let store = locations.store(&mut warnings);
    let wanted = args.as_ref().map_or(Ok(Vec::new()), |args| args::wanted(&root, args));
    let strategy = strategy(&ipam, store.as_ref().unwrap_or(&locations.store_or_default()));
    let cooldown = cooldown(&ipam);
    let sticky = ipam.flag("sticky");
    let on_duplicate = choice(&ipam, "onDuplicate", OnDuplicate::ALL, OnDuplicate::word);
    let status_fails_when_full = status_fails_when_full(&ipam);
    // If `store` is invalid, it is unknown whether the configuration names a cluster, so `define` is not
    // checked.
    let define = store.as_ref().map_or(Ok(None), |store| define::requested(conf, dialect, store));
    let routes = routes(&ipam, &mut warnings);
    let dns = dns::dns(&ipam);
    let log = locations.check_log(&mut warnings);
    // An ADD reports only the first error; `sublet check` reports all errors.
    let found = [
        network.as_ref().err(),
        args.as_ref().err(),
        exclude.as_ref().err(),
        statics.as_ref().err(),
        sets.as_ref().err(),
        placed.as_ref().err(),
        shared.as_ref().err(),
        store.as_ref().err(),
        wanted.as_ref().err(),
        strategy.as_ref().err(),
        cooldown.as_ref().err(),
        sticky.as_ref().err(),
        on_duplicate.as_ref().err(),
        status_fails_when_full.as_ref().err(),
        define.as_ref().err(),
        routes.as_ref().err(),
        dns.as_ref().err(),
        log.as_ref().err(),
    ];
    ConfigError::all(found.into_iter().flatten())?;
    let (network, args) = (network?, args?);
    let statics = statics?;
    let origin = args.origin(&root, attachment(&network, inputs));
    Ok(Config {
        wanted: wanted?,
        strategy: strategy?,
        cooldown: cooldown?,
        sticky: sticky?,
        statics: statics.of(&origin),
        assigned: statics.names(),
        on_duplicate: on_duplicate?,
        status_fails_when_full: status_fails_when_full?,
        claim_gateways: false,
        origin,
        define: define?,
        routes: routes?,
        dns: dns?,
        cleanup: Cleanup { store: store?, ..cleanup(conf, inputs, dialect) },
        sets: sets?,
        warnings,
    })
}

/// Returns what a DEL or GC needs. Uses only the valid parts of the configuration, so it never fails.
pub fn cleanup(conf: &Netconf, inputs: &Inputs, dialect: Dialect) -> Cleanup {
    let ipam = conf.ipam_or_empty();
    let locations = Locations { ipam: &ipam, inputs, dialect };
    let network = conf.name().unwrap_or_else(|_| NetworkName::unnamed());
    let set = shared(&ipam).ok().flatten().unwrap_or_else(|| network.clone());
    let store = locations.store_or_default();
    // host-local's folder contains only this host's leases, so a cluster never imports it.
    let legacy_dir = (dialect == Dialect::Native && !store.is_cluster())
        .then(|| locations.host_local_dir(&network));
    Cleanup {
        dialect,
        set: SetName(set.to_string()),
        owner: attachment(&network, inputs).map(Owner::Attachment),
        addrs: Vec::new(),
        rewind: false,
        store,
        legacy_dir,
        log: locations.log(),
        network,
    }
}

fn status_fails_when_full(ipam: &Fields) -> Result<bool, ConfigError> {
    const KEY: &str = "statusWhenFull";
    match ipam.text(KEY)? {
        None | Some("warn") => Ok(false),
        Some("fail") => Ok(true),
        Some(text) => Err(ipam.bad_text(KEY, text, "use \"warn\" or \"fail\"")),
    }
}

fn shared(ipam: &Fields) -> Result<Option<NetworkName>, ConfigError> {
    let Some(text) = ipam.text("shared")? else {
        return Ok(None);
    };
    NetworkName::new(text).map(Some).map_err(|_| {
        let takes = "a name must begin with a letter or digit and continue with letters, digits, \"_\", \".\" \
                     and \"-\"";
        ipam.bad_text("shared", text, takes)
    })
}

fn exclude(ipam: &Fields) -> Result<Vec<Span>, ConfigError> {
    match ipam.get("exclude") {
        None => Ok(Vec::new()),
        Some(node) if node.is_list() => {
            let items = node.list()?;
            ConfigError::bound(node.path(), "entries", items.len(), MOST_EXCLUDED)?;
            let spans: Vec<_> = items.iter().map(span).collect();
            ConfigError::all(spans.iter().filter_map(|span| span.as_ref().err()))?;
            spans.into_iter().collect()
        }
        Some(node) => match node.text() {
            Ok("") => Ok(Vec::new()),
            Ok(_) => Ok(vec![span(&node)?]),
            Err(_) => Err(node.must_be("a string or a list of strings")),
        },
    }
}

/// Warns about entries of `exclude` outside every range, which are probably typing errors.
fn warn_of_unused_exclusions(exclude: &[Span], sets: &[RangeSet], warnings: &mut Vec<Warning>) {
    let bounds = || sets.iter().flat_map(RangeSet::ranges).map(Range::bounds);
    for span in exclude.iter().filter(|span| !bounds().any(|b| b.overlaps(**span))) {
        let text = format!("ipam.exclude: {span} is outside every range");
        warnings.push(Warning::new("ipam.exclude", text));
    }
}

fn strategy(ipam: &Fields, store: &StoreSpec) -> Result<Strategy, ConfigError> {
    if ipam.text("strategy")?.is_none() && store.is_cluster() {
        // With round robin, the default for lease files, all nodes of a cluster would compete for the same
        // next address.
        return Ok(Strategy::Hash);
    }
    choice(ipam, "strategy", Strategy::ALL, Strategy::word)
}

fn cooldown(ipam: &Fields) -> Result<Cooldown, ConfigError> {
    let strict = ipam.flag("cooldownStrict")?;
    let Some(text) = ipam.text("cooldown")? else {
        return Ok(Cooldown { seconds: 0, strict });
    };
    let takes = || format!("use {}, 0 or more", duration::SYNTAX);
    let time = duration::positive(text).map_err(|_| ipam.bad_text("cooldown", text, &takes()))?;
    let seconds = u32::try_from(time.as_nanos().div_ceil(1_000_000_000)).unwrap_or(u32::MAX);
    Ok(Cooldown { seconds, strict })
}
