//! Tests the queue for a lock. A waiting process gives up at its timeout. Only the lock's holder can make it
//! wait that long; a stopped process ahead of it in the queue cannot.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use super::contract::added;
use super::host::{Host, boot, lowest};
use super::sim::disk::Disk;
use super::sim::process::{Fate, Process};
use crate::alloc::Command;
use crate::error::{Error, StoreError};
use crate::model::{Persist, Wait};
use crate::store::embedded::fs::{FileSystem, OpenFile};
use crate::store::{Embedded, Store, lock_file};

#[test]
fn a_wait_ends_when_its_time_is_over() {
    let disk = Disk::default();
    let holder = disk.of(&Process::new(None));
    let file = "/data/leases.redb";
    holder.make_folder("/data".as_ref()).unwrap();
    let lock = holder.create("/data/leases.redb.lock".as_ref()).unwrap();
    assert!(lock.try_lock().unwrap());
    // If the process waited without a time limit, it would reach step 20,000 and be killed.
    let process = Process::new(Some((20_000, Fate::KilledBefore)));
    let wait = Wait::For(Duration::from_millis(500));
    let mut store = Embedded::on(disk.of(&process), file.into(), Persist::Disk, wait);
    let answer = store.apply(&Command::Add(lowest("c1")), &boot(1));
    assert!(matches!(answer, Err(Error::Store(StoreError::Locked { .. }))), "{answer:?}");
}

/// The process at the head of the queue may be stopped or asleep while nobody holds the lock. The next
/// process must then take the lock without waiting until its timeout.
#[test]
fn a_place_in_front_keeps_nobody_from_a_lock_that_is_free() {
    let host = Host::new();
    added(&mut host.store(Persist::Disk), &lowest("c1"), &boot(1));
    let lock = fs::File::options().read(true).write(true).open(host.path(".lock")).unwrap();
    let place = lock.join_queue().unwrap();
    let begin = Instant::now();
    let wait = Wait::For(Duration::from_secs(8));
    added(&mut Embedded::new(host.path(""), Persist::Disk, wait), &lowest("c2"), &boot(1));
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    lock.leave_queue(place);
}

/// While the queue advances, the lock is often free for a moment, until the process at the head of the queue
/// takes the lock. A process further back must not take the lock in that moment.
#[test]
fn a_queue_that_advances_is_passed_by_nobody() {
    // On a busy machine, a process may stay at the head of the queue for so long that the waiting process may
    // take the lock. Such an attempt proves nothing and is repeated.
    let passed = (0..50).find_map(|_| passes_an_advancing_queue(Duration::from_millis(15)));
    assert_eq!(passed, Some(false), "None: this machine was always too busy");
}

/// Returns whether a waiting process took the lock before all processes ahead of it had left the queue.
/// Returns `None` if a process ahead was at the head of the queue for longer than `longest`.
#[expect(clippy::disallowed_methods, reason = "each process ahead waits for a while")]
fn passes_an_advancing_queue(longest: Duration) -> Option<bool> {
    let host = Host::new();
    let path = host.path(".lock");
    drop(lock_file(&path, Wait::Try).unwrap());
    let open = || fs::File::options().read(true).write(true).open(&path).unwrap();
    let queue: Vec<_> = (0..12).map(|_| open()).collect();
    let places: Vec<_> = queue.iter().map(|file| file.join_queue().unwrap()).collect();
    let ahead = AtomicUsize::new(queue.len());
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let _lock = lock_file(&path, Wait::Forever).unwrap();
            ahead.load(Ordering::SeqCst)
        });
        let mut slowest = Duration::ZERO;
        for (file, place) in queue.iter().zip(places) {
            let begin = Instant::now();
            thread::sleep(Duration::from_millis(6));
            ahead.fetch_sub(1, Ordering::SeqCst);
            file.leave_queue(place);
            slowest = slowest.max(begin.elapsed());
        }
        let passed = waiting.join().is_ok_and(|ahead| ahead > 0);
        (slowest <= longest).then_some(passed)
    })
}
