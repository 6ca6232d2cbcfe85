//! Imitates a runtime that runs a list of plugins, as sections 3 and 5 of the CNI specification describe. The
//! runtime chains ADDs, keeps their results for CHECK and DEL, undoes a failed ADD, and passes the valid
//! attachments to GC.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::lab::{Answer, Call};
use crate::peers::host::Host;

/// A list of plugin configurations for one network, and the folder with the plugins.
pub struct List {
    pub cni_version: &'static str,
    pub name: &'static str,
    pub plugins: Vec<Value>,
    pub path: String,
}

/// The container ID and the interface name, under which the runtime caches the result of an ADD.
type Attachment = (String, String);

/// A runtime on a host, for one network.
pub struct Runtime<'a> {
    host: &'a Host,
    pub list: List,
    results: BTreeMap<Attachment, Value>,
}

impl<'a> Runtime<'a> {
    pub fn new(host: &'a Host, list: List) -> Runtime<'a> {
        Runtime { host, list, results: BTreeMap::new() }
    }

    /// Returns whether the list's CNI version is at least `version`. For example, the command CHECK and the
    /// key `prevResult` of a DEL were added in 0.4.0.
    pub fn since(&self, version: &str) -> bool {
        self.list.cni_version >= version
    }

    /// Returns the configuration that one plugin gets: its own keys, and the keys that the list and the
    /// runtime add. `more` contains the runtime's keys.
    fn conf(&self, plugin: &Value, more: &Value) -> Value {
        let mut conf = plugin.clone();
        conf["cniVersion"] = json!(self.list.cni_version);
        conf["name"] = json!(self.list.name);
        for (key, value) in more.as_object().into_iter().flatten() {
            conf[key] = value.clone();
        }
        conf
    }

    fn run(&self, command: &str, container: &str, plugin: &Value, more: &Value) -> Answer {
        let program = format!("{}/{}", self.list.path, plugin["type"].as_str().unwrap());
        let netns = Host::netns(container).display().to_string();
        let mut call = Call::cni(command, container, &self.conf(plugin, more))
            .program(&program)
            .env("CNI_PATH", &self.list.path);
        call = match command {
            "GC" | "STATUS" => call.envs(&json!({
                "CNI_CONTAINERID": null, "CNI_NETNS": null, "CNI_IFNAME": null
            })),
            _ => call.env("CNI_NETNS", &netns),
        };
        self.host.on(call)
    }

    /// Runs a command with each plugin of the list, in order, until one plugin fails. Returns the last
    /// result.
    fn through(&self, command: &str, container: &str, more: &Value) -> Answer {
        let mut answers = self.list.plugins.iter().map(|p| self.run(command, container, p, more));
        let first = answers.next().expect("a list has a plugin");
        let failed = |answer: &Answer| !answer.succeeded();
        if failed(&first) { first } else { answers.find(failed).unwrap_or(first) }
    }

    /// Runs ADD with each plugin of the list. Each plugin gets the result of the previous plugin. Returns the
    /// last result.
    pub fn add(&mut self, container: &str) -> Answer {
        let mut more = json!({});
        let mut last = None;
        for plugin in &self.list.plugins {
            let answer = self.run("ADD", container, plugin, &more);
            if !answer.succeeded() {
                return answer;
            }
            more = json!({"prevResult": answer.json()});
            last = Some(answer);
        }
        self.results.insert(key(container), more["prevResult"].take());
        last.expect("a list has a plugin")
    }

    /// Runs ADD. If the ADD fails, also runs DEL, as section 3 of the specification requires.
    pub fn attach(&mut self, container: &str) -> Answer {
        let answer = self.add(container);
        if !answer.succeeded() {
            self.del(container);
        }
        answer
    }

    /// Runs DEL with each plugin of the list, beginning with the last plugin. Each plugin gets the final
    /// result of the ADD.
    pub fn del(&mut self, container: &str) {
        let more = match self.results.get(&key(container)) {
            Some(result) if self.since("0.4.0") => json!({"prevResult": result}),
            _ => json!({}),
        };
        for plugin in self.list.plugins.iter().rev() {
            self.run("DEL", container, plugin, &more).silent();
        }
        self.results.remove(&key(container));
    }

    /// Runs CHECK with each plugin of the list. Each plugin gets the final result of the ADD. Requires CNI
    /// 0.4.0.
    pub fn check(&self, container: &str) -> Answer {
        assert!(self.since("0.4.0"));
        let more = json!({"prevResult": self.results[&key(container)]});
        self.through("CHECK", container, &more)
    }

    /// Runs STATUS with each plugin. Requires CNI 1.1.0.
    pub fn status(&self) -> Answer {
        assert!(self.since("1.1.0"));
        self.through("STATUS", "", &json!({}))
    }

    /// Sends a DEL for every cached attachment that is not in `valid`. From CNI 1.1.0 on, it then sends a GC
    /// with the valid attachments, under both names that the key may have.
    pub fn gc(&mut self, valid: &[&str]) {
        let stale: Vec<String> = self
            .results
            .keys()
            .map(|(container, _)| container.clone())
            .filter(|container| !valid.contains(&container.as_str()))
            .collect();
        for container in stale {
            self.del(&container);
        }
        if !self.since("1.1.0") {
            return;
        }
        let valid: Vec<Value> =
            valid.iter().map(|c| json!({"containerID": c, "ifname": "eth0"})).collect();
        let more = json!({"cni.dev/valid-attachments": valid, "cni.dev/attachments": valid});
        for plugin in &self.list.plugins {
            self.run("GC", "", plugin, &more).silent();
        }
    }

    /// Removes a container from the cache, as if the runtime had lost its cache.
    pub fn forget(&mut self, container: &str) {
        self.results.remove(&key(container));
    }
}

fn key(container: &str) -> Attachment {
    (container.to_owned(), "eth0".to_owned())
}
