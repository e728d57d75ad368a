//! How many threads the kernels use, and how work is dealt to them. Knows counts; not kernels.

use std::fs;

use crate::error::{NativeError, invalid};
use crate::team;

/// More threads than any machine this runs on has.
const MAX_THREADS: usize = 1024;

/// Replaces the team of threads.
///
/// # Errors
/// When the count is not between 1 and 1024 or the threads do not start.
pub fn set_num_threads(num_threads: usize) -> Result<(), NativeError> {
    if num_threads == 0 || num_threads > MAX_THREADS {
        return invalid(format!(
            "num_threads is {num_threads}; 1 to {MAX_THREADS} are possible"
        ));
    }
    team::replace(num_threads)
        .or_else(|error| invalid(format!("starting {num_threads} threads: {error}")))
}

/// Threads the kernels use.
pub fn num_threads() -> usize {
    team::current(available_cores).map_or(1, |team| team.num_threads())
}

/// Runs `work(0..count)`, by the team if there is more than one piece.
pub fn for_each<F: Fn(usize) + Send + Sync>(count: usize, work: F) {
    match team::current(available_cores) {
        Some(team) if count > 1 => team.run(count, &work),
        _ => (0..count).for_each(work),
    }
}

/// Cores this process may really use: scheduler affinity, cut to the cgroup's CPU quota.
pub fn available_cores() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    allowed.min(quota_cores().unwrap_or(usize::MAX)).max(1)
}

/// `available_parallelism` knows the quota of common cgroup set-ups; this covers a container whose own group is the root.
fn quota_cores() -> Option<usize> {
    let text = fs::read_to_string("/sys/fs/cgroup/cpu.max").ok()?;
    parse_quota(&text)
}

fn parse_quota(text: &str) -> Option<usize> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0.0).then(|| (quota / period).ceil() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quota_is_rounded_up_and_max_means_none() {
        assert_eq!(parse_quota("150000 100000\n"), Some(2));
        assert_eq!(parse_quota("max 100000\n"), None);
    }
}
