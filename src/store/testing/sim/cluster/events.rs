//! The events of a simulated cluster.

use super::super::settings::Settings;

/// The optional events. Each can be switched off, because a store may be unable to survive it.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is one kind of event")]
pub struct Events {
    /// Transactions that are applied without an answer.
    pub lost_answers: bool,
    /// Transactions that never arrive, without an answer.
    pub lost_requests: bool,
    /// Transactions that arrive after their clients gave up.
    pub late_of_unanswered: bool,
    /// Transactions that arrive after their clients were killed.
    pub late_of_killed: bool,
    /// Transactions that are applied without an answer, and arrive a second time.
    pub duplicates: bool,
    /// Transactions that are answered and arrive a second time. If the copy of an ADD arrives after the
    /// DEL, it makes a lease again, unless its node has changed its record. No implementation survives
    /// this, so it is in no set of events. No HTTP client or proxy repeats an answered request.
    pub answered_duplicates: bool,
    /// Reads that fail.
    pub failing_reads: bool,
    /// Machines that get another host name, in the same boot or with the next one.
    pub renames: bool,
    /// Machines whose disks are copied. The copy keeps the host name or gets a new one. It has a machine-id
    /// of its own.
    pub clones: bool,
    /// Copies with the same machine-id, while the original runs. The leases of the original from before the
    /// copy booted cannot be distinguished from those of the copy from before it rebooted. No
    /// implementation survives this, so it is in no set of events.
    pub twins: bool,
    /// Clocks of machines that differ.
    pub skew: bool,
    /// A strict cooldown holds for the ADDs of other machines.
    pub cooldown_between_machines: bool,
    /// Networks whose `shared` changes.
    pub shared: bool,
    /// A network whose `shared` changes stays in its set while it has leases, as in an embedded store. No
    /// record of a cluster stores the set of a network, so this is in no set of events.
    pub one_set: bool,
    /// Clients that cannot write to `/run`, or that see a different `/run`, as in a container.
    pub private_run: bool,
    /// Networks with two range sets.
    pub two_range_sets: bool,
    /// Docker daemons beside the CNI clients.
    pub docker: bool,
    /// A repeated ADD of a durable lease returns that lease after a reboot too.
    pub repeats_after_reboot: bool,
    /// A refused ADD has leased nothing, even if one of its transactions was not answered.
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

    /// A healthy server.
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

    /// [`Events::ALL`], unless `SUBLET_EVENTS` selects others: `none`, or a list such as `-renames,twins`,
    /// which removes `renames` and adds `twins`.
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

    /// Removes settings from a configuration that are not enabled.
    pub fn restrict(self, settings: &mut Settings) {
        settings.is_shared &= self.shared;
        if !self.two_range_sets && settings.ranges == 2 {
            settings.ranges = 0;
        }
    }
}
