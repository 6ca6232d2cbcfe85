//! scripts/install.sh: nothing is lost, and no moment is without a plugin.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::lab::{Answer, Call, Lab, SUBLET};
use crate::tidy::root;

fn install(prefix: &Path, options: &[&str]) -> Answer {
    let script = root().join("scripts/install.sh").display().to_string();
    let call = Call::new(&script).arg("--prefix").arg(prefix.to_str().unwrap());
    options.iter().fold(call, |call, option| call.arg(option)).run()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn is_sublet(program: &Path) -> bool {
    let call = Call::new(program.to_str().unwrap()).env("CNI_COMMAND", "VERSION");
    let answer = call.run();
    answer.succeeded() && answer.stdout.contains("1.1.0")
}

#[test]
fn into_a_folder_that_is_not_there_yet() {
    let lab = Lab::new();
    let prefix = lab.join("opt/cni/bin");
    let answer = install(&prefix, &["--from", SUBLET]);
    answer.check(answer.succeeded(), "install");
    assert_eq!(names(&prefix), ["sublet"]);
    let installed = prefix.join("sublet");
    assert_eq!(fs::read(&installed).unwrap(), fs::read(SUBLET).unwrap());
    assert_eq!(fs::metadata(&installed).unwrap().permissions().mode() & 0o777, 0o755);
    // Again: nothing to do, and no .old that is the same program.
    let answer = install(&prefix, &["--from", SUBLET]);
    answer.check(answer.succeeded() && answer.stdout.contains("already"), "again");
    assert_eq!(names(&prefix), ["sublet"]);
}

#[test]
fn what_was_there_is_kept() {
    let lab = Lab::new();
    let former = [("sublet", "former"), ("host-local", "debian's")];
    for (name, text) in former {
        fs::write(lab.join(name), text).unwrap();
    }
    symlink("elsewhere", lab.join("consul")).unwrap();
    let options = ["--from", SUBLET, "--as", "host-local", "--as", "ecs-ipam", "--as", "consul"];
    for _ in 0..2 {
        let answer = install(lab.path(), &options);
        answer.check(answer.succeeded(), "install");
        assert_eq!(
            names(lab.path()),
            [
                "consul",
                "consul.old",
                "ecs-ipam",
                "host-local",
                "host-local.old",
                "sublet",
                "sublet.old"
            ]
        );
        for (name, text) in former {
            assert_eq!(fs::read_to_string(lab.join(&format!("{name}.old"))).unwrap(), text);
        }
        assert_eq!(fs::read_link(lab.join("consul.old")).unwrap(), Path::new("elsewhere"));
        for name in ["host-local", "ecs-ipam", "consul"] {
            assert_eq!(fs::read_link(lab.join(name)).unwrap(), Path::new("sublet"));
            assert!(is_sublet(&lab.join(name)), "{name}");
        }
    }
    // The way back that --help names.
    fs::rename(lab.join("host-local.old"), lab.join("host-local")).unwrap();
    assert_eq!(fs::read_to_string(lab.join("host-local")).unwrap(), "debian's");
}

#[test]
fn what_cannot_be_installed_changes_nothing() {
    let lab = Lab::new();
    fs::create_dir_all(lab.join("bin/ecs-ipam")).unwrap();
    let prefix = lab.join("bin");
    fs::write(prefix.join("sublet"), "former").unwrap();
    // One does not run, one is not there.
    fs::write(lab.join("foreign"), "no program").unwrap();
    let (foreign, missing) = (lab.join("foreign"), lab.join("missing"));
    for (options, says) in [
        (&["--from", foreign.to_str().unwrap()][..], "does not run here"),
        (&["--from", missing.to_str().unwrap()], "missing is missing"),
        (&["--from", SUBLET, "--as", "bridge"], "takes the place of"),
        (&["--from", SUBLET, "--as", "../evil"], "takes the place of"),
        (&["--from", SUBLET, "--as"], "needs a value"),
        (&["--what"], "is no option"),
        (&["--from", SUBLET, "--as", "ecs-ipam"], "is a folder"),
    ] {
        let answer = install(&prefix, options);
        answer.check(!answer.succeeded() && answer.stderr.contains(says), says);
        assert_eq!(names(&prefix), ["ecs-ipam", "sublet"]);
        assert_eq!(fs::read_to_string(prefix.join("sublet")).unwrap(), "former");
    }
}

/// A runtime that calls the plugin all the time never finds it missing, half written or busy.
#[test]
fn no_moment_is_without_a_plugin() {
    let lab = Lab::new();
    let other = lab.join("other");
    // Another file, the same program: what is behind an ELF file is never read.
    let mut bytes = fs::read(SUBLET).unwrap();
    bytes.push(0);
    fs::write(&other, bytes).unwrap();
    let prefix = lab.join("bin");
    install(&prefix, &["--from", SUBLET, "--as", "host-local"]);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let runtime = scope.spawn(|| {
            let mut calls = 0;
            while !done.load(Ordering::Relaxed) {
                assert!(is_sublet(&prefix.join("host-local")), "after {calls} calls");
                calls += 1;
            }
            calls
        });
        for _ in 0..10 {
            for from in [other.to_str().unwrap(), SUBLET] {
                let answer = install(&prefix, &["--from", from, "--as", "host-local"]);
                answer.check(answer.stdout.contains("sublet installed,"), "not replaced");
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(runtime.join().unwrap() > 20);
    });
    assert_eq!(names(&prefix), ["host-local", "sublet", "sublet.old"]);
}
