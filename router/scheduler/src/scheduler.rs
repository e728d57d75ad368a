//! The state machine: who waits, who runs, whether a shard is live. Plans are made in `planning`, outcomes taken in `outcome`.
//! Knows no clock (the time is passed in) and no channel.

#[cfg(test)]
mod tests;

use std::{
    collections::{VecDeque, hash_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

use foldhash::HashMap;
use ribbon_core::{
    EngineLoad, EngineState, KvGroup, Limits, Line, PromptRuns, Refusal, SequenceRequest,
    ShardDescription, Slot, StreamError,
};

use crate::{
    batch::Batch,
    budget::{ChunkBound, MIN_CHUNK_TOKENS},
    deadlines::Deadlines,
    event::{CancelStage, Event},
    gate::{Gate, GroupId, Permit, SequenceId},
    kv_memory::KvMemory,
    prefill_rate::PrefillRate,
    prefix_tree::Domain,
    queue::Queue,
    recovery::{FAILURES_TO_END, Recovery, Suspect},
    sequence::Sequence,
    settings::SchedulerSettings,
    step::Flight,
    usage::Totals,
    waiting::Parked,
};

/// What exists only while a generation of shards lives.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) memory: KvMemory,
    pub(crate) bound: ChunkBound,
    pub(crate) prompt_runs: PromptRuns,
    /// The last step belonged to one prompt, while others could have decoded.
    pub(crate) decodes_are_due: bool,
    /// Oldest first.
    pub(crate) flights: VecDeque<Flight>,
    pub(crate) next_step: u64,
    /// Tokens of one step.
    pub(crate) budget: u32,
    pub(crate) step_deadline: Duration,
    /// Slots whose close goes into the next plan, and their tokens that are in the KV for sure.
    pub(crate) closing: Vec<(Slot, u32)>,
    /// Requests that are over, whose tokens nobody may show.
    pub(crate) forgotten: Vec<Domain>,
    /// Steps that failed for lack of pages since the last one that worked.
    pub(crate) short_steps: u32,
    /// A step failed: no plan leaves until every outcome is in.
    pub(crate) settling: bool,
    /// Steps that failed since the last one that worked.
    pub(crate) failed_in_a_row: u32,
}

/// Decides what every step does.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) settings: SchedulerSettings,
    pub(crate) gate: Arc<Gate>,
    pub(crate) sequences: HashMap<SequenceId, Sequence>,
    pub(crate) queue: Queue,
    pub(crate) batch: Batch,
    pub(crate) recovery: Recovery,
    pub(crate) live: Option<Live>,
    pub(crate) events: Vec<Event>,
    pub(crate) totals: Totals,
    pub(crate) parked: Vec<Parked>,
    /// Sequences of each request.
    groups: HashMap<GroupId, u32>,
    /// Slots that the last round of each request's searches gave back: they are kept for its next one.
    promised: HashMap<GroupId, usize>,
    deadlines: Deadlines,
    pub(crate) prefill_rate: PrefillRate,
    /// Since when no shard is live, once one was.
    lost_at: Option<Instant>,
}

impl Scheduler {
    /// A scheduler without a shard behind `gate`.
    pub fn new(settings: SchedulerSettings, gate: Arc<Gate>) -> Self {
        Self {
            settings,
            gate,
            sequences: HashMap::default(),
            queue: Queue::default(),
            batch: Batch::default(),
            recovery: Recovery::default(),
            live: None,
            events: Vec::new(),
            totals: Totals::default(),
            parked: Vec::new(),
            groups: HashMap::default(),
            promised: HashMap::default(),
            deadlines: Deadlines::default(),
            prefill_rate: PrefillRate::default(),
            lost_at: None,
        }
    }

    /// Takes a request through the gate into the queue.
    ///
    /// # Errors
    /// See [`Gate::admit`].
    pub fn submit(
        &mut self,
        request: SequenceRequest,
        now: Instant,
    ) -> Result<SequenceId, Refusal> {
        let ids = self.submit_group(vec![request], now)?;
        ids.first().copied().ok_or(Refusal::ShuttingDown)
    }

    /// Takes all sequences of one request, or none.
    ///
    /// # Errors
    /// See [`Gate::admit`].
    pub fn submit_group(
        &mut self,
        group: Vec<SequenceRequest>,
        now: Instant,
    ) -> Result<Vec<SequenceId>, Refusal> {
        let permits = self.gate.admit(&group)?;
        let pairs = group.into_iter().zip(permits);
        Ok(pairs
            .map(|(request, permit)| self.enqueue(request, permit, now))
            .collect())
    }

