//! Marks behind the steps launched so far, numbered from 1: page tables change only behind the mark of whoever may touch the
//! page. Knows events; not pages.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::driver::{Answer, Driver, Event, Stream};

/// Numbered fences. Fence 0 stands before all work and is always reached.
#[derive(Debug, Default)]
pub struct Fences {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    latest: u64,
    stream: Stream,
    pending: VecDeque<(u64, Event)>,
    spare: Vec<Event>,
}

impl State {
    /// Forgets fences that are reached, oldest first.
    fn sweep(&mut self, driver: &dyn Driver) -> Answer<()> {
        while let Some((_, event)) = self.pending.front() {
            if !driver.is_done(*event)? {
                break;
            }
            self.spare
                .extend(self.pending.pop_front().map(|(_, event)| event));
        }
        Ok(())
    }

    /// The event of the first fence at or behind `number` that is not known to be reached.
    fn event(&self, number: u64) -> Option<Event> {
        let found = self.pending.iter().find(|(at, _)| *at >= number);
        found.filter(|_| number > 0).map(|(_, event)| *event)
    }
}

impl Fences {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a fence behind all work on the stream, which copies then follow. Returns its number.
    pub fn record(&self, driver: &dyn Driver, stream: Stream) -> Answer<u64> {
        let mut state = self.lock();
        state.sweep(driver)?;
        let event = match state.spare.pop() {
            Some(event) => event,
            None => driver.create_event()?,
        };
        if let Err(error) = driver.record(event, stream) {
            state.spare.push(event);
            return Err(error);
        }
        state.latest += 1;
        state.stream = stream;
        let number = state.latest;
        state.pending.push_back((number, event));
        Ok(number)
    }

    /// The stream of the last fence.
    pub fn stream(&self) -> Stream {
        self.lock().stream
    }

    /// Whether all work before the fence is done. Never blocks.
    pub fn is_reached(&self, driver: &dyn Driver, number: u64) -> Answer<bool> {
        let mut state = self.lock();
        if state.event(number).is_some() {
            state.sweep(driver)?;
        }
        Ok(state.event(number).is_none())
    }

    /// Blocks until all work before the fence is done. Returns whether it had to.
    pub fn wait(&self, driver: &dyn Driver, number: u64) -> Answer<bool> {
        if self.is_reached(driver, number)? {
            return Ok(false);
        }
        let event = self.lock().event(number);
        if let Some(event) = event {
            // Should another thread have put the event behind later work meanwhile, the wait is longer, never too short.
            driver.wait(event)?;
        }
        Ok(true)
    }

    /// Waits for everything and ends all events.
    pub fn finish(&self, driver: &dyn Driver) -> Answer<()> {
        let latest = self.lock().latest;
        let waited = self.wait(driver, latest);
        let mut state = self.lock();
        let pending: Vec<Event> = state.pending.drain(..).map(|(_, event)| event).collect();
        for event in pending.into_iter().chain(std::mem::take(&mut state.spare)) {
            driver.destroy_event(event)?;
        }
        waited.map(|_| ())
    }
}
