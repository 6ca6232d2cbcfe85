//! Tests that the checks of a call happen in the protocol's order, and that a call prints one result or
//! error. Here, the environment is in memory; the tests that need a store run the binary (`tests/it/cni.rs`).

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use serde_json::{Value, json};

use super::*;
use crate::model::Node;

/// The outputs of a run.
struct Ran {
    code: u8,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn error(&self) -> (u64, String) {
        let error: Value = serde_json::from_str(&self.stdout).unwrap();
        assert_eq!(self.code, 1);
        let msg = error["msg"].as_str().unwrap().to_owned();
        (error["code"].as_u64().unwrap(), msg)
    }
}

struct Call {
    env: HashMap<&'static str, OsString>,
    stdin: Box<dyn Read>,
    facts: fn() -> Facts,
}

fn facts() -> Facts {
    Facts {
        now: 1,
        boot: None,
        uptime: || None,
        node: Node::default(),
        by_host_name: false,
        seed: 1,
        face: crate::model::Face::Cni,
        trace: None,
        // "own" is another path of the plugin's own network namespace.
        inode: |path| matches!(path, "own" | "/proc/self/ns/net").then_some((4, 4_026_531_840)),
    }
}

impl Call {
    fn new(command: &str, stdin: &str) -> Call {
        let env = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "some-container-id"),
            ("CNI_NETNS", "/some/netns/path"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/some/cni/path"),
        ];
        Call {
            env: env.map(|(name, value)| (name, value.into())).into(),
            stdin: Box::new(io::Cursor::new(stdin.to_owned())),
            facts,
        }
    }

    fn config(command: &str, config: &Value) -> Call {
        Call::new(command, &config.to_string())
    }

    fn set(mut self, name: &'static str, value: &str) -> Call {
        self.env.insert(name, value.into());
        self
    }

    fn without(mut self, names: &[&'static str]) -> Call {
        for name in names {
            self.env.remove(name);
        }
        self
    }

    fn run(mut self) -> Ran {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let code = run(World {
            env: &|name| self.env.get(name).cloned(),
            stdin: &mut *self.stdin,
            stdout: &mut stdout,
            stderr: &mut stderr,
            facts: &self.facts,
        });
        Ran {
            code,
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }
}

/// A valid configuration. Most tests use it in calls that are refused before the store is opened.
fn native() -> Value {
    json!({"name": "net", "cniVersion": "1.1.0", "ipam": {"type": "sublet", "subnet": "10.0.0.0/24"}})
}

struct Untouchable;

impl Read for Untouchable {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("it was read"))
    }
}

#[test]
fn version_reads_nothing() {
    let mut call = Call::new("VERSION", "").without(&["CNI_PATH", "CNI_CONTAINERID"]);
    call.stdin = Box::new(Untouchable);
    call.facts = || panic!("asked for facts");
    let ran = call.run();
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (
            0,
            "{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.1.0\",\"0.2.0\",\"0.3.0\",\
             \"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n"
        )
    );
}

#[test]
fn without_a_command_it_introduces_itself() {
    for call in [Call::new("", "").without(&["CNI_COMMAND"]), Call::new("", "{")] {
        let ran = call.run();
        assert_eq!((ran.code, ran.stdout.as_str()), (0, ""));
        assert!(ran.stderr.starts_with("CNI sublet plugin v"), "{}", ran.stderr);
        assert!(ran.stderr.ends_with(
            "\nCNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n"
        ));
    }
}

#[test]
fn missing_variables_are_named_whatever_stdin_holds() {
    let missing = ["CNI_PATH", "CNI_IFNAME", "CNI_NETNS"];
    let expected = (4, "required env variables [CNI_NETNS,CNI_IFNAME,CNI_PATH] missing".to_owned());
    for stdin in [&native().to_string(), "{", "", "[]"] {
        let ran = Call::new("ADD", stdin).without(&missing).run();
        assert_eq!(ran.error(), expected, "{stdin}");
    }
    let mut unreadable = Call::new("ADD", "").without(&missing);
    unreadable.stdin = Box::new(Untouchable);
    assert_eq!(unreadable.run().error(), expected);
}

