//! The command line and the environment of subletd. There are three dialects: subletd's own, gipam's and
//! kontena-ipam's.
//!
//! This module defines flags, variables, their order of precedence (a flag, `SUBLET_*`, `GIPAM_*`,
//! `KONTENA_IPAM_*`) and defaults.
//! Invariant: subletd does not listen until this module has checked all settings.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use serde_json::json;

use super::api::Driver;
use super::cleanup;
use super::dockerd;
use super::routes::host_routes;
use super::server;
use super::server::{Backend, Cleanup, ServerConfig};
use super::settings::{Settings, block, supernet};
use crate::alloc;
use crate::alloc::Block;
use crate::config;
use crate::config::{Level, LogFormat, duration};
use crate::engine;
use crate::migrate::gipam;
use crate::model::{Face, History, Persist, StoreSpec, Wait};
use crate::net::{Family, Span, Subnet};
use crate::store;
use crate::sys::files;
use crate::sys::host;
use crate::sys::host::Facts;
use crate::telemetry::log::{Entry, Log};

/// Lease addresses to Docker's networks and containers, as an IPAM plugin.
///
/// docker network create --ipam-driver sublet ...
///
/// Flags override environment variables. SUBLET_* overrides GIPAM_*, and GIPAM_* overrides KONTENA_IPAM_*.
#[derive(Debug, Parser)]
#[allow(clippy::doc_markdown, reason = "users see these texts unchanged")]
#[command(
    name = "subletd",
    version,
    disable_help_subcommand = true,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Free this node's addresses and pools that the local dockerd does not know
    Cleanup {
        /// Print what would be freed without freeing it
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
#[allow(clippy::doc_markdown, reason = "users see these texts unchanged")]
struct Common {
    /// The lease file, or a cluster that several hosts share, such as {"etcd": {"endpoints": [...]}} [default:
    /// the etcd of $ETCD_ENDPOINT, else $IPAM_DB_PATH, else /var/lib/cni/sublet/leases.redb]. May be repeated:
    /// the status page shows all stores, and the driver leases from the first one
    #[arg(long, value_name = "PATH|JSON", global = true)]
    store: Vec<OsString>,
    /// This host's unique name in a cluster [default: $NODE_ID, else the host name]
    #[arg(long, value_name = "NAME", global = true, value_parser = host::node_name)]
    node: Option<String>,
    /// Names of the two address spaces (kontena-ipam uses kontenalocal,kontenaglobal) [default:
    /// $SUBLET_ADDRESS_SPACES, else sublet-local,sublet-global]
    #[arg(long, value_name = "LOCAL,GLOBAL", global = true)]
    address_spaces: Option<String>,
    /// Socket of dockerd's API, for cleanup
    #[arg(long, value_name = "SOCKET", default_value = "/run/docker.sock", global = true)]
    docker: PathBuf,
    #[command(flatten)]
    limits: Limits,
}

#[derive(Debug, Args)]
#[allow(clippy::doc_markdown, reason = "users see these texts unchanged")]
struct Serve {
    /// A unix socket; its file name is the driver's name. May be repeated: gipam.sock and kontena-ipam.sock
    /// serve the existing networks of these two drivers [default: /run/docker/plugins/sublet.sock]
    #[arg(long, value_name = "PATH")]
    socket: Vec<PathBuf>,
    #[command(flatten)]
    tcp: Tcp,
    /// Supernet of automatic IPv4 pools; may be repeated
    /// [env: SUBLET_V4, GIPAM_V4, KONTENA_IPAM_SUPERNET] [default: 10.80.0.0/12]
    #[arg(long, value_name = "CIDR", value_parser = supernet)]
    v4: Vec<Subnet>,
    /// Prefix length of an automatic IPv4 pool
    /// [env: SUBLET_V4_BLOCK, GIPAM_V4AB, KONTENA_IPAM_SUBNET_LENGTH] [default: 24]
    #[arg(long, value_name = "BITS", alias = "v4ab")]
    v4_block: Option<u8>,
    /// Supernet of automatic IPv6 pools; may be repeated [env: SUBLET_V6, GIPAM_V6]
    #[arg(long, value_name = "CIDR", value_parser = supernet)]
    v6: Vec<Subnet>,
    /// Prefix length of an automatic IPv6 pool [env: SUBLET_V6_BLOCK, GIPAM_V6AB] [default: 64]
    #[arg(long, value_name = "BITS", alias = "v6ab")]
    v6_block: Option<u8>,
    /// A prefix that automatic pools avoid, such as the prefix of a VPN; may be repeated. Automatic pools always
    /// avoid the host's routes
    #[arg(long, value_name = "CIDR", value_parser = supernet)]
    avoid: Vec<Subnet>,
    /// Ask dockerd for MAC addresses, and record them with the leases
    #[arg(long)]
    mac: bool,
    /// gipam's lease file. It is imported once, and then renamed to FILE.taken-over [env: GIPAM_FILE]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Longest time for a request, including the wait for the store
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Log level: debug, info, warn or error, or kontena's numbers 0 to 3 [env: LOG_LEVEL] [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Append the log to this file instead of standard error. The file is opened for each event
    #[arg(long, value_name = "PATH")]
    log_file: Option<PathBuf>,
    /// Log format: text or json [env: LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    #[command(flatten)]
    page: Page,
    /// Serve only the status page, without the driver and its socket
    #[arg(
        long,
        requires = "http",
        conflicts_with_all = ["socket", "address", "cert", "mac", "avoid", "file", "cleanup_every"]
    )]
    no_docker: bool,
    /// Run `subletd cleanup` at this interval
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    cleanup_every: Option<Duration>,
}

