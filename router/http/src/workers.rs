//! Where templates are rendered and texts tokenized: a few blocking threads behind a bounded queue, off the async threads.
//! Long texts never have all of them, so short ones do not wait behind them.

use std::{io, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::threads::Threads;
use crate::error::{ApiError, Cause};

mod threads;

/// Bytes from which a text counts as long: tokenizing fewer is a matter of milliseconds.
const LONG_BYTES: u64 = 16 << 10;

/// A bounded pool of validation workers.
#[derive(Debug)]
pub(crate) struct Workers {
    /// Jobs running or waiting.
    places: Arc<Semaphore>,
    /// Jobs running.
    running: Arc<Semaphore>,
    /// Long jobs running, or next to run.
    long: Arc<Semaphore>,
    threads: Threads,
    max_jobs: usize,
}

impl Workers {
    /// One thread more than `num_threads` where that is 1: it is for the short texts.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(crate) fn new(
        name: &'static str,
        num_threads: usize,
        max_waiting: usize,
    ) -> io::Result<Self> {
        let (max_jobs, num_running) = (num_threads + max_waiting, num_threads.max(2));
        Ok(Self {
            places: Arc::new(Semaphore::new(max_jobs)),
            running: Arc::new(Semaphore::new(num_running)),
            long: Arc::new(Semaphore::new(num_threads.saturating_sub(1).max(1))),
            threads: Threads::start(name, num_running)?,
            max_jobs,
        })
    }

    /// Runs `job`, which reads so many bytes of text, on a worker. Dropping the future while the job waits takes it out of the queue.
    ///
    /// # Errors
    /// The queue is full, or the job panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        bytes: u64,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let place = self
            .places
            .clone()
            .try_acquire_owned()
            .map_err(|_| self.overloaded())?;
        let long = match bytes {
            LONG_BYTES.. => Some(turn(&self.long).await?),
            _ => None,
        };
        let running = turn(&self.running).await?;
        let work = move || {
            let result = job();
            drop((place, long, running));
            result
        };
        let result = self.threads.run(bytes, work).await;
        result.map_err(|_| internal())
    }

    fn overloaded(&self) -> ApiError {
        let message = format!(
            "{} requests are being validated (`--validation-workers`, `--max-concurrent-requests`)",
            self.max_jobs
        );
        ApiError::new(Cause::Overloaded, message)
    }
}

/// First come, first served.
async fn turn(semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, ApiError> {
    let permit = semaphore.clone().acquire_owned().await;
    permit.map_err(|_| internal())
}

fn internal() -> ApiError {
    ApiError::new(Cause::Internal, "a validation worker failed")
}

#[cfg(test)]
mod tests {
    use std::{
        future::{Future, poll_fn},
        task::Poll,
    };

    use super::*;

    #[tokio::test]
    async fn a_full_queue_refuses_and_a_panic_is_an_error() {
        let workers = Workers::new("test", 1, 0).unwrap();
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let mut first = Box::pin(workers.run(0, move || wait.recv()));
        let is_pending = poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx).is_pending())).await;
        assert!(is_pending);
        assert_eq!(
            workers.run(0, || ()).await.unwrap_err().cause,
            Cause::Overloaded
        );
        release.send(()).unwrap();
        first.await.unwrap().unwrap();
        assert_eq!(
            workers
                .run(0, || panic!("on purpose"))
                .await
                .unwrap_err()
                .cause,
            Cause::Internal
        );
        workers.run(0, || ()).await.unwrap();
    }

    #[tokio::test]
    async fn short_texts_do_not_wait_behind_long_ones() {
        for num_threads in [1, 2] {
            let workers = Workers::new("test", num_threads, 4).unwrap();
            let (release, wait) = std::sync::mpsc::channel::<()>();
            let mut first = Box::pin(workers.run(LONG_BYTES, move || wait.recv()));
            let mut second = Box::pin(workers.run(LONG_BYTES, || ()));
            for _ in 0..3 {
                let is_waiting = poll_fn(|cx| {
                    let first = first.as_mut().poll(cx).is_pending();
                    Poll::Ready(first && second.as_mut().poll(cx).is_pending())
                });
                assert!(is_waiting.await);
                workers.run(LONG_BYTES - 1, || ()).await.unwrap();
            }
            release.send(()).unwrap();
            first.await.unwrap().unwrap();
            second.await.unwrap();
        }
    }
}
