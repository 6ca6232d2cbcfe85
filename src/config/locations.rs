//! Determines where leases and log lines are stored: the store, how long to wait for its lock, and the log
//! file. The values come from keys and environment variables, in their order of precedence. This module opens
//! neither files nor connections.
//!
//! Invariant: if a configuration names a cluster, a lease file of this node is never used. A DEL uses the
//! same store as an ADD with the same configuration.

use std::path::PathBuf;
use std::time::Duration;

use super::error::{ConfigError, Warning};
use super::fields::Fields;
use super::json::quote;
use super::{Dialect, Inputs, Level, Log, LogFormat, choice, cluster, duration};
use crate::model::{History, NetworkName, Persist, StoreSpec, Wait};

const NATIVE_FILE: &str = "/var/lib/cni/sublet/leases.redb";
const ECS_FILE: &str = "/data/eni-ipam.db";
const FILE_NAME: &str = "leases.redb";
/// The default value of host-local's `dataDir`.
pub const HOST_LOCAL_DIR: &str = "/var/lib/cni/networks";
const DEFAULT_WAIT: Wait = Wait::For(Duration::from_secs(5));

/// The keys and environment variables from which the locations are determined.
#[derive(Clone, Copy)]
pub(super) struct Locations<'a> {
    pub(super) ipam: &'a Fields<'a>,
    pub(super) inputs: &'a Inputs,
    pub(super) dialect: Dialect,
}

