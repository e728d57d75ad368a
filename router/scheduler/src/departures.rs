//! How fast sequences leave, to tell a refused client when to come back.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How far back the rate looks.
const WINDOW: Duration = Duration::from_mins(1);
/// Most departures remembered.
const REMEMBERED: usize = 256;
/// Advice in seconds while nothing has left yet.
const UNKNOWN_SECONDS: u64 = 10;

/// The last departures.
#[derive(Debug, Default)]
pub(crate) struct Departures {
    times: VecDeque<Instant>,
}

impl Departures {
    pub(crate) fn record(&mut self, now: Instant) {
        if self.times.len() == REMEMBERED {
            self.times.pop_front();
        }
        self.times.push_back(now);
    }

    /// Seconds until `backlog` more sequences have left at the recent rate, from 1 to 60.
    pub(crate) fn retry_after(&mut self, backlog: usize, now: Instant) -> u64 {
        while self
            .times
            .front()
            .is_some_and(|at| now.saturating_duration_since(*at) > WINDOW)
        {
            self.times.pop_front();
        }
        let Some(first) = self.times.front() else {
            return UNKNOWN_SECONDS;
        };
        let observed = now
            .saturating_duration_since(*first)
            .as_secs_f64()
            .max(0.001);
        let rate = self.times.len() as f64 / observed;
        ((backlog as f64 / rate).ceil() as u64).clamp(1, 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_follows_backlog_and_rate() {
        let start = Instant::now();
        let mut departures = Departures::default();
        assert_eq!(departures.retry_after(5, start), UNKNOWN_SECONDS);
        for second in 0..10 {
            departures.record(start + Duration::from_secs(second));
        }
        let now = start + Duration::from_secs(10);
        assert_eq!(departures.retry_after(1, now), 1);
        assert_eq!(departures.retry_after(20, now), 20);
        assert_eq!(departures.retry_after(10_000, now), 60);
        assert_eq!(
            departures.retry_after(20, now + WINDOW * 2),
            UNKNOWN_SECONDS
        );
    }
}
