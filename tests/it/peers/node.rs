//! Tests sublet with real etcd and Consul servers: nodes that boot, are replaced or are lost, and a network
//! that is defined once for all nodes.
//!
//! The test mounts files over those of the real machine, so each run of sublet sees the boot ID and the
//! machine-id of a simulated machine. Each simulated boot has a /run of its own.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::lab::{Lab, addresses};
use crate::peers::clusters::{Server, consul, etcd};
use crate::peers::reboot;

/// A simulated machine: its name, its machine-id, and its current boot.
struct Node {
    lab: Lab,
    name: String,
    boot: u32,
    machine: String,
}

struct Answer {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Answer {
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// Asserts that the command failed. Returns its output.
    #[track_caller]
    fn no(self) -> String {
        self.failed(1)
    }

    /// Asserts that the command was refused because it could not ask for confirmation. Returns its output.
    fn unasked(self) -> String {
        self.misused()
    }

    /// Asserts that the command line was invalid. Returns the output.
    #[track_caller]
    fn misused(self) -> String {
        self.failed(2)
    }

    fn failed(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        self.stdout + &self.stderr
    }
}

impl Node {
    fn new(name: &str, machine: &str) -> Node {
        let node =
            Node { lab: Lab::new(), name: name.into(), boot: 0, machine: machine.repeat(32) };
        node.boot(1)
    }

    /// Returns the same machine in another boot, with an empty /run.
    fn boot(mut self, boot: u32) -> Node {
        self.boot = boot;
        let run = self.run();
        let _ = fs::remove_dir_all(&run);
        fs::create_dir(&run).unwrap();
        self
    }

    fn run(&self) -> PathBuf {
        self.lab.join("run")
    }