/// What a cleanup must not free.
#[derive(Clone, Debug, Args)]
pub struct Limits {
    /// Report what would be freed, but free nothing.
    #[arg(skip)]
    pub dry_run: bool,
    /// Free nothing if no network that dockerd lists has a pool of this store. The pools may belong to
    /// another dockerd.
    #[arg(skip)]
    pub only_if_served: bool,
    /// Keep leases that are younger than this when the cleanup starts
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration, global = true)]
    pub grace: Duration,
    /// Keep addresses that answer a ping
    #[arg(long, global = true)]
    pub probe: bool,
}

/// The TCP address of the server, and the clients that may connect to it.
#[derive(Clone, Debug, Args)]
#[allow(clippy::doc_markdown, reason = "users see these texts unchanged")]
pub struct Tcp {
    /// Listen on TCP instead of a unix socket [env: SUBLET_ADDRESS, GIPAM_ADDRESS]
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Option<String>,
    /// File in which dockerd looks up the TCP address; with TLS, the same name with .json
    #[arg(long, value_name = "PATH", default_value = "/etc/docker/plugins/sublet.spec")]
    pub spec: PathBuf,
    /// Allow plain TCP on an address that other hosts can reach
    #[arg(long)]
    pub insecure: bool,
    /// The server's certificate, and the authority that signs the clients' certificates.
    #[command(flatten)]
    pub tls: Option<Tls>,
    /// Client certificate of dockerd, which the .json file names [default: the server's certificate]
    #[arg(long, value_name = "PATH", requires = "tls_client_key")]
    pub tls_client_cert: Option<PathBuf>,
    /// Private key of dockerd's client certificate
    #[arg(long, value_name = "PATH", requires = "tls_client_cert")]
    pub tls_client_key: Option<PathBuf>,
}

/// The PEM files for TLS.
#[derive(Clone, Debug, Args)]
pub struct Tls {
    /// The server's certificate (PEM)
    #[arg(long = "tls-cert", value_name = "PATH", required = false, requires_all = ["key", "ca"])]
    pub cert: PathBuf,
    /// Key of the server's certificate
    #[arg(long = "tls-key", value_name = "PATH", required = false, requires = "cert")]
    pub key: PathBuf,
    /// Certificate of the authority that signed the certificates of the server and of dockerd
    #[arg(long = "tls-ca", value_name = "PATH", required = false, requires = "cert")]
    pub ca: PathBuf,
}

