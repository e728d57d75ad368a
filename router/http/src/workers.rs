//! Where templates are rendered and texts tokenized: a few blocking threads behind a bounded queue, off the async threads.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use crate::error::{ApiError, Cause};

/// A bounded pool of validation workers.
#[derive(Debug)]
pub(crate) struct Workers {
    /// Jobs running or waiting.
    places: Arc<Semaphore>,
    /// Jobs running.
    threads: Arc<Semaphore>,
    max_jobs: usize,
}

impl Workers {
    pub(crate) fn new(num_threads: usize, max_waiting: usize) -> Self {
        let max_jobs = num_threads + max_waiting;
        Self {
            places: Arc::new(Semaphore::new(max_jobs)),
            threads: Arc::new(Semaphore::new(num_threads)),
            max_jobs,
        }
    }

    /// Runs `job` on a worker. Dropping the future while the job waits takes it out of the queue.
    ///
    /// # Errors
    /// The queue is full, or the job panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let place = self
            .places
            .clone()
            .try_acquire_owned()
            .map_err(|_| self.overloaded())?;
        let thread = self
            .threads
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| internal())?;
        let work = move || {
            let result = job();
            drop((place, thread));
            result
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| internal())
    }

    fn overloaded(&self) -> ApiError {
        let message = format!(
            "{} requests are being validated (`--validation-workers`, `--max-concurrent-requests`)",
            self.max_jobs
        );
        ApiError::new(Cause::Overloaded, message).retry_after(Duration::from_secs(1))
    }
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
        let workers = Workers::new(1, 0);
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let mut first = Box::pin(workers.run(move || wait.recv()));
        let is_pending = poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx).is_pending())).await;
        assert!(is_pending);
        assert_eq!(
            workers.run(|| ()).await.unwrap_err().cause,
            Cause::Overloaded
        );
        release.send(()).unwrap();
        first.await.unwrap().unwrap();
        assert_eq!(
            workers
                .run(|| panic!("on purpose"))
                .await
                .unwrap_err()
                .cause,
            Cause::Internal
        );
        workers.run(|| ()).await.unwrap();
    }
}
