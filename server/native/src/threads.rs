//! The thread pool of the kernels and how work is dealt to it. Knows counts; not kernels.

use std::fs;
use std::sync::{Arc, PoisonError, RwLock};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{NativeError, invalid};

static POOL: RwLock<Option<Arc<ThreadPool>>> = RwLock::new(None);

/// More threads than any machine this runs on has.
const MAX_THREADS: usize = 1024;

fn build(num_threads: usize) -> Result<Arc<ThreadPool>, NativeError> {
    let builder = ThreadPoolBuilder::new()
        .num_threads(num_threads)
        .thread_name(|index| format!("ribbon-{index}"));
    match builder.build() {
        Ok(pool) => Ok(Arc::new(pool)),
        Err(error) => invalid(format!("starting {num_threads} threads: {error}")),
    }
}

/// Replaces the pool.
///
/// # Errors
/// When the count is not between 1 and 1024 or the threads do not start.
pub fn set_num_threads(num_threads: usize) -> Result<(), NativeError> {
    if num_threads == 0 || num_threads > MAX_THREADS {
        return invalid(format!(
            "num_threads is {num_threads}; 1 to {MAX_THREADS} are possible"
        ));
    }
    let pool = build(num_threads)?;
    *POOL.write().unwrap_or_else(PoisonError::into_inner) = Some(pool);
    Ok(())
}

fn pool() -> Option<Arc<ThreadPool>> {
    if let Some(pool) = POOL.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
        return Some(Arc::clone(pool));
    }
    let mut guard = POOL.write().unwrap_or_else(PoisonError::into_inner);
    if guard.is_none() {
        *guard = build(available_cores()).ok();
    }
    guard.clone()
}

/// Threads the kernels use.
pub fn num_threads() -> usize {
    pool().map_or(1, |pool| pool.current_num_threads())
}

/// Runs `work(0..count)`, on the pool if there is more than one piece and more than one thread.
pub fn for_each<F: Fn(usize) + Send + Sync>(count: usize, work: F) {
    match pool() {
        Some(pool) if count > 1 && pool.current_num_threads() > 1 => {
            pool.install(|| (0..count).into_par_iter().with_max_len(1).for_each(&work));
        }
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
