//! Fills a store for demonstrations, with sublet's own code. `scene STORE COUNT` leases COUNT addresses
//! (none, or at least 100) in networks of several kinds. The store also contains pods, reservations, cooling
//! addresses, a Docker pool, and the history of one day. One network is full, and another is filling up.
//! Screenshots and tests of the status page use such stores.

use std::env;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use sublet::alloc::{
    Add, Ask, Command, Context, Del, ForeignLease, Legacy, LegacyCursor, Outcome, RequestAddress,
    RequestPool, Reserve, Target,
};
use sublet::config::{Inputs, Netconf};
use sublet::model::{
    Attachment, ContainerId, IfName, Kind, NetworkName, Origin, Owner, Persist, SetName, StoreSpec,
};
use sublet::net::Addr;
use sublet::store;
use sublet::store::Store;
use sublet::sys::host;

/// The number of leases in the small network. The next constants are the numbers for the other networks,
/// except for the large one.
const EDGE: usize = 26;
const RESERVED: usize = 4;
const LAB: usize = 12;
const DOCKER: usize = 8;
/// The number of leases in the full network. `JOBS` is the number of containers in the dual-stack network,
/// each with two leases.
const CI: usize = 13;
const JOBS: usize = 8;
/// The maximum number of leases that are made one by one in the large network. Its other leases are imported.
const PODS: usize = 120;

fn main() -> Result<()> {
    #[allow(clippy::disallowed_methods, reason = "this program reads its own environment")]
    let args: Vec<String> = env::args().skip(1).collect();
    let [path, count] = args.as_slice() else { bail!("usage: scene STORE COUNT") };
    let count: usize = count.parse().context("COUNT")?;
    if count == 0 {
        return Ok(());
    }
    let others = EDGE + RESERVED + LAB + DOCKER + CI + 2 * JOBS;
    ensure!(count >= 100, "0, or 100 and more");
    let mut scene = Scene::new(path);
    scene.pods(count - others)?;
    scene.edge()?;
    scene.lab()?;
    scene.ci()?;
    scene.jobs()?;
    scene.docker()
}

struct Scene {
    path: PathBuf,
    cx: Context,
    /// The current time, in seconds since 1970.
    now: u64,
}

fn id(n: usize) -> String {
    // Make a container ID like those of most runtimes: 64 hexadecimal digits. They are pseudo-random, but
    // always the same for a given `n`.
    let mut state = n as u64 + 1;
    let mut text = String::new();
    while text.len() < 64 {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let _ = write!(text, "{:08x}", state >> 32);
    }
    text
}

/// Returns `count` offsets within a prefix that has `bits` host bits. The offsets are distributed unevenly
/// over the /24s of the prefix, as on real machines.
fn scattered(count: usize, bits: u32) -> Vec<u32> {
    let chance = |n: u32| {
        let mixed = u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40
    };
    let mut offsets: Vec<u32> = (2..(1 << bits) - 36).collect();
    offsets.sort_by_key(|n| chance(*n) + 3 * chance(0x10_0000 + (n >> 8)));
    offsets.truncate(count);
    offsets.sort_unstable();
    offsets
}

const APPS: [(&str, &str); 6] = [
    ("shop", "web"),
    ("shop", "cart"),
    ("shop", "checkout"),
    ("monitoring", "prometheus"),
    ("kube-system", "coredns"),
    ("batch", "report"),
];

impl Scene {
    fn new(path: &str) -> Scene {
        #[allow(clippy::disallowed_methods, reason = "this program reads its own environment")]
        let cx = host::facts(&|name| env::var_os(name)).context();
        let now = cx.now;
        Scene { path: path.into(), cx, now }
    }

    /// Sets the clock for the next actions to `seconds` before the current time.
    fn ago(&mut self, seconds: usize) {
        self.cx.now = self.now - seconds as u64;
    }

