//! How long each phase of the start took, as a metric and for the launcher's log.

use std::{collections::BTreeMap, time::Instant};

use metrics::{Unit, describe_gauge, gauge};

const NAME: &str = "ribbon_startup_seconds";

/// Seconds of the router's own phases.
#[derive(Debug)]
pub(crate) struct Startup {
    phases: BTreeMap<String, f64>,
    since: Instant,
}

impl Startup {
    /// The first phase begins.
    pub(crate) fn begin() -> Self {
        Self {
            phases: BTreeMap::new(),
            since: Instant::now(),
        }
    }

    /// A phase is over, the next one begins.
    pub(crate) fn end_phase(&mut self, name: &str) {
        self.phases
            .insert(name.to_owned(), self.since.elapsed().as_secs_f64());
        self.restart_clock();
    }

    /// What passed since the last phase belongs to somebody else.
    pub(crate) fn restart_clock(&mut self) {
        self.since = Instant::now();
    }

    /// Seconds of each phase.
    pub(crate) fn phases(&self) -> BTreeMap<String, f64> {
        self.phases.clone()
    }
}

/// Describes the metric to the installed recorder.
pub(crate) fn describe() {
    describe_gauge!(
        NAME,
        Unit::Seconds,
        "Seconds that each phase of the last start took"
    );
}

/// Shows the seconds of phases, whoever went through them.
pub(crate) fn show(phases: &BTreeMap<String, f64>) {
    for (phase, seconds) in phases {
        gauge!(NAME, "phase" => phase.clone()).set(*seconds);
    }
}
