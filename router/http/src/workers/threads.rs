//! Blocking threads for work on texts. Each ends after so much text and has a successor: libraries remember words by thread, up to
//! some 100 MB each, and give them back with the thread. Knows no requests and no limits.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use crossbeam_channel::{Receiver, Sender, unbounded};
use tokio::sync::oneshot;

/// Bytes of text that a thread reads before another one takes its place: their words fit the tables that a thread begins with.
const BYTES_OF_A_THREAD: u64 = 256 << 10;

/// Whichever thread is free takes the next job. They end when this is dropped.
#[derive(Debug)]
pub(super) struct Threads {
    jobs: Sender<Job>,
}

struct Job {
    bytes: u64,
    run: Box<dyn FnOnce() + Send>,
}

impl Threads {
    /// # Errors
    /// The system has no thread to give.
    pub(super) fn start(name: &'static str, count: usize) -> io::Result<Self> {
        let (jobs, inbox) = unbounded();
        (0..count).try_for_each(|_| start(name, &inbox))?;
        Ok(Self { jobs })
    }

    /// What `job` gives, which reads so many bytes of text; nothing where it panics.
    pub(super) fn run<T: Send + 'static>(
        &self,
        bytes: u64,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (outbox, result) = oneshot::channel();
        let run = Box::new(move || drop(outbox.send(job())));
        drop(self.jobs.send(Job { bytes, run }));
        result
    }
}

fn start(name: &'static str, inbox: &Receiver<Job>) -> io::Result<()> {
    let inbox = inbox.clone();
    let named = thread::Builder::new().name(name.to_owned());
    named.spawn(move || work(name, &inbox)).map(drop)
}

/// One thread's life.
fn work(name: &'static str, inbox: &Receiver<Job>) {
    let mut bytes = 0;
    for job in inbox {
        bytes += job.bytes;
        // What panics has dropped its outbox, so who waits for it knows.
        drop(catch_unwind(AssertUnwindSafe(job.run)));
        if bytes >= BYTES_OF_A_THREAD && start(name, inbox).is_ok() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread::ThreadId;

    use super::*;

    async fn on(threads: &Threads, bytes: u64) -> ThreadId {
        let found = threads.run(bytes, || thread::current().id());
        found.await.unwrap()
    }

    #[tokio::test]
    async fn a_thread_that_has_read_enough_has_a_successor() {
        let threads = Threads::start("test", 1).unwrap();
        let first = on(&threads, BYTES_OF_A_THREAD - 1).await;
        assert_eq!(on(&threads, 1).await, first);
        let second = on(&threads, BYTES_OF_A_THREAD).await;
        assert_ne!(second, first);
        assert_ne!(on(&threads, 0).await, second);
    }

    #[tokio::test]
    async fn a_panic_ends_the_job_and_not_the_thread() {
        let threads = Threads::start("test", 1).unwrap();
        let first = on(&threads, 0).await;
        let failed = threads.run(0, || panic!("on purpose"));
        assert!(failed.await.is_err());
        assert_eq!(on(&threads, 0).await, first);
    }
}
