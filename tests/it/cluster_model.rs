//! A model of how the machines of a cluster lease addresses. The test visits every state that the model can
//! reach. Read it together with `src/store/cluster/mod.rs`.
//!
//! The model covers ADD and DEL, in-flight notes (files that record pending transactions), and fences
//! (transactions that make pending ones fail). It also covers leases that end with their boot, and how a
//! machine claims its node name after a reboot. Two machines share two addresses. Each run has at most one
//! fault: a process is killed, or a machine reboots. In addition, at most one command stops waiting for its
//! transaction, which the server then receives later or never.
//!
//! The model assumes that a server compares and writes in a single step. It leaves out cooldowns, pools, and
//! commands of one machine that run at the same time, because the simulation covers them.

use stateright::{Checker, Model, Property};

/// The maximum number of commands that each machine's container runtime runs.
const COMMANDS: u8 = 2;

/// The container that holds an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Holder {
    machine: usize,
    boot: u8,
    container: u8,
}

// The server's record of an address, and its record of a machine's current boot. The last number of each is
// the nonce of the transaction that wrote the record.
type Address = Option<(Holder, u8)>;
type Node = (u8, u8);

/// A transaction. The server applies it only if the records have not changed since the command read them. If
/// `change` is `None`, the transaction is a fence: it only rewrites the node's record, so that the node's
/// earlier transactions fail.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Transaction {
    number: u8,
    machine: usize,
    boot: u8,
    nonce: u8,
    node: Node,
    change: Option<Change>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Change {
    address: usize,
    old: Address,
    /// The node record of the address's previous holder, as the command read it. If this record has changed
    /// since, the transaction fails.
    node: Option<Node>,
    new: Option<Holder>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Command {
    is_add: bool,
    step: Step,
    waits_for: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Decide,
    /// The command must send a fence before it decides. Either it has found an in-flight note, or the node
    /// name has not been claimed in this boot.
    Fence,
    Commit(usize, u8),
    /// The command has stopped waiting for the response to its transaction. It sends a fence, and then checks
    /// whether the record of the address contains the transaction's nonce.
    Look(usize, u8),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Machine {
    boot: u8,
    command: Option<Command>,
    /// Whether a process has ended without removing the in-flight note of its transaction.
    has_note: bool,
    /// The number of the container that is running or being started. All containers with lower numbers have
    /// been deleted or have ended with their boot.
    container: u8,
    /// The address that an ADD returned to the container, until its DEL begins.
    lives: Option<usize>,
    commands: u8,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    addresses: [Address; 2],
    nodes: [Node; 2],
    in_transit: Vec<Transaction>,
    machines: [Machine; 2],
    sent: u8,
    crashes: u8,
    given_up: u8,
    took_ended: bool,
    late_failed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Action {
    Add(usize),
    Del(usize),
    /// A command reads the records, decides, and sends a transaction.
    Send(usize),
    /// The server receives a transaction, and applies or refuses it. If the command is still waiting, it
    /// receives the response.
    Deliver(usize),
    GiveUp(usize),
    Kill(usize),
    Reboot(usize),
}

struct Cluster {
    has_fence: bool,
    has_nonce: bool,
}

impl State {
    fn holder(&self, machine: usize) -> Holder {
        let Machine { boot, container, .. } = self.machines[machine];
        Holder { machine, boot, container }
    }

    /// Ends a command successfully. `address` is the result of an ADD; it is `None` for a DEL.
    fn succeed(&mut self, me: usize, address: Option<usize>) {
        let machine = &mut self.machines[me];
        (machine.command, machine.lives) = (None, address);
        machine.container += u8::from(address.is_none());
    }

    fn send(&mut self, me: usize, model: &Cluster) {
        let Machine { boot, has_note, command, .. } = self.machines[me];
        let Some(command) = command else { return };
        let (node, holder) = (self.nodes[me], self.holder(me));
        let has = |wanted: &dyn Fn(Option<Holder>) -> bool| {
            (0..2).find(|a| wanted(self.addresses[*a].map(|(holder, _)| holder)))
        };
        let own = has(&|found| found == Some(holder));
        let free = has(&|found| found.is_none_or(|old| old.boot < self.nodes[old.machine].0));
        self.sent += 1;
        let nonce = if model.has_nonce { self.sent } else { 1 };
        let (address, new, step) = match (command.step, command.is_add, own, free) {
            (Step::Look(address, nonce), ..) if !model.has_fence => {
                return self.look(me, address, nonce);
            }
            (Step::Look(..), ..) => (None, None, command.step),
            _ if has_note && model.has_fence || node.0 != boot => (None, None, Step::Fence),
            (_, true, Some(own), _) => return self.succeed(me, Some(own)),
            (_, true, None, Some(free)) => (Some(free), Some(holder), Step::Commit(free, nonce)),
            (_, true, None, None) => return self.machines[me].command = None,
            (_, false, Some(own), _) => (Some(own), None, Step::Commit(own, nonce)),
            (_, false, None, _) => return self.succeed(me, None),
        };
        let change = address.map(|address| {
            let old = self.addresses[address];
            Change { address, old, node: old.map(|(old, _)| self.nodes[old.machine]), new }
        });
        let (number, machine) = (self.sent, me);
        self.in_transit.push(Transaction { number, machine, boot, nonce, node, change });
        self.machines[me].command = Some(Command { step, waits_for: Some(number), ..command });
    }

    /// Checks whether an ADD's transaction was applied. A DEL is simply decided again, which has the same
    /// effect.
    fn look(&mut self, me: usize, address: usize, nonce: u8) {
        let is_applied = self.addresses[address] == Some((self.holder(me), nonce));
        match &mut self.machines[me].command {
            Some(command) if command.is_add && is_applied => self.succeed(me, Some(address)),
            command => command.iter_mut().for_each(|command| command.step = Step::Decide),
        }
    }

    fn deliver(&mut self, at: usize) {
        let sent = self.in_transit.remove(at);
        let is_applied = self.nodes[sent.machine] == sent.node
            && sent.change.as_ref().is_none_or(|change| {
                let node = change.old.map(|(old, _)| self.nodes[old.machine]);
                self.addresses[change.address] == change.old && node == change.node
            });
        match &sent.change {
            Some(change) if is_applied => {
                self.took_ended |= change.old.is_some() && change.new.is_some();
                self.addresses[change.address] = change.new.map(|new| (new, sent.nonce));
            }
            None if is_applied => self.nodes[sent.machine] = (sent.boot, sent.nonce),
            _ => {}
        }
        let machine = &mut self.machines[sent.machine];
        let waits = |command: &&mut Command| command.waits_for == Some(sent.number);
        let Some(command) = machine.command.as_mut().filter(waits) else {
            self.late_failed |= !is_applied;
            return;
        };
        command.waits_for = None;
        match command.step {
            Step::Commit(address, _) if is_applied => {
                let address = command.is_add.then_some(address);
                self.succeed(sent.machine, address);
            }
            Step::Look(address, nonce) if is_applied => self.look(sent.machine, address, nonce),
            Step::Look(..) => {}
            step => {
                command.step = Step::Decide;
                machine.has_note &= step != Step::Fence || !is_applied;
            }
        }
    }

    /// Kills the process of a command. The transaction that it has sent may still arrive.
    fn kill(&mut self, me: usize) {
        self.crashes += 1;
        let machine = &mut self.machines[me];
        let step = machine.command.take().map(|command| command.step);
        machine.has_note |= matches!(step, Some(Step::Commit(..) | Step::Look(..)));
    }
}

impl Model for Cluster {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State::default();
        state.machines.iter_mut().for_each(|machine| machine.boot = 1);
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend((0..state.in_transit.len()).map(Action::Deliver));
        for (me, machine) in state.machines.iter().enumerate() {
            let can_begin = machine.command.is_none() && machine.commands < COMMANDS;
            let awaited = machine.command.and_then(|c| Some((c.waits_for?, c.step)));
            let commits = matches!(awaited, Some((_, Step::Commit(..))));
            let all = [
                (can_begin && machine.lives.is_none(), Action::Add(me)),
                (can_begin, Action::Del(me)),
                (machine.command.is_some() && awaited.is_none(), Action::Send(me)),
                (commits && state.given_up == 0, Action::GiveUp(me)),
                (machine.command.is_some() && state.crashes == 0, Action::Kill(me)),
                (state.crashes == 0, Action::Reboot(me)),
            ];
            actions.extend(all.into_iter().filter(|(can, _)| *can).map(|(_, action)| action));
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Add(me) | Action::Del(me) => {
                let machine = &mut state.machines[me];
                machine.commands += 1;
                machine.lives = None;
                let (is_add, step) = (matches!(action, Action::Add(_)), Step::Decide);
                machine.command = Some(Command { is_add, step, waits_for: None });
            }
            Action::Send(me) => state.send(me, self),
            Action::Deliver(at) => state.deliver(at),
            Action::GiveUp(me) => {
                state.given_up += 1;
                let command = state.machines[me].command.as_mut()?;
                let Step::Commit(address, nonce) = command.step else { return None };
                (command.step, command.waits_for) = (Step::Look(address, nonce), None);
            }
            Action::Kill(me) => state.kill(me),
            Action::Reboot(me) => {
                state.kill(me);
                // A reboot ends all containers and empties `/run`, where the in-flight notes are.
                let Machine { boot, container, commands, .. } = state.machines[me];
                let (boot, container) = (boot + 1, container + 1);
                state.machines[me] = Machine { boot, container, commands, ..Machine::default() };
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Cluster>> {
        vec![
            Property::always("no address has two holders", |_, state: &State| {
                let [one, other] = state.machines.each_ref().map(|machine| machine.lives);
                one.is_none() || one != other
            }),
            Property::always("nothing that was answered is lost", |_, state: &State| {
                let mut live = (0..2).filter_map(|me| Some((me, state.machines[me].lives?)));
                live.all(|(me, address)| {
                    state.addresses[address].is_some_and(|(holder, _)| holder == state.holder(me))
                })
            }),
            Property::always("a deleted container holds nothing", |_, state: &State| {
                state.addresses.iter().flatten().all(|(held, _)| {
                    let machine = &state.machines[held.machine];
                    held.boot < machine.boot || held.container >= machine.container
                })
            }),
            Property::sometimes("both lease", |_, state: &State| {
                state.machines.iter().all(|machine| machine.lives.is_some())
            }),
            Property::sometimes("an ended lease is taken", |_, state: &State| state.took_ended),
            Property::sometimes("a late transaction fails", |_, state: &State| state.late_failed),
        ]
    }
}

#[test]
fn the_protocol_holds_in_all_states_but_not_without_the_fence_or_the_nonce() {
    let check =
        |has_fence, has_nonce| Cluster { has_fence, has_nonce }.checker().spawn_bfs().join();
    check(true, true).assert_properties();
    for (has_fence, has_nonce) in [(false, true), (true, false)] {
        let found = check(has_fence, has_nonce).discovery("a deleted container holds nothing");
        assert!(found.is_some(), "fence {has_fence}, nonce {has_nonce}");
    }
}
