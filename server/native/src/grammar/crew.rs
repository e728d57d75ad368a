//! The thread that fills masks beside the forward pass, with helpers where there are cores to spare. Knows rows and jobs.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use ribbon_grammar::GrammarError;

use crate::grammar::row::Row;
use crate::grammar::{Table, lock};
use crate::team::Team;
use crate::threads;

/// Of so many cores one fills masks; the others belong to the forward pass.
const CORES_PER_THREAD: usize = 4;

/// A row to fill, and the tokens it has not seen.
pub(super) struct Job {
    pub(super) slot: usize,
    pub(super) tokens: Vec<u32>,
}

/// Whether jobs are under way.
#[derive(Default)]
struct Progress {
    busy: Mutex<bool>,
    changed: Condvar,
}

impl Progress {
    fn set(&self, busy: bool) {
        *self.busy.lock().unwrap_or_else(PoisonError::into_inner) = busy;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(busy, |busy| *busy));
    }
}

/// Whoever fills masks. One list of jobs at a time.
pub(super) struct Crew {
    jobs: Option<Mutex<Sender<Vec<Job>>>>,
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
}

impl Crew {
    /// Starts the thread and its helpers.
    ///
    /// # Errors
    /// One does not start.
    pub(super) fn start(rows: Arc<Table>) -> io::Result<Self> {
        let team = Team::start((threads::available_cores() / CORES_PER_THREAD).max(1))?;
        let progress = Arc::new(Progress::default());
        let (sender, jobs) = channel();
        let shown = Arc::clone(&progress);
        let thread = thread::Builder::new()
            .name("ribbon-masks".to_owned())
            .spawn(move || work(&jobs, &rows, &team, &shown))?;
        Ok(Self {
            jobs: Some(Mutex::new(sender)),
            progress,
            thread: Some(thread),
        })
    }

    /// Hands jobs over; those before them are done.
    pub(super) fn begin(&self, jobs: Vec<Job>) {
        let Some(sender) = &self.jobs else {
            return;
        };
        self.progress.set(true);
        let sender = sender.lock().unwrap_or_else(PoisonError::into_inner);
        if sender.send(jobs).is_err() {
            self.progress.set(false);
        }
    }

    /// Until there is nothing to do.
    pub(super) fn wait(&self) {
        self.progress.wait();
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It catches what rows panic with, so there is nothing to pass on.
            drop(thread.join());
        }
    }
}

fn work(jobs: &Receiver<Vec<Job>>, rows: &Table, team: &Team, progress: &Progress) {
    for jobs in jobs {
        team.run(jobs.len(), &|index| {
            fill(&rows[jobs[index].slot], &jobs[index].tokens);
        });
        progress.set(false);
    }
}

/// A row that panics fails alone.
fn fill(row: &Mutex<Option<Row>>, tokens: &[u32]) {
    let filled = catch_unwind(AssertUnwindSafe(|| {
        if let Some(row) = lock(row).as_mut() {
            row.fill(tokens);
        }
    }));
    if let (Err(_), Some(row)) = (filled, lock(row).as_mut()) {
        row.fail(GrammarError::TooComplex("its matcher failed".to_owned()));
    }
}