    fn store(&self, persist: Persist) -> Result<Box<dyn Store>> {
        let spec = StoreSpec::Embedded {
            path: self.path.clone(),
            persist,
            wait: sublet::model::Wait::Forever,
            history: sublet::model::History::Standing,
        };
        Ok(store::open(&spec)?)
    }

    fn run(&self, command: &Command) -> Result<Outcome> {
        let persist = match command {
            Command::RequestPool(_) | Command::RequestAddress(_) => Persist::Disk,
            _ => Persist::Boot,
        };
        self.store(persist)?.apply(command, &self.cx).map_err(|e| anyhow!("{e}"))
    }

    /// Returns the ADD of container `n` in a network with this name and this `ipam` section.
    fn add(name: &str, ipam: &Value, n: usize, pod: &str) -> Result<Add> {
        let conf = json!({ "cniVersion": "1.0.0", "name": name, "type": "bridge", "ipam": ipam });
        let inputs = Inputs {
            container: Some(ContainerId::new(id(n)).map_err(|e| anyhow!("{e:?}"))?),
            ifname: Some(IfName::new("eth0").map_err(|e| anyhow!("{e:?}"))?),
            args: pod.to_owned(),
            ..Inputs::default()
        };
        let text = conf.to_string();
        let config = Netconf::decode(text.as_bytes())
            .and_then(|netconf| netconf.config(&inputs))
            .map_err(|e| anyhow!("{e:?}"))?;
        Ok(Add {
            set: config.cleanup.set,
            network: config.cleanup.network,
            owner: config.cleanup.owner.context("an owner")?,
            sets: config.sets,
            requested: config.wanted,
            strategy: config.strategy,
            cooldown: config.cooldown,
            sticky: false,
            on_duplicate: config.on_duplicate,
            claim_gateways: false,
            origin: config.origin,
            statics: Vec::new(),
            gone: Vec::new(),
            legacy: Legacy::Absent,
            define: None,
        })
    }

    fn del(&self, add: &Add) -> Result<()> {
        let target = Target::Owner(add.owner.clone());
        let set = add.set.clone();
        let del = Del { set, target, rewind: false, undo: false, legacy: None };
        self.run(&Command::Del(del)).map(|_| ())
    }

    /// Fills the large network. Most of its leases are imported from host-local. The newest leases belong to
    /// named pods.
    fn pods(&mut self, count: usize) -> Result<()> {
        let bits = if count < 65_000 { 16 } else { 20 };
        let ipam = json!({ "type": "sublet", "subnet": format!("10.64.0.0/{}", 32 - bits) });
        let single = count.min(PODS);
        let legacy = count - single;
        let mut leases = Vec::new();
        for (n, offset) in scattered(legacy, bits).into_iter().enumerate() {
            let attachment = Attachment {
                network: NetworkName::new("pods").map_err(|e| anyhow!("{e:?}"))?,
                container: ContainerId::new(id(1_000_000 + n)).map_err(|e| anyhow!("{e:?}"))?,
                ifname: Some(IfName::new("eth0").map_err(|e| anyhow!("{e:?}"))?),
            };
            leases.push(ForeignLease {
                addr: Addr::from(std::net::IpAddr::V4((0x0a40_0000 + offset).into())),
                kind: Kind::Dynamic,
                owner: Owner::Attachment(attachment),
            });
        }
        let cursor = leases.first().map(|lease| LegacyCursor { index: 0, addr: lease.addr });
        for n in 0..single {
            let (namespace, app) = APPS[n % APPS.len()];
            let pod = format!(
                "K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={app}-{}-{};K8S_POD_UID=u{n}",
                &id(n % APPS.len())[..9],
                &id(n)[..5]
            );
            let mut add = Self::add("pods", &ipam, n, &pod)?;
            if n == 0 && legacy > 0 {
                add.legacy = Legacy::Read(leases.clone(), cursor.into_iter().collect());
            }
            // The newest leases were made during the last day, most of them in two waves.
            let age = if n == 0 { 100_000 } else { 86_000 * (single - n) / single };
            self.ago(if n % 3 == 0 { age } else { 30_000 + age / 8 });
            self.run(&Command::Add(add.clone()))?;
            // Delete and create this pod repeatedly, as if it were in a crash loop.
            for _ in 0..if n == 7 { 6 } else { 0 } {
                self.del(&add)?;
                self.run(&Command::Add(add.clone()))?;
            }
        }
        Ok(())
    }