#[test]
fn a_malformed_value_goes_first() {
    let call = Call::new("ADD", "{").without(&["CNI_PATH"]);
    let ran = call.set("CNI_CONTAINERID", "%").run();
    assert_eq!(ran.error(), (4, "invalid characters in containerID".to_owned()));
}

#[test]
fn what_other_dialects_may_lack() {
    let ecs = |ipam: Value| json!({"cniVersion": "9.9.9", "name": "net", "ipam": ipam});
    // The version 9.9.9 is an error with code 1. The environment is checked first, so if a required variable
    // is missing, the code is 4.
    let code = |call: Call| call.run().error().0;
    let some = ["CNI_NETNS", "CNI_IFNAME", "CNI_PATH"];
    let id = ecs(json!({"id": "c1", "ipv4-subnet": "10.0.0.0/24"}));
    let no_id = ecs(json!({"ipv4-subnet": "10.0.0.0/24"}));
    let address = ecs(json!({"ipv4-subnet": "10.0.0.0/24", "ipv4-address": "10.0.0.2/24"}));
    let consul = ecs(json!({"consul_addr": "127.0.0.1", "subnet": "10.0.0.0/24"}));
    for verb in ["ADD", "DEL"] {
        assert_eq!(code(Call::config(verb, &id).without(&some)), 1);
        assert_eq!(code(Call::config(verb, &no_id).without(&some)), 1);
        assert_eq!(code(Call::config(verb, &consul).without(&some)), 1);
        assert_eq!(code(Call::config(verb, &id).without(&["CNI_CONTAINERID"])), 1);
        assert_eq!(code(Call::config(verb, &id).set("CNI_CONTAINERID", "")), 1);
        assert_eq!(code(Call::config(verb, &no_id).without(&["CNI_CONTAINERID"])), 4);
        assert_eq!(code(Call::config(verb, &consul).without(&["CNI_CONTAINERID"])), 4);
        assert_eq!(code(Call::config(verb, &native()).without(&["CNI_CONTAINERID"])), 4);
    }
    assert_eq!(code(Call::config("ADD", &address).without(&["CNI_CONTAINERID"])), 4);
    assert_eq!(code(Call::config("DEL", &address).without(&["CNI_CONTAINERID"])), 1);
}

#[test]
fn a_del_without_configuration_and_container_is_success() {
    for ipam in [json!({}), json!({"type": "ecs-ipam"}), Value::Null] {
        let config = json!({"cniVersion": "0.3.0", "name": "net", "ipam": ipam});
        let ran = Call::config("DEL", &config).set("CNI_CONTAINERID", "").run();
        assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{config}");
        let add = Call::config("ADD", &config).set("CNI_CONTAINERID", "").run();
        assert_eq!(add.error().0, 4);
    }
}

#[test]
fn the_configuration_is_looked_at_before_the_command() {
    let error = |command, config: &Value| Call::config(command, config).run().error();
    let unknown = (4, "unknown CNI_COMMAND: NOPE".to_owned());
    assert_eq!(error("NOPE", &native()), unknown);
    assert_eq!(
        error("NOPE", &json!({"cniVersion": "1.1.0"})),
        (7, "missing network name".to_owned())
    );
    let bad_name = error("ADD", &json!({"name": "te%%st", "cniVersion": "9.9.9"}));
    assert_eq!(bad_name, (7, "invalid characters found in network name".to_owned()));
    assert_eq!(Call::new("NOPE", "{").run().error().0, 6);
    assert_eq!(Call::new("add", &native().to_string()).run().error().0, 4);
}

