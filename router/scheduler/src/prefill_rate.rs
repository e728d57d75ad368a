//! How fast prompts are computed, to tell a refused client when to come back. Knows tokens and times; not sequences.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How far back the rate looks.
const WINDOW: Duration = Duration::from_mins(1);
/// Most steps remembered.
const REMEMBERED: usize = 256;
/// Advice in seconds while no prompt has been computed yet.
const UNKNOWN_SECONDS: u64 = 10;
/// Advice is never shorter or longer.
const ADVICE_SECONDS: std::ops::RangeInclusive<u64> = 1..=60;

/// Prompt tokens of the last steps that carried any.
#[derive(Debug, Default)]
pub(crate) struct PrefillRate {
    /// When each step was over, what it took, and its prompt tokens.
    steps: VecDeque<(Instant, Duration, u32)>,
    tokens: u64,
    busy: Duration,
}

impl PrefillRate {
    /// A step with prompt tokens was over at `now` and took `took`.
    pub(crate) fn record(&mut self, tokens: u32, took: Duration, now: Instant) {
        if tokens == 0 {
            return;
        }
        if self.steps.len() == REMEMBERED {
            self.forget_first();
        }
        self.steps.push_back((now, took, tokens));
        self.tokens += u64::from(tokens);
        self.busy += took;
    }

    fn forget_first(&mut self) {
        if let Some((_, took, tokens)) = self.steps.pop_front() {
            self.tokens -= u64::from(tokens);
            self.busy -= took;
        }
    }

    /// Seconds until `backlog` prompt tokens are computed at the recent rate, from 1 to 60.
    pub(crate) fn retry_after(&mut self, backlog: u64, now: Instant) -> u64 {
        while self
            .steps
            .front()
            .is_some_and(|(at, ..)| now.saturating_duration_since(*at) > WINDOW)
        {
            self.forget_first();
        }
        if self.tokens == 0 {
            return UNKNOWN_SECONDS;
        }
        let rate = self.tokens as f64 / self.busy.as_secs_f64().max(1e-6);
        let seconds = (backlog as f64 / rate).ceil() as u64;
        seconds.clamp(*ADVICE_SECONDS.start(), *ADVICE_SECONDS.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_is_the_backlog_over_the_recent_rate() {
        let start = Instant::now();
        let mut rate = PrefillRate::default();
        assert_eq!(rate.retry_after(5, start), UNKNOWN_SECONDS);
        for second in 0..10 {
            rate.record(
                100,
                Duration::from_millis(500),
                start + Duration::from_secs(second),
            );
        }
        let now = start + Duration::from_secs(10);
        assert_eq!(rate.retry_after(0, now), 1);
        assert_eq!(rate.retry_after(4_000, now), 20);
        assert_eq!(rate.retry_after(1_000_000, now), 60);
        assert_eq!(rate.retry_after(4_000, now + WINDOW * 2), UNKNOWN_SECONDS);
    }

    #[test]
    fn only_the_last_steps_count() {
        let now = Instant::now();
        let mut rate = PrefillRate::default();
        rate.record(1, Duration::from_secs(30), now);
        for _ in 0..REMEMBERED {
            rate.record(100, Duration::from_secs(1), now);
        }
        assert_eq!(rate.retry_after(1_000, now), 10);
    }
}
