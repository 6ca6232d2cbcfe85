//! The commands into which `inject` injects faults, each with the initial content of its folder.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::state::copy;
use crate::lab::{Call, HOST_LOCAL, Lab, conf, need_host_local, testdata};
use crate::store_check::SUBNET;

/// A command into which faults are injected, and the folder `data` that it changes.
pub struct Case {
    pub lab: Lab,
    /// The path of the lease file, in the form that an operator passes to `--store`.
    pub store: PathBuf,
    /// The call of the command.
    pub call: Call,
    /// Returns an ADD for a container. The argument is the container ID, or the ECS `id` in cases of
    /// ecs-ipam.
    pub add: Box<dyn Fn(&str) -> Call>,
    /// The text of the error with which an ADD fails until the command has repaired or converted the store;
    /// `None` if no ADD fails.
    pub refusal: Option<&'static str>,
    /// Whether the command runs in a PID namespace of its own. Some commands examine all processes, and in
    /// such a namespace the processes are the same in every run.
    pub alone: bool,
}

/// The container whose ADD is the command of a case.
pub const SUBJECT: &str = "subject";

/// A reserved address. Without its reservation, the next ADD would lease it in most cases (round robin), so
/// the tests notice if a fault loses the reservation.
const RESERVED: &str = "10.4.0.4";

impl Case {
    /// Makes a case with an empty folder and an ADD of [`SUBJECT`].
    fn new(persist: &str) -> Case {
        let lab = Lab::in_memory();
        let mut conf = conf(&lab.data_dir(), SUBNET);
        conf["ipam"]["persist"] = persist.into();
        Case::with_conf(lab, conf)
    }

    fn with_conf(lab: Lab, conf: Value) -> Case {
        let add = move |container: &str| Call::cni("ADD", container, &conf);
        let (store, call) = (lab.store(), add(SUBJECT));
        Case { lab, store, call, add: Box::new(add), refusal: None, alone: false }
    }

    /// Leases an address to each of these containers.
    fn leases(self, containers: &[&str]) -> Case {
        for container in containers {
            (self.add)(container).run().ok();
        }
        self
    }

    /// Makes a case with a store that has two leases and a reservation.
    fn served(persist: &str) -> Case {
        Case::new(persist).leases(&["a", "b"]).reserves(RESERVED)
    }

    fn reserves(self, address: &str) -> Case {
        let done = self.operator(&["reserve", "mynet", address, "--create"]).run();
        done.check(done.succeeded(), "reserve");
        self
    }

    /// Sets the call of the case.
    fn of(self, call: Call) -> Case {
        Case { call, ..self }
    }

    fn cni(&self, command: &str, container: &str) -> Call {
        (self.add)(container).env("CNI_COMMAND", command)
    }

    /// Returns a call of an operator's command on the store of the case.
    pub fn operator(&self, args: &[&str]) -> Call {
        Call::sublet().args(args).args(&["--json", "--store", self.store.to_str().unwrap()])
    }

    /// Simulates a reboot: renames the boot file, so that an earlier boot seems to have created it.
    fn reboot(self) -> Case {
        let (file, earlier) = (self.lab.boot_file(), self.lab.join("data/leases.redb.boot-before"));
        fs::rename(file, earlier).unwrap();
        self
    }

    /// Leases an address to each of these containers with Debian's host-local.
    fn host_local(self, containers: &[&str]) -> Case {
        need_host_local();
        for container in containers {
            (self.add)(container).program(HOST_LOCAL).run().ok();
        }
        self
    }

    /// Returns the call with the environment that the case requires: a PID namespace of its own, or no
    /// change.
    pub fn placed(&self, call: Call) -> Call {
        if self.alone { alone(call) } else { call }
    }

    /// Returns the folder that the command changes.
    pub fn data(&self) -> PathBuf {
        self.lab.join("data")
    }

    /// Makes a copy of the folder `data`, which [`Case::restore`] restores.
    pub fn save(&self) {
        if self.data().exists() {
            copy(&self.data(), &self.lab.join("saved"));
        }
    }

    /// Restores the copy of the folder `data`. Its path stays the same, because configurations and files
    /// contain the path.
    pub fn restore(&self) {
        if self.data().exists() {
            fs::remove_dir_all(self.data()).unwrap();
        }
        if self.lab.join("saved").exists() {
            copy(&self.lab.join("saved"), &self.data());
        }
    }
}

/// The first ADD of a network, in a store in which another network has leases.
pub fn add_first_of_a_network(persist: &str) -> Case {
    let case = Case::new(persist);
    let mut other = conf(&case.lab.data_dir(), "10.5.0.0/16");
    other["ipam"]["persist"] = persist.into();
    other["name"] = "other".into();
    Call::cni("ADD", "a", &other).run().ok();
    case.reserves("10.4.0.2")
}

