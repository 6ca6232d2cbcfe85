//! The events of a simulated cluster.

use super::super::settings::Settings;

/// Selects the kinds of events that may happen in a run, and the conditions that are checked. Each kind can
/// be switched off, because not every store can survive every kind.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each flag is one kind of event")]
pub struct Events {
    /// Transactions that are applied, although their response is lost.
    pub lost_answers: bool,
    /// Transactions that are lost before they reach the server.
    pub lost_requests: bool,
    /// Transactions that arrive only after their clients have stopped waiting for the response.
    pub late_of_unanswered: bool,
    /// Transactions that arrive only after their clients were killed.
    pub late_of_killed: bool,
    /// Transactions that are applied without a response, and then arrive a second time.
    pub duplicates: bool,
    /// Transactions that get a response, and then arrive a second time. If an ADD arrives again after the
    /// container's DEL, the address is leased again, unless the node has changed its record in the meantime.
    /// No implementation can prevent this, so this kind is off by default. In practice, no HTTP client or
    /// proxy repeats a request that got a response.
    pub answered_duplicates: bool,
    /// Reads that fail.
    pub failing_reads: bool,
    /// Machines whose host name changes, either while they are running or when they boot.
    pub renames: bool,
    /// Machines whose disk is copied to a new machine. The copy keeps the host name or gets a new one, and it
    /// has its own machine-id.
    pub clones: bool,
    /// Copies of a machine that have the machine-id of the original, while the original is still running.
    /// Then leases that the original made before the copy booted look the same as leases that the copy made
    /// before its last reboot. No implementation can distinguish them, so this kind is off by default.
    pub twins: bool,
    /// Machines with clocks that show different times.
    pub skew: bool,
    /// Requires that a strict cooldown also protects an address from ADDs on other machines.
    pub cooldown_between_machines: bool,
    /// Networks whose setting `shared` changes, so that their configuration names another set of leases.
    pub shared: bool,
    /// Requires that a network keeps its set of leases when its setting `shared` changes, as long as the
    /// network has leases. A lease file guarantees this. In a cluster, no record stores which set a network
    /// uses, so this condition is off by default.
    pub one_set: bool,
    /// Clients that cannot write to `/run`, or that have a different `/run`, as in a container.
    pub private_run: bool,
    /// Networks with two range sets.
    pub two_range_sets: bool,
    /// Docker daemons in addition to CNI clients.
    pub docker: bool,
    /// Requires that a repeated ADD returns an existing durable lease even after a reboot.
    pub repeats_after_reboot: bool,
    /// Requires that a refused ADD has leased nothing, even if one of its transactions got no response.
    pub refusals_after_no_answer: bool,
}

impl Events {
    pub const ALL: Events = Events {
        lost_answers: true,
        lost_requests: true,
        late_of_unanswered: true,
        late_of_killed: true,
        duplicates: true,
        answered_duplicates: false,
        failing_reads: true,
        renames: true,
        clones: true,
        twins: false,
        skew: true,
        cooldown_between_machines: true,
        shared: true,
        one_set: false,
        private_run: true,
        two_range_sets: true,
        docker: true,
        repeats_after_reboot: true,
        refusals_after_no_answer: true,
    };

    /// No events: the server works without failures.
    pub const NONE: Events = Events {
        lost_answers: false,
        lost_requests: false,
        late_of_unanswered: false,
        late_of_killed: false,
        duplicates: false,
        answered_duplicates: false,
        failing_reads: false,
        renames: false,
        clones: false,
        twins: false,
        skew: false,
        cooldown_between_machines: false,
        shared: false,
        one_set: false,
        private_run: false,
        two_range_sets: false,
        docker: false,
        repeats_after_reboot: false,
        refusals_after_no_answer: false,
    };

    /// Returns [`Events::ALL`], as changed by the environment variable `SUBLET_EVENTS`. The variable is a
    /// list such as `-renames,twins`, which switches `renames` off and `twins` on. The word `none` switches
    /// everything off.
    #[expect(clippy::disallowed_methods, reason = "a test's own setting")]
    pub fn of_environment() -> Events {
        let mut events = Events::ALL;
        for word in std::env::var("SUBLET_EVENTS").unwrap_or_default().split(',') {
            let (name, is_on) = word.strip_prefix('-').map_or((word, true), |name| (name, false));
            match name {
                "" => {}
                "none" => events = Events::NONE,
                "lost_answers" => events.lost_answers = is_on,
                "lost_requests" => events.lost_requests = is_on,
                "late_of_unanswered" => events.late_of_unanswered = is_on,
                "late_of_killed" => events.late_of_killed = is_on,
                "duplicates" => events.duplicates = is_on,
                "answered_duplicates" => events.answered_duplicates = is_on,
                "failing_reads" => events.failing_reads = is_on,
                "renames" => events.renames = is_on,
                "clones" => events.clones = is_on,
                "twins" => events.twins = is_on,
                "skew" => events.skew = is_on,
                "cooldown_between_machines" => events.cooldown_between_machines = is_on,
                "shared" => events.shared = is_on,
                "one_set" => events.one_set = is_on,
                "private_run" => events.private_run = is_on,
                "repeats_after_reboot" => events.repeats_after_reboot = is_on,
                "refusals_after_no_answer" => events.refusals_after_no_answer = is_on,
                "docker" => events.docker = is_on,
                "two_range_sets" => events.two_range_sets = is_on,
                unknown => panic!("SUBLET_EVENTS: there is no event {unknown}"),
            }
        }
        events
    }

    /// Changes a configuration so that it uses nothing that is switched off, such as `shared` or two range
    /// sets.
    pub fn restrict(self, settings: &mut Settings) {
        settings.is_shared &= self.shared;
        if !self.two_range_sets && settings.ranges == 2 {
            settings.ranges = 0;
        }
    }
}