/// The options of the status page. The page does not depend on the driver, but runs in the same process.
#[derive(Debug, Args)]
pub struct Page {
    /// Serve a read-only status page, a JSON API and Prometheus metrics over plain HTTP
    #[arg(long, value_name = "HOST:PORT")]
    pub http: Option<String>,
    /// Allow an `--http` address that other hosts can reach. Other hosts can then read all leases
    #[arg(long, requires = "http")]
    pub http_public: bool,
    /// Additional host name that requests for the page may use, besides addresses and localhost; may be
    /// repeated
    #[arg(long, value_name = "NAME", requires = "http")]
    pub http_name: Vec<String>,
}

/// Starts the status page for these stores, if the page is configured. The page runs until the process ends.
pub type OpenPage<'a> = &'a dyn Fn(&Page, Vec<PageStore>, &Backend) -> Result<()>;

/// A store that the page shows, and this node's context for commands on this store.
pub type PageStore = (StoreSpec, alloc::Context);

/// Looks up an environment variable.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// gipam's flags. gipam accepted them with a single dash.
const GIPAM: [&str; 6] = ["address", "file", "v6", "v6ab", "v4", "v4ab"];

/// Returns the definition of all flags with their help texts. The man page is generated from this definition.
pub fn definition() -> clap::Command {
    Cli::command()
}

/// Runs subletd. Returns the text to print, or clap's message and the exit code.
pub fn run(
    args: Vec<OsString>,
    env: Env<'_>,
    facts: &Facts,
    page: OpenPage<'_>,
) -> Result<String, (anyhow::Error, u8)> {
    let cli = match Cli::try_parse_from(args.into_iter().map(with_two_dashes)) {
        Ok(cli) => cli,
        Err(e) if e.use_stderr() => return Err((anyhow!("{}", e.render()), 2)),
        Err(e) => return Ok(e.render().to_string()),
    };
    let facts = &facts.named(cli.common.node.as_deref());
    let done = match &cli.command {
        Some(Command::Cleanup { dry_run }) => cli.cleanup(*dry_run, env, facts),
        None => cli.serve(env, facts, page).map(|()| String::new()),
    };
    done.map_err(|e| (e, 1))
}

/// Converts gipam's flags to the form with two dashes: `-v4` to `--v4`.
fn with_two_dashes(arg: OsString) -> OsString {
    let Some(text) = arg.to_str() else { return arg };
    let name = text.split('=').next().unwrap_or_default();
    match name.strip_prefix('-') {
        Some(flag) if GIPAM.contains(&flag) => OsString::from(format!("-{text}")),
        _ => arg,
    }
}

/// Returns the name and the value of the first of these variables that is set and not empty.
fn first_set<'n>(env: Env<'_>, names: &[&'n str]) -> Result<Option<(&'n str, String)>> {
    for name in names {
        if let Some(value) = env(name).filter(|value| !value.is_empty()) {
            let value = value
                .into_string()
                .map_err(|_| anyhow!("the value of {name} is not valid UTF-8"))?;
            return Ok(Some((name, value)));
        }
    }
    Ok(None)
}

/// Returns the value of a flag or, if the flag is absent, of the first of these variables that is set.
fn flag_or_variable(flag: Option<&String>, env: Env<'_>, names: &[&str]) -> Result<Option<String>> {
    match flag {
        Some(text) => Ok(Some(text.clone())),
        None => Ok(first_set(env, names)?.map(|(_, text)| text)),
    }
}

/// Returns whether standard error is the stream that `JOURNAL_STREAM` names by its device and inode. A child
/// process may inherit the variable although its own standard error goes elsewhere (systemd.exec(5)).
fn is_stderr(stream: &OsString) -> bool {
    let stat = rustix::fs::fstat(std::io::stderr());
    stat.is_ok_and(|s| stream.to_str() == Some(&format!("{}:{}", s.st_dev, s.st_ino)))
}