/// An ADD after a reboot. The network still has boot leases from the previous boot. With `disk`, the durable
/// lease file does not exist yet.
pub fn add_first_of_a_boot(persist: &str) -> Case {
    let earlier = Case::new("boot").leases(&["a", "b"]).reboot();
    let mut conf = conf(&earlier.lab.data_dir(), SUBNET);
    conf["ipam"]["persist"] = persist.into();
    Case::with_conf(earlier.lab, conf).reserves("10.4.0.2")
}

/// The first ADD in a `dataDir` that does not exist yet.
pub fn add_first_of_all(persist: &str) -> Case {
    Case::new(persist)
}

pub fn add_another(persist: &str) -> Case {
    Case::served(persist)
}

pub fn add_takeover(persist: &str) -> Case {
    Case::new(persist).host_local(&["a", "b"]).reserves(RESERVED)
}

pub fn add_repeated(persist: &str) -> Case {
    Case::served(persist).leases(&[SUBJECT])
}

/// An ADD of a pod that returns and must get its former address again (`sticky`). With `boot`, the former
/// address is in the lease file of an earlier boot.
pub fn add_sticky(persist: &str) -> Case {
    let lab = Lab::in_memory();
    let mut conf = conf(&lab.data_dir(), SUBNET);
    conf["ipam"]["persist"] = persist.into();
    conf["ipam"]["sticky"] = true.into();
    let case = Case::with_conf(lab, conf).leases(&["a"]);
    let pod = |call: Call| {
        call.env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0")
    };
    pod(case.cni("ADD", "former")).run().ok();
    let case = if persist == "boot" {
        case.reboot()
    } else {
        case.cni("DEL", "former").run().silent();
        case
    };
    let call = pod(case.cni("ADD", SUBJECT));
    case.leases(&["b"]).reserves("10.4.0.5").of(call)
}

pub fn del(persist: &str) -> Case {
    let case = Case::served(persist).leases(&[SUBJECT]);
    let call = case.cni("DEL", SUBJECT);
    case.of(call)
}

pub fn reserve(persist: &str) -> Case {
    let case = Case::new(persist).leases(&["a", "b"]).reserves("10.4.0.9");
    let call = case.operator(&["reserve", "mynet", RESERVED]);
    case.of(call)
}

pub fn unreserve(persist: &str) -> Case {
    let case = Case::served(persist).reserves("10.4.0.5");
    let call = case.operator(&["unreserve", "mynet", RESERVED, "--yes"]);
    case.of(call)
}

pub fn import_host_local(persist: &str) -> Case {
    let case = Case::new(persist).host_local(&["a", "b"]).reserves(RESERVED);
    let dir = case.lab.data_dir();
    let call = case.operator(&["import", "host-local", &dir, "--persist", persist]);
    case.of(call)
}

/// An export to host-local when a text file has taken the place of host-local's folder, because sublet
/// imported that folder.
pub fn export_host_local(persist: &str) -> Case {
    let case = Case::new(persist).host_local(&["a"]).leases(&["b", "c"]);
    let dir = case.lab.data_dir();
    let call = case.operator(&["export", "host-local", &dir]);
    case.of(call)
}

/// A repair of a store in which one lease is damaged, so that the other leases can be read only one by one.
pub fn doctor_repair(persist: &str) -> Case {
    const VICTIM: &str = "unreadable-one";
    let case = Case::served(persist).leases(&[VICTIM]);
    let file = if persist == "disk" { case.lab.store() } else { case.lab.boot_file() };
    let mut bytes = fs::read(&file).unwrap();
    let places: Vec<usize> = bytes
        .windows(VICTIM.len())
        .enumerate()
        .filter(|(_, found)| *found == VICTIM.as_bytes())
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at] = b'X';
    }
    fs::write(&file, bytes).unwrap();
    let call = case.operator(&["doctor", "--repair", "--yes"]);
    Case { refusal: Some("is damaged"), alone: true, ..case.of(call) }
}

/// An import of the bolt file that was recorded from a real ecs-ipam.
pub fn import_ecs_ipam(persist: &str) -> Case {
    let lab = Lab::in_memory();
    fs::create_dir(lab.join("data")).unwrap();
    let store = lab.join("data/eni-ipam.db");
    fs::copy(testdata().join("import/eni-ipam.db"), &store).unwrap();
    let path = store.to_str().unwrap().to_owned();
    let call = Call::sublet().args(&["import", "ecs-ipam", &path, "--json", "--persist", persist]);
    let ipam = json!({"ipv4-subnet": "169.254.172.0/22", "persist": persist});
    let add = move |id: &str| {
        let mut conf = json!({"cniVersion": "0.3.0", "name": "tasks", "ipam": ipam});
        conf["ipam"]["id"] = id.into();
        Call::cni("ADD", "", &conf).env("IPAM_DB_PATH", &path)
    };
    let refusal = Some("sublet import ecs-ipam");
    Case { lab, store, call, add: Box::new(add), refusal, alone: false }
}

/// Returns the same call, but in its own PID namespace.
pub fn alone(call: Call) -> Call {
    call.under("unshare", &["--pid", "--fork", "--mount-proc"])
}