    fn call(&self, env: &[(&str, &str)], args: &[&str], stdin: &str) -> Answer {
        let file = |name: &str, text: String| {
            let path = self.lab.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let number = &self.machine[..8];
        let boot = file("boot", format!("{number}-0000-4000-8000-{:012}\n", self.boot));
        let machine = file("machine", format!("{}\n", self.machine));
        // Let the uptime show that this boot has just begun.
        let uptime = file("uptime", "0.10 0.10\n".to_owned());
        let mounts = [
            (&*boot, reboot::BOOT_ID),
            (&*uptime, "/proc/uptime"),
            (&*machine, "/etc/machine-id"),
            (&*self.run(), "/run"),
        ];
        let env = [&[("NODE_ID", &*self.name)], env].concat();
        let output = reboot::over(&mounts, &env, args, stdin);
        Answer {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs a command of sublet on this machine.
    fn sublet(&self, server: &Server, args: &[&str], stdin: &str) -> Answer {
        let store = server.store("sublet");
        self.call(&[], &[args, &["--store", &store]].concat(), stdin)
    }

    fn cni(&self, server: &Server, command: &str, container: &str, ipam: &Value) -> Answer {
        let mut ipam = ipam.clone();
        ipam["type"] = "sublet".into();
        ipam["store"] = server.conf("sublet");
        let conf = json!({"cniVersion": "1.1.0", "name": "net", "type": "bridge", "ipam": ipam})
            .to_string();
        let env = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", container),
            ("CNI_NETNS", "/var/run/netns/none"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
            ("CNI_ARGS", "IgnoreUnknown=1;MAC=02:00:00:00:00:0A"),
        ];
        self.call(&env, &[], &conf)
    }

    #[track_caller]
    fn add(&self, server: &Server, container: &str, ipam: &Value) -> String {
        addresses(&self.cni(server, "ADD", container, ipam).json()).join(" ")
    }

    fn list(&self, server: &Server) -> Vec<Value> {
        let rows = self.sublet(server, &["list", "--json"], "").json();
        rows.as_array().unwrap().clone()
    }

    fn nodes(&self, server: &Server) -> Vec<Value> {
        let rows = self.sublet(server, &["node", "list", "--json"], "").json();
        rows.as_array().unwrap().clone()
    }
}

/// Checks that every node reports the history of all nodes in order, but only its own counters.
fn tells(server: &Server) {
    let ipam = json!({"subnet": "10.1.2.0/30"});
    let (a, b) = (Node::new("a", "a"), Node::new("b", "b"));
    let addr = a.add(server, "c1", &ipam);
    assert!(b.cni(server, "ADD", "c2", &ipam).no().contains("\"code\": 100"));
    a.cni(server, "DEL", "c1", &ipam).ok();
    b.add(server, "c2", &ipam);
    b.sublet(server, &["release", "c2", "--yes"], "").ok();
    for node in [&a, &b] {
        let rows = node.sublet(server, &["history", "10.1.2.2", "--json"], "").json();
        let told = |row: &Value| {
            ["event", "containerID", "node", "face"]
                .map(|key| row[key].as_str().unwrap().to_owned())
        };
        let told: Vec<String> =
            rows.as_array().unwrap().iter().map(|row| told(row).join(" ")).collect();
        let expected =
            ["added c1 a cni", "deleted c1 a cni", "added c2 b cni", "released c2 b cli"];
        assert_eq!((&*addr, told), ("10.1.2.2", expected.map(str::to_owned).to_vec()));
        let pools = node.sublet(server, &["pools", "--json"], "").json();
        let pool = &pools[0];
        assert_eq!(
            (&pool["network"], &pool["size"], &pool["free"]),
            (&json!("net"), &json!(1), &json!(1))
        );
    }
    let counted = |node: &Node, verb: &str, outcome: &str| {
        let text = node.sublet(server, &["stats", "--prometheus"], "").ok();
        let labels = format!(
            "sublet_requests_total{{network=\"net\",face=\"cni\",command=\"{verb}\",outcome=\"{outcome}\"}} "
        );
        text.lines().find_map(|line| line.strip_prefix(&labels)).map(str::to_owned)
    };
    let one = Some("1".to_owned());
    assert_eq!((counted(&a, "add", "ok"), counted(&a, "del", "ok")), (one.clone(), one.clone()));
    assert_eq!(counted(&a, "add", "exhausted"), None);
    assert_eq!(counted(&b, "add", "exhausted"), one);
}

fn lives(server: &Server) {
    let ipam = json!({"subnet": "10.1.2.0/29"});
    let a = Node::new("a", "a");
    for i in 0..5 {
        a.add(server, &format!("c{i}"), &ipam);
    }
    assert!(a.cni(server, "ADD", "more", &ipam).no().contains("\"code\": 100"));
    let row = &a.list(server)[0];
    assert_eq!((&row["node"], &row["mac"]), (&json!("a"), &json!("02:00:00:00:00:0a")));
    let notes = fs::read_dir(a.run().join("sublet")).unwrap().map(|e| e.unwrap().file_name());
    let mut notes: Vec<_> = notes.map(|n| n.into_string().unwrap()).collect();
    notes.sort();
    let kinds: Vec<_> = notes.iter().filter_map(|name| name.split('-').next()).collect();
    // `flight` occurs twice: as the folder with the in-flight notes (files that record pending transactions),
    // and as the lock of this folder.
    assert_eq!(kinds, ["counts", "counts", "flight", "flight", "node", "ranges"]);

    // A reboot ends all boot leases of the machine. Other nodes list these leases until the machine has
    // removed their records.
    let a = a.boot(2);
    assert_eq!(a.list(server), Vec::<Value>::new());
    assert_eq!(Node::new("b", "b").list(server).len(), 5, "nobody else knows yet");
    a.cni(server, "DEL", "c0", &ipam).ok();
    a.cni(server, "STATUS", "", &ipam).ok();
    for i in 0..5 {
        a.add(server, &format!("d{i}"), &ipam);
    }
    assert_eq!(a.list(server).len(), 5);

    // If another machine uses the same node name, it must be refused until it gets a different name.
    let other = Node::new("a", "b");
    let text = other.cni(server, "ADD", "x", &ipam).no();
    for part in ["\"code\": 7", &a.machine, &other.machine, "sublet node release a"] {
        assert!(text.contains(part), "{text}");
    }
    a.cni(server, "DEL", "d0", &ipam).ok();
    let b = Node { name: "b".to_owned(), ..other };
    let at_b = b.add(server, "x", &ipam);
    let listed = b.nodes(server);
    let shown: Vec<_> = listed.iter().map(|n| (&n["node"], &n["leases"])).collect();
    assert_eq!(shown, [(&json!("a"), &json!(4)), (&json!("b"), &json!(1))]);
    assert_eq!(listed[0]["machineID"], json!(a.machine));
    let table = b.sublet(server, &["node", "list"], "").ok();
    assert!(table.trim_start().starts_with("NODE") && table.contains(&a.machine), "{table}");

    // From here on, the test treats machine `a` as lost. Another node releases its leases for it.
    let release = |node: &Node, more: &[&str]| {
        node.sublet(server, &[&["node", "release", "a"], more].concat(), "")
    };
    assert!(release(&b, &["--dry-run"]).ok().contains("4 addresses of node a (4 of net)"));
    assert!(release(&b, &[]).unasked().contains("without a terminal; pass `--yes`"));
    assert!(release(&a, &["--yes"]).no().contains("is this machine"));
    assert!(b.sublet(server, &["node", "release", "z"], "").no().contains("unknown node z"));
    assert_eq!(b.list(server).len(), 5);
    assert!(release(&b, &["--yes"]).ok().contains("freed 4 addresses"));
    assert_eq!(b.list(server).iter().map(|r| &r["address"]).collect::<Vec<_>>(), [&json!(at_b)]);
    assert_eq!(b.nodes(server).len(), 1);
    // From here on, host `a` has been reinstalled, so it has a new machine-id.
    let new = Node::new("a", "c");
    new.add(server, "y", &ipam);
    assert!(a.cni(server, "ADD", "late", &ipam).no().contains(&new.machine));
    // If the option and the environment variable name different nodes, the option takes precedence.
    let rows = new.sublet(server, &["release", &at_b, "--yes", "--node-name", "w"], "").ok();
    assert!(rows.contains("freed"), "{rows}");
    assert_eq!(new.nodes(server).len(), 2);
    assert!(
        new.sublet(server, &["list", "--node-name", " "], "")
            .stderr
            .contains("a node needs a name")
    );

    // Durable leases must survive a reboot.
    let disk = json!({"subnet": "10.1.2.0/29", "persist": "disk"});
    let kept = new.add(server, "kept", &disk);
    let new = new.boot(2);
    new.add(server, "z", &ipam);
    let left: Vec<_> = new.list(server).iter().map(|r| r["address"].clone()).collect();
    assert!(left.len() == 2 && left.contains(&json!(kept)), "{left:?}");
    assert_eq!(new.add(server, "kept", &disk), kept);
}

fn definitions(server: &Server) {
    let (a, b) = (Node::new("a", "a"), Node::new("b", "b"));
    let first = json!({"subnet": "10.5.0.0/24", "define": true,
        "routes": [{"dst": "0.0.0.0/0"}]});
    let wrong = json!({"subnet": "10.6.0.0/24", "define": true, "gateway": "10.6.0.9"});
    let in_first = |addr: &str| addr.starts_with("10.5.0.");
    assert!(a.sublet(server, &["network", "show", "net"], "").no().contains("no definition"));
    assert!(in_first(&a.add(server, "c1", &first)));
    let answer = b.cni(server, "ADD", "c2", &wrong);
    for part in ["10.5.0.0/24", "10.6.0.0/24", "written by a", "sublet network set net"] {
        assert!(answer.stderr.contains(part), "{}", answer.stderr);
    }
    let result = answer.json();
    assert!(in_first(&addresses(&result)[0]) && result["routes"].is_array(), "{result}");
    assert!(!a.cni(server, "ADD", "c1", &first).stderr.contains("version"), "nothing differs");
    b.cni(server, "CHECK", "c2", &wrong).ok();
    b.cni(server, "STATUS", "", &wrong).ok();

    // Show the network's definition, change it and restore it.
    let shown = b.sublet(server, &["network", "show", "net", "--json"], "").json();
    assert_eq!(shown["ipam"]["subnet"], "10.5.0.0/24");
    assert_eq!((&shown["version"], &shown["by"]), (&json!(1), &json!("a")));
    let text = b.sublet(server, &["network", "show", "net"], "").ok();
    assert!(text.contains("version    1") && text.contains("\"dst\": \"0.0.0.0/0\""), "{text}");
    let set = |more: &[&str], conf: &Value| {
        let args = [&["network", "set", "net", "-"], more].concat();
        b.sublet(server, &args, &conf.to_string())
    };
    let mut wider = shown.clone();
    wider["ipam"]["subnet"] = "10.5.0.0/16".into();
    assert!(
        set(&["--version", "7"], &wider)
            .no()
            .contains("expected version 7, but the store has version 1")
    );
    assert!(set(&[], &wider).ok().contains("version 2"));
    assert!(
        set(&[], &wider).no().contains("expected version 1, but the store has version 2"),
        "the file's is old"
    );
    let moved = json!({"ipam": {"subnet": "10.7.0.0/24"}});
    let refused = set(&[], &moved).unasked();
    for part in ["c1", "c2", "2 addresses", "10.7.0.1-10.7.0.254", "--yes"] {
        assert!(refused.contains(part), "{refused}");
    }
    assert!(set(&[], &json!({"ipam": {"subnet": "10.7.0.3/24"}})).no().contains("host bits"));
    assert!(set(&["--yes"], &moved).ok().contains("version 3"));
    assert!(a.add(server, "c3", &first).starts_with("10.7.0."));
    // Leases outside the new definition must stay, and a DEL must be able to free them.
    assert_eq!(a.list(server).len(), 3);
    for (node, container) in [(&a, "c1"), (&b, "c2"), (&a, "c3")] {
        node.cni(server, "DEL", container, &wrong).ok();
    }
    assert_eq!(a.list(server), Vec::<Value>::new());
}

#[test]
fn etcd_knows_its_nodes() {
    let server = etcd();
    lives(&server);
    let server = etcd();
    definitions(&server);
    let server = etcd();
    tells(&server);
}

#[test]
fn consul_knows_its_nodes() {
    let server = consul();
    lives(&server);
    let server = consul();
    definitions(&server);
    let server = consul();
    tells(&server);
}

/// A lease file belongs to one machine, so it contains no other nodes to release, and no network definitions.
#[test]
fn a_lease_file_is_of_one_machine() {
    let lab = Lab::new();
    let store = lab.join("leases.redb").display().to_string();
    let node = Node::new("a", "a");
    let call = |args: &[&str]| node.call(&[], &[args, &["--store", &store]].concat(), "");
    assert_eq!(
        call(&["reserve", "net", "10.0.0.9", "--create", "--json"]).json()["network"],
        "net"
    );
    assert_eq!(call(&["node", "list", "--json"]).json(), json!([]));
    for args in [&["node", "release", "a"][..], &["network", "show", "a"]] {
        assert!(call(args).misused().contains("name a cluster with `--store`"), "{args:?}");
    }
    let ipam = json!({"type": "sublet", "subnet": "10.0.0.0/24", "define": true,
        "dataDir": lab.data_dir()});
    let conf = json!({"cniVersion": "1.0.0", "name": "net", "type": "x", "ipam": ipam});
    let answer = crate::lab::Call::cni("ADD", "c", &conf).run();
    let (code, msg) = answer.error();
    assert!(code == 7 && msg.contains("set ipam.store"), "{msg}");
    crate::lab::Call::cni("DEL", "c", &conf).run().silent();
}
