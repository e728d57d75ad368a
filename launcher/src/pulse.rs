//! Whether the router still answers. Pure: the clock is an argument.
//!
//! Silence is counted in questions without an answer, not in seconds: a machine that slept says nothing against the router.

use std::time::{Duration, Instant};

/// Questions within the longest silence.
const QUESTIONS: u32 = 6;

/// The questions asked and answered.
#[derive(Debug)]
pub(crate) struct Pulse {
    every: Duration,
    next: Instant,
    unanswered: u32,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// Nothing.
    Wait,
    /// Ask the router.
    Ask,
    /// It does not answer any more.
    Dead,
}

impl Pulse {
    /// `timeout`: longest silence.
    pub(crate) fn new(timeout: Duration, now: Instant) -> Self {
        let every = timeout / QUESTIONS;
        Self {
            every,
            next: now + every,
            unanswered: 0,
        }
    }

    /// When to look again.
    pub(crate) fn due(&self) -> Instant {
        self.next
    }

    /// The router said something.
    pub(crate) fn heard(&mut self) {
        self.unanswered = 0;
    }

    /// Looks at the clock.
    pub(crate) fn beat(&mut self, now: Instant) -> Beat {
        if now < self.next {
            return Beat::Wait;
        }
        self.next = now + self.every;
        if self.unanswered >= QUESTIONS {
            return Beat::Dead;
        }
        self.unanswered += 1;
        Beat::Ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    #[test]
    fn a_router_that_never_answers_is_dead_after_the_timeout() {
        let start = Instant::now();
        let mut pulse = Pulse::new(TIMEOUT, start);
        let mut beats = Vec::new();
        for second in 0..60 {
            let beat = pulse.beat(start + Duration::from_secs(second));
            if beat == Beat::Dead {
                assert!(second >= 30, "after {second} s");
                assert_eq!(beats.iter().filter(|beat| **beat == Beat::Ask).count(), 6);
                return;
            }
            beats.push(beat);
        }
        panic!("never dead");
    }

    #[test]
    fn an_answer_now_and_then_is_enough_and_a_sleep_of_the_machine_no_reason() {
        let start = Instant::now();
        let mut pulse = Pulse::new(TIMEOUT, start);
        for minute in 1..10 {
            let now = start + Duration::from_mins(minute);
            assert_eq!(pulse.beat(now), Beat::Ask);
            assert_eq!(pulse.beat(now), Beat::Wait);
            pulse.heard();
        }
    }
}