    /// Takes a request that is through the gate already.
    pub fn enqueue(
        &mut self,
        request: SequenceRequest,
        permit: Permit,
        now: Instant,
    ) -> SequenceId {
        let generated = Vec::new();
        self.enqueue_line(Line { request, generated }, permit, now)
    }

    /// Takes the next sequence of a search. One that goes on waits behind nobody.
    pub fn enqueue_line(&mut self, line: Line, permit: Permit, now: Instant) -> SequenceId {
        let sequence = Sequence::new(line, permit, now);
        let id = sequence.id();
        self.deadlines.add(id, sequence.request.deadline);
        if sequence.goes_on() {
            self.promised
                .entry(sequence.group())
                .and_modify(|seats| *seats = 0);
            self.queue.push_front(sequence.ticket());
        } else {
            self.queue.push(sequence.ticket());
        }
        self.hold_group(sequence.group());
        self.sequences.insert(id, sequence);
        id
    }

    /// A search has begun, one round after the other: what its sequences computed is kept for the next ones, and so are their
    /// slots, until [`Scheduler::end_search`].
    pub fn begin_search(&mut self, group: GroupId) {
        self.hold_group(group);
        self.promised.entry(group).or_default();
    }

    /// Slots that wait for the next rounds of searches.
    pub(crate) fn promised_seats(&self) -> usize {
        self.promised.values().sum()
    }

    fn hold_group(&mut self, group: GroupId) {
        *self.groups.entry(group).or_default() += 1;
    }

    /// Ends a sequence nobody waits for. Its slot and pages leave with the next plan. Unknown ids are ignored.
    pub fn cancel(&mut self, id: SequenceId, now: Instant) {
        let Some(stage) = self.stage(id) else {
            return;
        };
        self.remove(id, now);
        self.events.push(Event::Cancelled { stage });
    }

    fn stage(&self, id: SequenceId) -> Option<CancelStage> {
        let sequence = self.sequences.get(&id)?;
        Some(match sequence.seat.and_then(|slot| self.batch.get(slot)) {
            None => CancelStage::Queued,
            Some(seat) if seat.fed + 1 >= sequence.known() && !sequence.generated.is_empty() => {
                CancelStage::Decode
            }
            Some(_) => CancelStage::Prefill,
        })
    }

    /// Ends a sequence whose client has all it wanted. Unknown ids are ignored.
    pub fn finish(&mut self, id: SequenceId, now: Instant) {
        self.remove(id, now);
    }

    /// A warm generation with an empty memory is there.
    pub fn on_ready(&mut self, description: ShardDescription, now: Instant) {
        self.on_lost("replaced by a new generation", now);
        let Some(group) = description.kv_groups.first().cloned() else {
            return;
        };
        let budget = description.max_batch_prefill_tokens.max(1);
        let live = Live {
            memory: KvMemory::new(
                &description.kv_groups,
                self.max_seats(budget),
                self.fed_ahead(budget),
            ),
            bound: ChunkBound::new(description.prompt_token),
            prompt_runs: description.prompt_runs,
            decodes_are_due: false,
            flights: VecDeque::new(),
            next_step: 1,
            budget,
            step_deadline: self.settings.step_deadline(description.slowest_step),
            closing: Vec::new(),
            forgotten: Vec::new(),
            short_steps: 0,
            settling: false,
            failed_in_a_row: 0,
        };
        let limits = self.limits(&description, &group, &live);
        self.gate
            .set_limits(limits, description, live.memory.ribbons().longest());
        self.gate.set_state(EngineState::Ready);
        self.live = Some(live);
        self.lost_at = None;
        self.end_misfits(now);
    }

    /// Sequences that may hold a slot at once: each decodes in every step, and prompts must still get on.
    fn max_seats(&self, budget: u32) -> u32 {
        let seats = (budget - MIN_CHUNK_TOKENS.min(budget / 2)).max(1);
        seats.min(self.settings.max_batch_size.unwrap_or(u32::MAX))
    }

    /// Tokens that plans may carry before the outcome of the first is in.
    fn fed_ahead(&self, budget: u32) -> u32 {
        budget.saturating_mul(u32::try_from(self.settings.pipeline_depth).unwrap_or(u32::MAX))
    }

