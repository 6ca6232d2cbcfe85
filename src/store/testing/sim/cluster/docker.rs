//! Docker on the machines of a cluster. A `subletd` process keeps its stores open from one request to the
//! next.

use super::super::docker::{self, Docker, Engine};
use super::super::pools::{Known, Pools};
use super::super::process::Ran;
use super::super::random::Random;
use super::super::run_folder;
use super::super::runs::Story;
use super::commands::{Opened, execute, open};
use super::{Shared, World};
use crate::alloc::{Collected, Command, Context, Outcome, ReleasePool};
use crate::engine;
use crate::error::{Error, PoolRefusal, Refusal};
use crate::model::{Face, Node, Persist, PoolId};
use crate::store::Store;

/// The number of a daemon's workers.
const WORKERS: usize = 3;

/// The `subletd` and the dockerd of a machine.
#[derive(Default)]
pub(super) struct Daemon {
    pub engine: Engine,
    /// The open stores of the workers that are idle.
    idle: Vec<Opened>,
    /// The node name that `subletd` uses. It reads the host name only when it starts, so it keeps the old
    /// name if the host is renamed.
    node: Option<Node>,
}

impl Daemon {
    /// Stops the daemon. The next request starts it again.
    pub(super) fn stop(&mut self) {
        self.idle.clear();
        self.node = None;
    }
}

impl Docker for World {
    fn engine(&mut self, machine: usize) -> &mut Engine {
        &mut self.machines[machine].daemon.engine
    }

    fn pools(&mut self, _: usize) -> &mut Pools {
        &mut self.pools
    }

    fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    fn story(&mut self) -> &mut Story {
        &mut self.story
    }

    fn now(&self, machine: usize) -> u64 {
        World::now(self, machine)
    }

    fn run(world: &Shared, machine: usize, command: &Command) -> Ran<Outcome> {
        let kept = {
            let world = &mut *world.borrow_mut();
            let (idle, random) = (&mut world.machines[machine].daemon.idle, &mut world.random);
            // Any worker may get the request. A worker that has no idle store opens one.
            let at = random.below(WORKERS);
            (at < idle.len()).then(|| idle.swap_remove(at))
        };
        let mut opened = kept.unwrap_or_else(|| open(world, machine, Persist::Disk));
        let cx = {
            let world = &mut *world.borrow_mut();
            let cx = world.context(machine);
            let node = &mut world.machines[machine].daemon.node;
            let node = node.get_or_insert_with(|| cx.node.clone()).clone();
            Context { node, face: Face::Docker, ..cx }
        };
        let ran =
            execute(world, machine, &mut opened, &cx, &mut |store, cx| apply(store, command, cx));
        let world = &mut *world.borrow_mut();
        match ran {
            Ran::Done(_) | Ran::Refused(_) => {
                let idle = &mut world.machines[machine].daemon.idle;
                idle.push(opened);
                idle.truncate(WORKERS);
            }
            // After a failure, the worker opens a new store.
            Ran::Failed(_) => {}
            Ran::Killed => world.kill_daemon(machine),
        }
        ran
    }
}

fn apply(store: &mut dyn Store, command: &Command, cx: &Context) -> Result<Outcome, Error> {
    match command {
        Command::RequestPool(request) => {
            let pool = engine::request_pool(store, request.clone(), cx)?;
            Ok(Outcome::Pool(Box::new(pool)))
        }
        Command::ReleasePool(_) | Command::Sweep(_) => {
            engine::collect(store, command.clone(), cx).map(Outcome::Collected)
        }
        other => store.apply(other, cx),
    }
}

impl World {
    /// Kills `subletd` together with all of its suspended requests.
    pub(super) fn kill_daemon(&mut self, machine: usize) {
        let of_machine = &mut self.machines[machine];
        of_machine.daemon.stop();
        for running in of_machine.running.iter().filter(|running| running.is_daemon) {
            running.process.kill();
            run_folder::unlock(&of_machine.run, running.seed);
        }
        self.note(format!("m{machine} subletd is killed"));
    }
}

pub(super) fn act(world: &Shared, machine: usize) {
    let is_of_another = {
        let world = &mut *world.borrow_mut();
        let name = &world.machines[machine].node.name;
        let is_copied = world.machines.iter().filter(|other| other.node.name == *name).count() > 1;
        // A copy of a machine also has the original's Docker networks, so it often tries to release their
        // pools.
        world.random.one_in(if is_copied { 3 } else { 20 })
    };
    if is_of_another {
        release_of_another(world, machine);
    } else {
        docker::act(world, machine);
    }
}

/// Tries to release a pool that another machine uses. The store must refuse this.
fn release_of_another(world: &Shared, machine: usize) {
    let (id, removals) = {
        let world = &mut *world.borrow_mut();
        let all = world.pools.all.iter().filter(|(_, known)| {
            let has_none = known.users.get(&machine).is_none_or(|user| user.most == 0);
            known.pool.shared.is_none() && known.is_used() && has_none
        });
        let all: Vec<PoolId> = all.map(|(id, _)| id.clone()).collect();
        let Some(id) = all.get(world.random.below(all.len())).cloned() else { return };
        (id, world.pools.removals)
    };
    let ran = docker::send(world, machine, &Command::ReleasePool(ReleasePool::of(id.clone())));
    let world = &mut *world.borrow_mut();
    let name = format!("docker {machine} release pool {id} of another machine");
    match ran {
        Ran::Refused(Refusal::Pool(refusal))
            if matches!(*refusal, PoolRefusal::OfAnotherNode { .. }) =>
        {
            world.note(name);
        }
        // The other machine has released the pool in the meantime.
        Ran::Done(Outcome::Collected(Collected { pool, .. }))
            if !world.pools.all.get(&id).is_some_and(Known::is_used)
                || !pool && world.pools.removals != removals =>
        {
            world.note(name);
        }
        Ran::Done(other) => world.found(format!("{name}: {other:?}")),
        Ran::Refused(refusal) => world.found(format!("{name}: {refusal:?}")),
        Ran::Failed(_) | Ran::Killed => world.note(format!("{name} was not answered")),
    }
}