/// Parses the cluster in the value of a flag or variable. `name` is the flag or variable, for messages.
fn cluster(name: &str, json: &str, timeout: Duration, log: &Log) -> Result<StoreSpec> {
    let (mut spec, warnings) = config::store(json).with_context(|| name.to_owned())?;
    for warning in warnings {
        log.write(&Entry::new(Level::Warn, format!("{name}: {warning}")));
    }
    if let Some(servers) = spec.servers_mut() {
        servers.timeout = servers.timeout.min(timeout);
    }
    Ok(spec)
}

/// Makes the context for commands on a store. In a cluster, this fails if the node has no name.
fn context(facts: &Facts, store: &StoreSpec) -> Result<alloc::Context> {
    let cx = alloc::Context { face: Face::Docker, ..facts.context_of(store) };
    ensure!(
        !store.is_cluster() || !cx.node.name.is_empty(),
        "this host has no name, but a cluster requires a node name; pass `--node NAME`"
    );
    Ok(cx)
}

impl Cli {
    fn settings(&self, env: Env<'_>) -> Result<Settings> {
        let mut settings = Settings::default();
        let flag = self.common.address_spaces.as_ref();
        if let Some(text) = flag_or_variable(flag, env, &["SUBLET_ADDRESS_SPACES"])? {
            settings.set_spaces(&text).map_err(|e| anyhow!("--address-spaces: {e}"))?;
        }
        Ok(settings)
    }

    /// Returns the stores. The driver uses the first one.
    fn stores(&self, env: Env<'_>, facts: &Facts, log: &Log) -> Result<Vec<PageStore>> {
        let named: Vec<Option<&OsString>> = match self.common.store.as_slice() {
            [] => vec![None],
            all => all.iter().map(Some).collect(),
        };
        let is_one = named.len() == 1;
        ensure!(is_one || self.serve.page.http.is_some(), "a repeated `--store` requires `--http`");
        let mut stores: Vec<PageStore> = Vec::new();
        for name in named {
            let spec = self.store(name.cloned(), env, log)?;
            let place = spec.place();
            let is_new = stores.iter().all(|(other, _)| other.place() != place);
            ensure!(
                is_new,
                "two `--store` options name the same store, {place}; pass each store once"
            );
            let cx = context(facts, &spec)?;
            stores.push((spec, cx));
        }
        Ok(stores)
    }

    /// Returns the store that `named` specifies or, if it is `None`, the store that the environment
    /// specifies. A cluster's timeout is at most the timeout of a request.
    fn store(&self, named: Option<OsString>, env: Env<'_>, log: &Log) -> Result<StoreSpec> {
        let timeout = self.serve.timeout;
        let json = named.as_ref().and_then(|s| s.to_str()).map(str::trim_start);
        if let Some(json) = json.filter(|json| json.starts_with('{')) {
            return cluster("--store", json, timeout, log);
        }
        let variable = env("IPAM_DB_PATH").filter(|path| !path.is_empty());
        if named.is_none()
            && let Some((name, text)) = first_set(env, &["ETCD_ENDPOINT"])?
        {
            ensure!(
                variable.is_none(),
                "{name} and IPAM_DB_PATH name different stores; unset one of the two variables, or pass \
                 `--store`"
            );
            let endpoints: Vec<&str> = text.split(',').map(str::trim).collect();
            let json = json!({ "etcd": { "endpoints": endpoints } }).to_string();
            return cluster(name, &json, timeout, log);
        }
        let path = named.or(variable).map(PathBuf::from);
        let path = path.unwrap_or_else(|| PathBuf::from("/var/lib/cni/sublet/leases.redb"));
        Ok(StoreSpec::Embedded {
            path,
            persist: Persist::Disk,
            wait: Wait::For(timeout),
            history: History::Standing,
        })
    }

