//! The thread that maps pages before a plan needs them. Knows places to prepare; never makes a step wait for a kernel.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::driver::{Answer, Entered};
use super::editor::Editor;
use super::shared::Shared;
use super::table::Place;

/// Between two looks at a fence that is not reached yet; far below a step.
const FENCE_POLL: Duration = Duration::from_micros(100);

#[derive(Default)]
struct Queue {
    places: VecDeque<Place>,
    busy: bool,
    stop: bool,
}

/// The thread and its queue.
pub struct Ahead {
    inbox: Arc<(Mutex<Queue>, Condvar)>,
    limit: usize,
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    /// Starts the thread. At most `limit` places wait; what comes then is left to the growth itself.
    pub fn start(shared: Arc<Shared>, limit: usize) -> std::io::Result<Self> {
        let inbox = Arc::new((Mutex::new(Queue::default()), Condvar::new()));
        let worker = Worker {
            shared,
            inbox: Arc::clone(&inbox),
        };
        let thread = thread::Builder::new()
            .name("ribbon-map".into())
            .spawn(move || worker.run())?;
        Ok(Self {
            inbox,
            limit,
            thread: Some(thread),
        })
    }

    /// Asks for pages at these places.
    pub fn ask(&self, places: Range<Place>) {
        let (queue, changed) = &*self.inbox;
        let mut queue = lock(queue);
        let room = self.limit.saturating_sub(queue.places.len());
        queue.places.extend(places.take(room));
        changed.notify_all();
    }

    /// Waits until nothing is asked for any more, at most so long. Returns whether that was reached.
    pub fn settle(&self, limit: Duration) -> bool {
        let (queue, changed) = &*self.inbox;
        let busy = |queue: &mut Queue| queue.busy || !queue.places.is_empty();
        let waited = changed.wait_timeout_while(lock(queue), limit, busy);
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !busy(&mut queue)
    }
}

impl Ahead {
    /// Ends the thread.
    pub fn stop(&mut self) {
        let (queue, changed) = &*self.inbox;
        lock(queue).stop = true;
        changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; there is nothing to add.
            let _ = thread.join();
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Worker {
    shared: Arc<Shared>,
    inbox: Arc<(Mutex<Queue>, Condvar)>,
}

impl Worker {
    fn run(&self) {
        while let Some(place) = self.next() {
            let _ = self.prepare(place); // a growth that needs the page meets the same error and tells it
        }
    }

    fn next(&self) -> Option<Place> {
        let (queue, changed) = &*self.inbox;
        let mut queue = lock(queue);
        queue.busy = false;
        changed.notify_all();
        while queue.places.is_empty() && !queue.stop {
            queue = changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.busy = true;
        queue.places.pop_front().filter(|_| !queue.stop)
    }

    fn stopped(&self) -> bool {
        lock(&self.inbox.0).stop
    }

    /// A moment, or until there is news.
    fn pause(&self) {
        let (queue, changed) = &*self.inbox;
        // Woken or not: the fence is looked at again.
        let _ = changed.wait_timeout(lock(queue), FENCE_POLL);
    }

    /// Maps a page at the place as soon as no kernel can touch what is there now.
    fn prepare(&self, place: Place) -> Answer<()> {
        let editor = &self.shared.editor;
        let _context = Entered::new(&*editor.driver)?;
        while !self.stopped() {
            let mut table = self.shared.lock();
            let Some(edit) = table.ahead(place) else {
                return Ok(());
            };
            let edits = [vec![edit], table.tail(place + 1)].concat();
            let fence = Editor::fence_before(&table, &edits);
            if editor.fences.is_reached(&*editor.driver, fence)? {
                editor.commit(&mut table, &edits)?;
                table.note_ahead(edit.set);
                editor.statistics.prefetched_pages.add(1);
                return Ok(());
            }
            drop(table);
            self.pause();
        }
        Ok(())
    }
}