    fn limits(&self, shard: &ShardDescription, group: &KvGroup, live: &Live) -> Limits {
        let max_total_tokens = shard.max_total_tokens.min(group.slot_tokens);
        let longest_prompt = max_total_tokens.saturating_sub(1);
        Limits {
            max_input_tokens: self
                .settings
                .max_input_tokens
                .unwrap_or(longest_prompt)
                .min(longest_prompt),
            max_total_tokens,
            max_batch_prefill_tokens: live.budget,
            max_batch_total_tokens: live.memory.pool_tokens(),
            max_concurrent_sequences: live.memory.ribbons().free_slots() as u32,
            vocab_size: shard.vocab_size,
        }
    }

    /// The generation is gone. Every sequence keeps what it has and waits for the next one.
    pub fn on_lost(&mut self, reason: &str, now: Instant) {
        if let Some(live) = self.live.take() {
            self.totals.evictions += live.memory.evictions();
            self.lost_at = Some(now);
            self.gate.set_state(EngineState::Recovering);
            self.recover_from_loss(&live, reason, now);
        }
    }

    /// When [`Scheduler::on_time`] has something to do, if nothing else happens before.
    pub fn deadline(&self) -> Option<Instant> {
        let (outage, expiry) = (self.outage_deadline(), self.deadlines.next());
        outage.into_iter().chain(expiry).min()
    }

    /// When the live shard counts as hung, or those that wait for one have waited too long.
    fn outage_deadline(&self) -> Option<Instant> {
        if let Some(live) = &self.live {
            return live
                .flights
                .front()
                .map(|flight| flight.began + live.step_deadline);
        }
        let lost_at = self.lost_at?;
        let waiting_since = self
            .sequences
            .values()
            .map(|sequence| sequence.submitted.max(lost_at));
        Some(waiting_since.min()? + self.settings.recovery_timeout)
    }

    /// Does what is due: ends sequences past their deadline, declares an overdue step hung, ends what waited too long for a
    /// shard.
    pub fn on_time(&mut self, now: Instant) {
        self.expire(now);
        if self.outage_deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        if self.live.is_some() {
            self.declare_hung("a step is over its deadline", now);
        } else if let Some(lost_at) = self.lost_at {
            let timeout = self.settings.recovery_timeout;
            let overdue = |sequence: &Sequence| now >= sequence.submitted.max(lost_at) + timeout;
            self.end_where(overdue, &StreamError::RecoveryTimeout(timeout), now);
        }
    }

    /// Ends sequences past their own deadline. One that never had a slot never reaches a shard.
    pub(crate) fn expire(&mut self, now: Instant) {
        for id in self.deadlines.due(&self.sequences, now) {
            let stage = self.stage(id);
            self.fail(id, StreamError::Expired, now);
            self.events
                .extend(stage.map(|stage| Event::Expired { stage }));
        }
    }

    /// The live generation cannot be trusted any more: asks for another one and waits for it.
    pub(crate) fn declare_hung(&mut self, reason: &str, now: Instant) {
        let oldest = self.live.as_ref().and_then(|live| live.flights.front());
        let step_id = oldest.map_or(0, |flight| flight.step_id);
        let due = self.outage_deadline().filter(|due| now >= *due);
        self.events.push(Event::Hung { step_id, due });
        self.on_lost(reason, now);
    }

    /// Ends every sequence: the server stops.
    pub fn stop(&mut self, now: Instant) {
        self.gate.close();
        self.end_where(|_| true, &StreamError::ShuttingDown, now);
    }

    /// What happened since the last call, in order.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Nobody waits, runs, or is on the way from the gate.
    pub fn is_idle(&self) -> bool {
        self.sequences.is_empty() && self.gate.occupied() == 0
    }

    /// Nothing will change by itself: no sequence, and every slot is given back.
    pub fn at_rest(&self) -> bool {
        self.sequences.is_empty() && self.usage().pages.slots_used == 0
    }

    /// Shows load and retry advice at the gate.
    pub fn publish(&mut self, now: Instant) {
        let queued = self.sequences.len() - self.batch.len();
        self.gate.set_load(EngineLoad {
            running: self.batch.len() as u32,
            queued: queued as u32,
        });
        let seated = self.batch.iter().filter(|(_, seat)| seat.prefills());
        let unfinished: u64 = seated.map(|(_, seat)| u64::from(seat.pending())).sum();
        let backlog = self.gate.queued_tokens() + unfinished;
        self.gate
            .set_retry_after(self.prefill_rate.retry_after(backlog, now));
    }