    fn cleanup(&self, dry_run: bool, env: Env<'_>, facts: &Facts) -> Result<String> {
        let settings = self.settings(env)?;
        let mut named = self.common.store.iter().cloned();
        let spec = self.store(named.next(), env, &self.log(env)?)?;
        ensure!(named.next().is_none(), "`subletd cleanup` takes only one `--store`");
        let cx = context(facts, &spec)?;
        let mut store = store::open(&spec)?;
        let listing = dockerd::list(&self.common.docker).context("nothing was freed")?;
        let limits = Limits { dry_run, ..self.common.limits.clone() };
        let report = cleanup::clean(&mut *store, &cx, &settings, &listing, &limits)?;
        Ok(if report.is_empty() { "nothing to do\n".to_owned() } else { format!("{report}\n") })
    }

    fn serve(&self, env: Env<'_>, facts: &Facts, page: OpenPage<'_>) -> Result<()> {
        let log = self.log(env)?;
        let stores = self.stores(env, facts, &log)?;
        let (store, cx) = stores[0].clone();
        let config = self.server(env, store, cx, log)?;
        // Open the page before the driver reports that it is ready.
        page(&self.serve.page, stores, &config.backend)?;
        server::run(config)
    }

    fn server(
        &self,
        env: Env<'_>,
        store: StoreSpec,
        cx: alloc::Context,
        log: Log,
    ) -> Result<ServerConfig> {
        let serve = &self.serve;
        let mut settings = self.settings(env)?;
        settings.mac = serve.mac;
        settings.avoid = serve.avoid.iter().copied().map(Span::from).collect();
        let imported = if serve.no_docker {
            Vec::new()
        } else {
            self.import_gipam(env, &settings, &store, &cx)?
        };
        settings.v4 = self.blocks(env, Family::V4, &imported)?;
        settings.v6 = self.blocks(env, Family::V6, &imported)?;
        let mut tcp = serve.tcp.clone();
        let names = ["SUBLET_ADDRESS", "GIPAM_ADDRESS"];
        let address = flag_or_variable(tcp.address.as_ref(), env, &names)?;
        tcp.address = address.filter(|address| !address.is_empty() && !serve.no_docker);
        let mut sockets = serve.socket.clone();
        if sockets.is_empty() && tcp.address.is_none() && !serve.no_docker {
            sockets.push(PathBuf::from("/run/docker/plugins/sublet.sock"));
        }
        let cleanup = Cleanup {
            every: serve.cleanup_every.filter(|every| !every.is_zero()),
            docker: self.common.docker.clone(),
            limits: self.common.limits.clone(),
        };
        let driver = Driver { settings, routes: host_routes };
        let backend = Backend { driver, store, cx, timeout: serve.timeout, log };
        Ok(ServerConfig { sockets, tcp, backend, cleanup, notify: env("NOTIFY_SOCKET") })
    }

    fn log(&self, env: Env<'_>) -> Result<Log> {
        let word = flag_or_variable(self.serve.log_format.as_ref(), env, &["LOG_FORMAT"])?;
        let word = word.as_deref().unwrap_or("text");
        let Some(format) = LogFormat::named(word) else {
            bail!("invalid log format {word:?}: use text or json");
        };
        let journal = env("JOURNAL_STREAM").is_some_and(|stream| is_stderr(&stream));
        let (level, file) = (self.level(env)?, self.serve.log_file.clone());
        Ok(Log { level, format, file, journal, program: "subletd" })
    }

    fn level(&self, env: Env<'_>) -> Result<Level> {
        let text = flag_or_variable(self.serve.log_level.as_ref(), env, &["LOG_LEVEL"])?;
        let text = text.as_deref().unwrap_or("info");
        Ok(match text.to_ascii_lowercase().as_str() {
            "0" | "debug" => Level::Debug,
            "1" | "info" => Level::Info,
            "2" | "warn" | "warning" => Level::Warn,
            "3" | "error" | "4" | "fatal" => Level::Error,
            _ => bail!("invalid log level {text:?}: use debug, info, warn, error, or 0 to 3"),
        })
    }