    /// Fills a small network with reservations and a cooldown, so that it is nearly full.
    fn edge(&mut self) -> Result<()> {
        let ipam = json!({
            "type": "sublet", "subnet": "192.0.2.0/26", "rangeStart": "192.0.2.8",
            "exclude": ["192.0.2.60-192.0.2.62"], "cooldown": "12h",
        });
        for n in 0..EDGE + 5 {
            let add = Self::add("edge", &ipam, 10_000 + n, "")?;
            self.ago(3_000 * (EDGE + 5 - n));
            self.run(&Command::Add(add.clone()))?;
            if n % 6 == 3 {
                self.del(&add)?;
            }
        }
        let addrs = ["192.0.2.50", "192.0.2.51", "192.0.2.52", "192.0.2.53"];
        let addrs = addrs.iter().map(|text| text.parse()).collect::<Result<Vec<Addr>, _>>()?;
        ensure!(addrs.len() == RESERVED);
        self.run(&Command::Reserve(Reserve {
            set: SetName("edge".to_owned()),
            addrs,
            note: Some("load balancers".to_owned()),
            holder: Some("network team".to_owned()),
            name: None,
        }))?;
        Ok(())
    }

    /// Fills a network completely.
    fn ci(&mut self) -> Result<()> {
        let ipam = json!({ "type": "sublet", "subnet": "172.20.4.0/28" });
        for n in 0..CI {
            self.ago(5_000 * (CI - n));
            self.run(&Command::Add(Self::add("ci", &ipam, 30_000 + n, "")?))?;
        }
        Ok(())
    }

    /// Leases addresses in a dual-stack network at such a rate that the network will soon be full.
    fn jobs(&mut self) -> Result<()> {
        let ranges = json!([[{ "subnet": "10.90.0.0/27" }], [{ "subnet": "2001:db8:9::/64" }]]);
        let ipam = json!({ "type": "sublet", "ranges": ranges });
        for n in 0..JOBS {
            self.ago(1_100 * (JOBS - n) - 600);
            let pod = format!("K8S_POD_NAMESPACE=batch;K8S_POD_NAME=job-{n};K8S_POD_UID=j{n}");
            self.run(&Command::Add(Self::add("jobs", &ipam, 40_000 + n, &pod)?))?;
        }
        Ok(())
    }

    /// Fills a /64 with only a few leases.
    fn lab(&mut self) -> Result<()> {
        let ipam = json!({ "type": "sublet", "subnet": "2001:db8:7::/64" });
        for n in 0..LAB {
            self.ago(60 * (LAB - n));
            self.run(&Command::Add(Self::add("lab", &ipam, 20_000 + n, "")?))?;
        }
        Ok(())
    }

    fn docker(&self) -> Result<()> {
        let request = RequestPool {
            space: "sublet-local".to_owned(),
            ask: Ask::Exactly("10.80.0.0/24".parse::<ipnet::IpNet>()?.into()),
            sub: None,
            shared: None,
            avoid: Vec::new(),
        };
        let Outcome::Pool(pool) = self.run(&Command::RequestPool(request))? else {
            bail!("no pool")
        };
        for (n, name) in
            ["", "web", "db", "cache", "queue", "proxy", "mail", "cron"].iter().enumerate()
        {
            ensure!(n < DOCKER);
            let endpoint = Some((*name).to_owned()).filter(|name| !name.is_empty());
            self.run(&Command::RequestAddress(RequestAddress {
                pool: pool.id.clone(),
                requested: None,
                gateway: n == 0,
                serial: false,
                origin: Origin { endpoint, ..Origin::default() },
            }))?;
        }
        Ok(())
    }
}