#[test]
fn versions_and_gates() {
    let error = |command, version: &str| {
        let mut config = native();
        config["cniVersion"] = version.into();
        Call::config(command, &config).run().error()
    };
    let incompatible = (1, "incompatible CNI versions".to_owned());
    for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        assert_eq!(error(command, "9.9.9"), incompatible, "{command}");
    }
    for (command, old) in [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0")] {
        let refused = (1, format!("config version does not allow {command}"));
        assert_eq!(error(command, old), refused);
        assert_eq!(error(command, ""), refused);
        assert_eq!(error(command, "adsfsadf").0, 6);
    }
    assert_eq!(error("ADD", "adsfsadf"), incompatible);
    assert_eq!(error("ADD", "0.2"), incompatible);
}

#[test]
fn an_error_is_written_in_the_configurations_version() {
    for (version, answered) in [("0.4.0", "0.4.0"), ("", "0.1.0"), ("9.9.9", "1.1.0")] {
        let mut config = native();
        config["cniVersion"] = version.into();
        let ran = Call::config("NOPE", &config).run();
        let error: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(error["cniVersion"], answered);
        assert_eq!(ran.stderr, "sublet: error: unknown CNI_COMMAND: NOPE\n");
    }
}

#[test]
fn stdin_that_fails_or_has_no_end() {
    let mut failing = Call::new("ADD", "");
    failing.stdin = Box::new(Untouchable);
    assert_eq!(failing.run().error(), (5, "error reading from stdin: it was read".to_owned()));
    let mut endless = Call::new("ADD", "");
    endless.stdin = Box::new(io::repeat(b' '));
    assert_eq!(endless.run().error().0, 6);
}

#[test]
fn an_add_into_our_own_namespace_is_refused_before_anything_is_leased() {
    let own = |verb| Call::config(verb, &native()).set("CNI_NETNS", "own");
    let msg = "plugin's netns and netns from CNI_NETNS should not be the same";
    assert_eq!(own("ADD").run().error(), (8, msg.to_owned()));
    let overridden =
        own("ADD").set("CNI_NETNS_OVERRIDE", "True").set("IPAM_DB_PATH", "/proc/nope/leases");
    assert_ne!(overridden.run().error().0, 8);
}

#[test]
fn a_panic_is_one_error() {
    let mut call = Call::config("ADD", &native());
    call.facts = || panic!("boom");
    let (code, msg) = call.run().error();
    assert_eq!(code, 999);
    assert!(msg.contains("boom"), "{msg}");
}

#[test]
fn a_command_that_is_no_text() {
    let mut call = Call::new("ADD", "");
    call.env.insert("CNI_COMMAND", OsString::from_vec(vec![0xff]));
    let (code, msg) = call.run().error();
    assert_eq!(code, 4);
    assert!(msg.contains("CNI_COMMAND"), "{msg}");
}

#[test]
fn a_broken_stdout_is_tried_once() {
    struct Full(u32);
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.0 += 1;
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut stdout = Full(0);
    let code = run(World {
        env: &|name| (name == "CNI_COMMAND").then(|| "VERSION".into()),
        stdin: &mut io::empty(),
        stdout: &mut stdout,
        stderr: &mut io::sink(),
        facts: &facts,
    });
    assert_eq!((code, stdout.0), (1, 1));
}

/// The range has only one address, so another container can lease it only if the failed ADD left no lease.
#[test]
fn an_add_whose_answer_cannot_be_written_leases_nothing() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let add = |container: &str| {
        let mut config = native();
        config["ipam"]["subnet"] = "10.0.0.0/30".into();
        config["ipam"]["persist"] = "disk".into();
        config["ipam"]["dataDir"] = folder.path().to_str().into();
        Call::config("ADD", &config).set("CNI_CONTAINERID", container)
    };
    let mut lost = add("lost");
    let code = run(World {
        env: &|name| lost.env.get(name).cloned(),
        stdin: &mut *lost.stdin,
        stdout: &mut Full,
        stderr: &mut io::sink(),
        facts: &facts,
    });
    assert_eq!(code, 1);
    let next = add("next").run();
    assert_eq!(next.code, 0, "{}", next.stdout);
    assert!(next.stdout.contains("10.0.0.2/30"), "{}", next.stdout);
}