    /// Returns the supernets of automatic pools for an address family.
    fn blocks(&self, env: Env<'_>, family: Family, imported: &[Block]) -> Result<Vec<Block>> {
        let serve = &self.serve;
        let (flag, flags, len, names, sizes, usual): (_, _, _, &[&str], &[&str], u8) = match family
        {
            Family::V4 => (
                "--v4",
                &serve.v4,
                serve.v4_block,
                &["SUBLET_V4", "GIPAM_V4", "KONTENA_IPAM_SUPERNET"],
                &["SUBLET_V4_BLOCK", "GIPAM_V4AB", "KONTENA_IPAM_SUBNET_LENGTH"],
                24,
            ),
            Family::V6 => (
                "--v6",
                &serve.v6,
                serve.v6_block,
                &["SUBLET_V6", "GIPAM_V6"],
                &["SUBLET_V6_BLOCK", "GIPAM_V6AB"],
                64,
            ),
        };
        let mut supernets = flags.clone();
        if supernets.is_empty()
            && let Some((name, text)) = first_set(env, names)?
        {
            let read = |part: &str| supernet(part.trim()).map_err(|e| anyhow!("{name}: {e}"));
            supernets = text.split(',').map(read).collect::<Result<_>>()?;
        }
        if supernets.is_empty() {
            let imported = imported.iter().filter(|b| b.within.family() == family);
            let imported: Vec<Block> = imported.copied().collect();
            if !imported.is_empty() || family == Family::V6 {
                return Ok(imported);
            }
            supernets.push(supernet("10.80.0.0/12").map_err(|e| anyhow!(e))?);
        }
        let variable = if len.is_none() { first_set(env, sizes)? } else { None };
        let len = match variable {
            Some((name, text)) => text.parse().map_err(|e| anyhow!("{name} is {text:?}: {e}"))?,
            None => len.unwrap_or(usual),
        };
        let block = |within: Subnet| {
            ensure!(
                within.family() == family,
                "{flag} {within} is a prefix of the wrong address family"
            );
            block(within, len).map_err(|e| anyhow!("{flag}-block: {e}"))
        };
        supernets.into_iter().map(block).collect()
    }

    /// Imports gipam's lease file, if one is named. Returns gipam's main pools, even if the file was imported
    /// earlier.
    fn import_gipam(
        &self,
        env: Env<'_>,
        settings: &Settings,
        store: &StoreSpec,
        cx: &alloc::Context,
    ) -> Result<Vec<Block>> {
        let named = env("GIPAM_FILE").filter(|v| !v.is_empty()).map(PathBuf::from);
        let Some(path) = self.serve.file.clone().or(named) else { return Ok(Vec::new()) };
        let mut after = path.clone().into_os_string();
        after.push(".taken-over");
        let after = PathBuf::from(after);
        let read = |path: &Path| -> Result<gipam::LeaseFile> {
            let text = std::fs::read_to_string(path)?;
            gipam::read(&text, &settings.local).map_err(|e| anyhow!(e))
        };
        let is_there = |path: &Path| -> Result<bool> {
            let found = files::look(path);
            Ok(found.with_context(|| format!("gipam's {}", path.display()))?.is_some())
        };
        if is_there(&path)? {
            let file = read(&path).with_context(|| format!("gipam's {}", path.display()))?;
            let mut store = store::open(store)?;
            for pool in file.pools {
                engine::adopt_pool(&mut *store, &pool, cx).with_context(|| {
                    format!("cannot import gipam's lease file {}", path.display())
                })?;
            }
            std::fs::rename(&path, &after)
                .with_context(|| format!("cannot rename {}", path.display()))?;
            return Ok(file.blocks);
        }
        if is_there(&after)? {
            return Ok(read(&after).with_context(|| after.display().to_string())?.blocks);
        }
        Ok(Vec::new())
    }
}
