//! Clients that call the CNI plugin. Each client adds, checks and deletes its own containers, as a container
//! runtime does. It repeats a call until the call succeeds or fails with an error other than 11 ("try
//! again").

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sublet::cni;
use sublet::cni::World;
use sublet::sys::host;

use super::event::{Answer, Ask, Event};

/// The maximum number of containers that a client has at the same time.
const HELD: usize = 3;

#[derive(clap::Args)]
pub struct Run {
    /// The store of the cluster, as JSON in the form of the key `store` of a configuration.
    store: String,
    /// The subnet of the network. It is small, so that the clients compete for addresses.
    #[arg(long, default_value = "10.77.0.0/27")]
    subnet: String,
    /// The node name under which all clients run.
    #[arg(long)]
    node: String,
    #[arg(long, default_value_t = 4)]
    clients: usize,
    /// How long the clients run, in seconds. After this time, a client begins no new call, but it repeats an
    /// unfinished call until the outcome is known.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// The file to which the history is written.
    #[arg(long)]
    out: PathBuf,
}

impl Run {
    pub fn run(&self) -> Result<()> {
        let file = File::create(&self.out).with_context(|| self.out.display().to_string())?;
        let out = Mutex::new(BufWriter::new(file));
        let end = Instant::now() + Duration::from_secs(self.seconds);
        let store: Value = serde_json::from_str(&self.store).context("the store")?;
        let conf = json!({
            "cniVersion": "1.1.0", "name": "consistency", "type": "bridge",
            "ipam": { "type": "sublet", "subnet": self.subnet, "store": store },
        });
        let conf = conf.to_string();
        thread::scope(|scope| {
            let clients: Vec<_> = (0..self.clients)
                .map(|n| {
                    let name = format!("{}-{n}", self.node);
                    let client = Client { node: &self.node, name, conf: &conf, out: &out };
                    scope.spawn(move || client.work(end))
                })
                .collect();
            for client in clients {
                // The thread has already printed its panic message.
                client.join().unwrap_or_else(|_| bail!("a client ended early"))?;
            }
            Ok::<_, anyhow::Error>(())
        })?;
        out.into_inner().map_err(|e| anyhow::anyhow!("{e}"))?.flush()?;
        Ok(())
    }
}

struct Client<'a> {
    node: &'a str,
    name: String,
    conf: &'a str,
    out: &'a Mutex<BufWriter<File>>,
}

/// A container with an address.
struct Held {
    container: String,
    result: Value,
}

impl Client<'_> {
    fn work(&self, end: Instant) -> Result<()> {
        let mut held: Vec<Held> = Vec::new();
        let mut chance = Chance::of(&self.name);
        let mut round = 0_u64;
        while Instant::now() < end {
            round += 1;
            match chance.below(4) {
                0 | 1 if held.len() < HELD => {
                    let container = format!("{}-{round}", self.name);
                    match self.ask(Ask::Add, &container, None)? {
                        (Answer::Address(_), result) => held.push(Held { container, result }),
                        // After a failed ADD, send a DEL, as a runtime does.
                        _ => drop(self.ask(Ask::Del, &container, None)?),
                    }
                }
                2 if !held.is_empty() => {
                    let at = chance.below(held.len());
                    self.ask(Ask::Check, &held[at].container, Some(&held[at].result))?;
                }
                _ if !held.is_empty() => {
                    let gone = held.swap_remove(chance.below(held.len()));
                    self.ask(Ask::Del, &gone.container, None)?;
                    if chance.below(8) == 0 {
                        self.ask(Ask::Check, &gone.container, Some(&gone.result))?;
                    }
                }
                _ => {}
            }
        }
        // Do not delete the remaining containers: the judge checks that the store still lists their
        // addresses.
        Ok(())
    }

    /// Repeats a call until it has a definite outcome. Records each call.
    fn ask(&self, ask: Ask, container: &str, previous: Option<&Value>) -> Result<(Answer, Value)> {
        let patience = Instant::now() + Duration::from_secs(120);
        loop {
            let asked = nanos();
            let (failed, text) = self.call(ask, container, previous)?;
            let result: Value = serde_json::from_str(&text).unwrap_or_default();
            let answer = match (failed, ask) {
                (false, Ask::Add) => {
                    let address = result["ips"][0]["address"].as_str();
                    Answer::Address(address.with_context(|| text.clone())?.to_owned())
                }
                (false, _) => Answer::Fine,
                (true, _) => Answer::Error(result["code"].as_u64().with_context(|| text.clone())?),
            };
            let event = Event {
                container: container.to_owned(),
                ask,
                asked,
                answered: nanos(),
                answer: answer.clone(),
            };
            note(self.out, &event)?;
            if answer != Answer::Error(11) {
                let known = !matches!(answer, Answer::Error(code) if ![100, 103].contains(&code));
                ensure!(known, "{ask:?} {container}: {text}");
                return Ok((answer, result));
            }
            ensure!(Instant::now() < patience, "{ask:?} {container} is never answered: {text}");
            // Wait before the next attempt, because a server that is not running refuses a connection
            // immediately.
            thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Runs one call of the plugin, in this process. Returns whether the call failed, and its output.
    fn call(&self, ask: Ask, container: &str, previous: Option<&Value>) -> Result<(bool, String)> {
        let verb = match ask {
            Ask::Add => "ADD",
            Ask::Check => "CHECK",
            Ask::Del => "DEL",
            Ask::List | Ask::Join | Ask::Leave => bail!("not a call"),
        };
        let mut conf: Value = serde_json::from_str(self.conf)?;
        if let Some(previous) = previous {
            conf["prevResult"] = previous.clone();
        }
        let conf = conf.to_string();
        let env = |name: &str| -> Option<OsString> {
            let value = match name {
                "CNI_COMMAND" => verb,
                "CNI_CONTAINERID" => container,
                "CNI_NETNS" => "/run/netns/consistency",
                "CNI_IFNAME" => "eth0",
                "CNI_PATH" => "/opt/cni/bin",
                "NODE_ID" => self.node,
                _ => return None,
            };
            Some(value.into())
        };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let code = cni::run(World {
            env: &env,
            stdin: &mut conf.as_bytes(),
            stdout: &mut stdout,
            stderr: &mut stderr,
            facts: &|| host::facts(&env),
        });
        Ok((code != 0, String::from_utf8(stdout)?))
    }
}

/// Generates a client's pseudo-random choices, which are the same in each run.
pub struct Chance(u64);

impl Chance {
    pub fn of(name: &str) -> Chance {
        Chance(name.bytes().fold(0x9e37_79b9_7f4a_7c15_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
        }))
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
        usize::try_from(self.0 >> 33).unwrap_or(0) % end
    }
}

/// Writes one event to the history, as a line of JSON.
pub fn note(out: &Mutex<BufWriter<File>>, event: &Event) -> Result<()> {
    let line = serde_json::to_string(event)?;
    let mut out = out.lock().map_err(|e| anyhow::anyhow!("{e}"))?;
    writeln!(out, "{line}")?;
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "a benchmark's own clock")]
pub fn nanos() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos())
}