impl Locations<'_> {
    /// Returns the store. An invalid value is an error.
    pub(super) fn store(self, warnings: &mut Vec<Warning>) -> Result<StoreSpec, ConfigError> {
        let path = self.path(self.data_dir()?);
        let persist = self.persist()?;
        let wait = self.wait(warnings)?;
        Ok(match cluster::from_ipam(self.ipam, self.dialect, warnings)? {
            Some(mut cluster) => {
                if let Some(servers) = cluster.servers_mut() {
                    servers.persist = persist;
                    servers.history = self.history(History::OF_A_NETWORK, History::Standing)?;
                }
                cluster
            }
            None => StoreSpec::Embedded {
                path,
                persist,
                wait,
                history: self.history(History::default(), History::default())?,
            },
        })
    }

    /// Returns the store, with defaults in place of invalid values. If the cluster's configuration is
    /// invalid, returns [`StoreSpec::Unreadable`], never this node's file.
    pub(super) fn store_or_default(self) -> StoreSpec {
        match cluster::from_ipam(self.ipam, self.dialect, &mut Vec::new()) {
            Ok(None) => {}
            Ok(Some(cluster)) => return cluster,
            Err(e) => return StoreSpec::Unreadable { why: e.to_string() },
        }
        StoreSpec::Embedded {
            path: self.path(self.data_dir().unwrap_or_default()),
            persist: self.persist().unwrap_or_default(),
            wait: self.wait(&mut Vec::new()).unwrap_or(DEFAULT_WAIT),
            history: self
                .history(History::default(), History::default())
                .unwrap_or(History::Standing),
        }
    }

    /// Returns the value of `dataDir`; `None` in the ECS dialect, which does not have this key.
    fn data_dir(&self) -> Result<Option<&str>, ConfigError> {
        if self.dialect == Dialect::Ecs { Ok(None) } else { self.ipam.text("dataDir") }
    }

    fn path(self, data_dir: Option<&str>) -> PathBuf {
        if let Some(path) = self.inputs.db_path.as_deref().filter(|path| !path.trim().is_empty()) {
            return PathBuf::from(path);
        }
        let usual = if self.dialect == Dialect::Ecs { ECS_FILE } else { NATIVE_FILE };
        data_dir.map_or_else(|| PathBuf::from(usual), |dir| PathBuf::from(dir).join(FILE_NAME))
    }

    fn persist(self) -> Result<Persist, ConfigError> {
        choice(self.ipam, "persist", Persist::ALL, Persist::word)
    }

    /// Returns the limits of the history; `absent` if the key `history` is missing. If the key sets only one
    /// of the two limits (`count` and `age`), the other limit comes from `usual`.
    fn history(self, usual: History, absent: History) -> Result<History, ConfigError> {
        const SYNTAX: &str =
            "use \"off\", or an object such as {\"count\": 10000, \"age\": \"720h\"}";
        let Some(node) = self.ipam.get("history") else {
            return Ok(absent);
        };
        let path = node.path().to_owned();
        let bad = || ConfigError::invalid(format!("invalid {path}: {SYNTAX}"));
        if let Ok(text) = node.text() {
            let off = text.eq_ignore_ascii_case("off");
            return if off { Ok(History::Off) } else { Err(bad()) };
        }
        let fields = node.fields().map_err(|_| bad())?;
        let History::Kept { mut count, mut age } = usual else { return Err(bad()) };
        if let Some(written) = fields.integer("count")? {
            count = u64::try_from(written).map_err(|_| {
                ConfigError::invalid(format!("invalid {}.count {written}: {SYNTAX}", fields.path()))
            })?;
        }
        if let Some(text) = fields.text("age")? {
            let time = duration::positive(text)
                .map_err(|e| ConfigError::invalid(format!("{}.age: {e}", fields.path())))?;
            age = time.as_secs();
        }
        if count == 0 || age == 0 {
            return Ok(History::Off);
        }
        Ok(History::Kept { count, age })
    }

    /// Returns how long to wait for the lock of the lease file. The key `lockTimeout` takes precedence over
    /// the environment variable `IPAM_DB_CONNECTION_TIMEOUT`. In the ECS dialect, the variable takes
    /// precedence.
    fn wait(self, warnings: &mut Vec<Warning>) -> Result<Wait, ConfigError> {
        let env = self.inputs.db_timeout.as_deref().map(str::trim).filter(|text| !text.is_empty());
        let env = env.map(|text| ("IPAM_DB_CONNECTION_TIMEOUT", text));
        let key = self.ipam.text("lockTimeout")?.map(|text| ("ipam.lockTimeout", text));
        let written = if self.dialect == Dialect::Ecs { env.or(key) } else { key.or(env) };
        let Some((place, text)) = written else { return Ok(DEFAULT_WAIT) };
        let Some(nanos) = duration::parse(text) else {
            return Err(ConfigError::invalid(format!(
                "parsing timeout string failed: {place} is {}, not {}",
                quote(text),
                duration::SYNTAX
            ))
            .at(self.ipam.path_of("lockTimeout")));
        };
        let (wait, what) = match u64::try_from(nanos) {
            Ok(0) => (Wait::Forever, "makes calls wait for the store without a time limit"),
            Ok(nanos) => return Ok(Wait::For(Duration::from_nanos(nanos))),
            Err(_) => (Wait::Try, "makes calls fail at once if the store is locked"),
        };
        warnings.push(Warning::new(place, format!("{place} {text} {what}")));
        Ok(wait)
    }

    /// Checks the log settings. A value that is not text is an error; an unknown level or format is a
    /// warning.
    pub(super) fn check_log(self, warnings: &mut Vec<Warning>) -> Result<(), ConfigError> {
        self.ipam.text("logFile")?;
        let mut check = |key, known: fn(&str) -> bool, words| {
            if let Some(text) = self.ipam.text(key)?.filter(|text| !known(text)) {
                let why = format!("ipam.{key} is {}, not one of {words} is used", quote(text));
                warnings.push(Warning::new(self.ipam.path_of(key), why));
            }
            Ok(())
        };
        check("logLevel", |t| level(t).is_some(), "debug, info, warn, error, off; info")?;
        check("logFormat", |t| LogFormat::named(t).is_some(), "text, json; text")
    }

    /// Returns the settings of the log: `logFile`, `logLevel` and `logFormat`. In the ECS dialect, the
    /// environment variables for the file and the level take precedence. Invalid values are replaced by
    /// defaults.
    pub(super) fn log(self) -> Log {
        let env = |text: &Option<String>| {
            let text = text.as_deref().filter(|_| self.dialect == Dialect::Ecs);
            text.filter(|text| !text.trim().is_empty()).map(str::to_owned)
        };
        let key = |name| self.ipam.text(name).ok().flatten().map(str::to_owned);
        let file = env(&self.inputs.log_file).or_else(|| key("logFile"));
        let word = env(&self.inputs.log_level).or_else(|| key("logLevel"));
        Log {
            file: file.map(PathBuf::from),
            level: word.and_then(|word| level(&word)).unwrap_or_default(),
            format: key("logFormat").and_then(|word| LogFormat::named(&word)).unwrap_or_default(),
        }
    }

    /// Returns the folder in which host-local keeps the leases of a network.
    pub(super) fn host_local_dir(self, network: &NetworkName) -> PathBuf {
        let dir = self.ipam.text("dataDir").ok().flatten().unwrap_or(HOST_LOCAL_DIR);
        PathBuf::from(dir).join(network.as_str())
    }
}

/// Returns the log level with this name. The names that ecs-ipam uses are also valid.
fn level(word: &str) -> Option<Level> {
    match word.trim().to_ascii_lowercase().as_str() {
        "trace" => Some(Level::Debug),
        "warn" => Some(Level::Warn),
        "critical" => Some(Level::Error),
        word => Level::from_word(word),
    }
}