    /// Ends sequences that the pool, as it is now, can never hold.
    pub(crate) fn end_misfits(&mut self, now: Instant) {
        let Some(live) = &self.live else {
            return;
        };
        let longest = live.memory.ribbons().longest();
        let reason = format!("it needs more KV memory than the {longest} tokens the shard now has");
        let misfit = |sequence: &Sequence| {
            sequence.seat.is_none() && u64::from(sequence.kv_tokens()) > longest
        };
        self.end_where(misfit, &StreamError::Generation(reason), now);
    }

    fn end_where(&mut self, which: impl Fn(&Sequence) -> bool, error: &StreamError, now: Instant) {
        let chosen = self.sequences.values().filter(|sequence| which(sequence));
        let ids: Vec<SequenceId> = chosen.map(Sequence::id).collect();
        for id in ids {
            self.fail(id, error.clone(), now);
        }
    }

    /// Ends a sequence without a finish reason.
    pub(crate) fn fail(&mut self, sequence: SequenceId, error: StreamError, now: Instant) {
        if self.remove(sequence, now).is_some() {
            self.events.push(Event::Failed { sequence, error });
        }
    }

    /// Takes a sequence out of wherever it is.
    pub(crate) fn remove(&mut self, id: SequenceId, _now: Instant) -> Option<Sequence> {
        let mut sequence = self.sequences.remove(&id)?;
        self.queue.remove(id);
        self.recovery.forget(id);
        let had_seat = sequence.seat.is_some();
        self.leave_seat(&mut sequence);
        if had_seat && let Some(seats) = self.promised.get_mut(&sequence.group()) {
            *seats += 1;
        }
        self.leave_group(sequence.group());
        self.queue
            .charge(&sequence.tenant(), sequence.unpaid_tokens());
        Some(sequence)
    }

    /// A search is over: nobody waits for the slots it had. Another one of the same request is promised its own again when it
    /// ends a round.
    pub fn end_search(&mut self, group: GroupId) {
        self.promised.entry(group).and_modify(|seats| *seats = 0);
        self.leave_group(group);
    }

    /// Where only the sequences of one request share, the last one takes their tokens with it.
    fn leave_group(&mut self, group: GroupId) {
        let Entry::Occupied(mut members) = self.groups.entry(group) else {
            return;
        };
        *members.get_mut() -= 1;
        if *members.get() == 0 {
            members.remove();
            self.promised.remove(&group);
            if let Some(live) = self.live.as_mut().filter(|_| !self.settings.prefix_caching) {
                live.forgotten.push(Domain::Group(group));
            }
        }
    }

    fn leave_seat(&mut self, sequence: &mut Sequence) {
        let Some(slot) = sequence.seat.take() else {
            return;
        };
        let fed = self.batch.leave(slot).map_or(0, |seat| seat.fed);
        if let Some(live) = &mut self.live {
            live.closing.push((slot, fed));
        }
    }

    /// Takes the slot from a sequence that gave way: a suspect waits for its turn, another one before the queue.
    pub(crate) fn give_way(&mut self, id: SequenceId) {
        self.recovery.leave_trial(id);
        self.take_slot_from(id, false);
    }

    /// Takes the slot from a sequence that has to come back later: a suspect in its turn, another one before the queue.
    pub(crate) fn send_back(&mut self, id: SequenceId) {
        self.take_slot_from(id, true);
    }

    fn take_slot_from(&mut self, id: SequenceId, returns: bool) {
        let Some(mut sequence) = self.sequences.remove(&id) else {
            return;
        };
        self.leave_seat(&mut sequence);
        if let Some(suspicion) = sequence.suspicion {
            self.recovery.suspect(Suspect {
                failures: suspicion.failures,
                id,
            });
        } else {
            if returns {
                self.recovery.returns(id);
            }
            self.queue.push_front(sequence.ticket());
        }
        self.sequences.insert(id, sequence);
    }

    /// A step failed under a sequence. `alone`: nobody else can have been the cause.
    pub(crate) fn accuse(&mut self, id: SequenceId, alone: bool, reason: &str, now: Instant) {
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return;
        };
        let seat = sequence.seat.and_then(|slot| self.batch.get(slot));
        sequence.suspect(seat.map_or(0, |seat| seat.planned));
        let failures = sequence.suspicion.map_or(0, |suspicion| suspicion.failures);
        if !alone || failures < FAILURES_TO_END {
            return;
        }
        tracing::error!(
            sequence = id.0,
            failures,
            parameter_hash = format_args!("{:016x}", sequence.request.parameter_hash()),
            reason,
            "a request is given up: it failed alone"
        );
        let message = format!("it failed {failures} times, the last time alone: {reason}");
        self.fail(id, StreamError::Generation(message), now);
    }
}
