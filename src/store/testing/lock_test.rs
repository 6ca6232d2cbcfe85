//! A wait for a lock ends at its timeout. Only the lock's holder can delay it, not a process ahead in the queue.

use std::fs;
use std::time::{Duration, Instant};

use super::contract::added;
use super::host::{Host, boot, lowest};
use super::sim::disk::Disk;
use super::sim::process::{Fate, Process};
use crate::alloc::Command;
use crate::error::{Error, StoreError};
use crate::model::{Persist, Wait};
use crate::store::embedded::fs::{FileSystem, OpenFile};
use crate::store::{Embedded, Store};

#[test]
fn a_wait_ends_when_its_time_is_over() {
    let disk = Disk::default();
    let holder = disk.of(&Process::new(None));
    let file = "/data/leases.redb";
    holder.make_folder("/data".as_ref()).unwrap();
    let lock = holder.create("/data/leases.redb.lock".as_ref()).unwrap();
    assert!(lock.try_lock().unwrap());
    // A wait without a time limit would end here.
    let process = Process::new(Some((20_000, Fate::KilledBefore)));
    let wait = Wait::For(Duration::from_millis(500));
    let mut store = Embedded::on(disk.of(&process), file.into(), Persist::Disk, wait);
    let answer = store.apply(&Command::Add(lowest("c1")), &boot(1));
    assert!(matches!(answer, Err(Error::Store(StoreError::Locked { .. }))), "{answer:?}");
}

/// A process ahead in the queue that is stopped or asleep does not hold the lock.
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
