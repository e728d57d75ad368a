//! How often a shard may die. Pure: the clock is an argument.

use std::time::{Duration, Instant};

/// Restarts that are allowed within [`WINDOW`].
pub(crate) const MOST: usize = 5;
/// A death older than this is forgotten.
pub(crate) const WINDOW: Duration = Duration::from_mins(10);

/// The unexplained deaths of the last minutes.
#[derive(Debug, Default)]
pub(crate) struct Restarts(Vec<(u64, Instant)>);

impl Restarts {
    /// A generation died.
    pub(crate) fn died(&mut self, generation: u64, now: Instant) {
        self.0.retain(|(_, at)| now.duration_since(*at) < WINDOW);
        self.0.push((generation, now));
    }

    /// A request on trial killed that generation: it says nothing about the machine.
    pub(crate) fn explained(&mut self, generation: u64) {
        self.0.retain(|(dead, _)| *dead != generation);
    }

    /// Unexplained deaths within the window, as of the last death.
    pub(crate) fn deaths(&self) -> usize {
        self.0.len()
    }

    /// One more restart would be too many.
    pub(crate) fn exceeded(&self) -> bool {
        self.deaths() > MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(deaths: u64, apart: Duration) -> Restarts {
        let start = Instant::now();
        let mut restarts = Restarts::default();
        for generation in 0..deaths {
            restarts.died(
                generation,
                start + apart * u32::try_from(generation).expect("small"),
            );
        }
        restarts
    }

    #[test]
    fn the_sixth_death_in_ten_minutes_is_too_many() {
        assert!(!after(5, Duration::from_secs(1)).exceeded());
        assert!(after(6, Duration::from_secs(1)).exceeded());
    }

    #[test]
    fn deaths_far_apart_never_are() {
        assert!(!after(100, Duration::from_secs(121)).exceeded());
    }

    #[test]
    fn an_explained_death_does_not_count() {
        let mut restarts = after(6, Duration::from_secs(1));
        restarts.explained(5);
        assert!(!restarts.exceeded());
    }
}
