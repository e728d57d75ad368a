//! Whose turn it is to get a slot. Knows tenants, priorities and token counts; not slots, not pages, not the clock.
//!
//! Order: sequences that lost their slot; then the lowest priority number; within it the tenant that got the fewest tokens so
//! far; of its sequences the shortest. Every fourth turn belongs to the oldest sequence of all, whatever it is: so none waits
//! for long. A short prompt goes before a long one whose turn it is, and before one that waits for memory; the turn stays
//! where it is, and only so many may pass. Those that lost their slot take no turn and are paid for already.

mod line;

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
};

pub(crate) use self::line::Candidate;
use self::line::Line;
use crate::{gate::SequenceId, tenants::Tenants};

/// Every so many turns the oldest sequence has one.
const OLDEST_EVERY: u32 = 4;
/// So many sequences may pass the one whose turn it is.
const MAX_PASSES: u32 = 16;
/// A prompt of at most so many tokens is short: a long one hardly notices the wait for it.
const SHORT_PROMPT_TOKENS: u32 = 256;

/// What the queue knows of a sequence.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    /// It, and what its turn depends on. Its known tokens are what its prefill costs at most.
    pub(crate) candidate: Candidate,
    /// Who pays.
    pub(crate) tenant: Arc<str>,
    /// It had a slot before: its tenant paid, and it goes before all others.
    pub(crate) returned: bool,
}

/// Sequences without a slot.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: BTreeMap<SequenceId, Ticket>,
    /// Those of them that are new and not parked.
    line: Line,
    /// Those that had a slot before, last lost first.
    returned: VecDeque<SequenceId>,
    tenants: Tenants,
    tokens: u64,
    turns: u32,
    /// How many have passed the one whose turn it is.
    passes: u32,
    /// How many new ones have passed those that had a slot before, since one of those waits.
    overtaken: u32,
    /// Whose turn it is among the new ones, until it is used or nobody has passed and somebody comes.
    chosen: Option<SequenceId>,
    /// They wait for tokens that a running sequence computes.
    parked: HashSet<SequenceId>,
}

impl Queue {
    /// A new sequence.
    pub(crate) fn push(&mut self, ticket: Ticket) {
        self.tenants.arrive(&ticket.tenant);
        self.tokens += u64::from(ticket.candidate.tokens);
        // A turn that waits for memory is kept, unless the newcomer is better placed by the same rule.
        if self.passes == 0 {
            self.chosen = None;
        }
        if !ticket.returned {
            self.stand_in_line(&ticket);
        }
        self.waiting.insert(ticket.candidate.id, ticket);
    }

    fn stand_in_line(&mut self, ticket: &Ticket) {
        let served = self.tenants.served(&ticket.tenant);
        self.line.insert(&ticket.tenant, served, ticket.candidate);
    }

    /// A sequence that lost its slot through no fault of its own, before all others.
    pub(crate) fn push_front(&mut self, ticket: Ticket) {
        self.returned.push_front(ticket.candidate.id);
        self.push(Ticket {
            returned: true,
            ..ticket
        });
    }

    /// Who gets the next slot. The answer stays the same until a sequence comes or goes.
    pub(crate) fn first(&mut self) -> Option<SequenceId> {
        if self.chosen.is_none() {
            self.passes = 0;
            self.chosen = self.choose_new(u32::MAX, |_| true);
        }
        let back = self.choose_returned(|_| true);
        back.or_else(|| self.short_one()).or(self.chosen)
    }

    /// A short prompt, where the turn belongs to a long one that is not more urgent.
    fn short_one(&self) -> Option<SequenceId> {
        let owner = self.waiting.get(&self.chosen?)?.candidate;
        if owner.tokens <= SHORT_PROMPT_TOKENS || self.passes >= MAX_PASSES {
            return None;
        }
        self.choose_new(SHORT_PROMPT_TOKENS, |other| {
            other.priority <= owner.priority
        })
    }

    /// Who goes instead, of those with at most so many known tokens that `may`, when [`Queue::first`] cannot: at most so many
    /// in a row.
    pub(crate) fn instead(
        &self,
        tokens: u32,
        may: impl Fn(&Candidate) -> bool,
    ) -> Option<SequenceId> {
        if self.passes.max(self.overtaken) >= MAX_PASSES {
            return None;
        }
        let first = self.choose_returned(|_| true).or(self.chosen);
        let may = |other: &Candidate| Some(other.id) != first && may(other);
        let back = self.choose_returned(|other| other.tokens <= tokens && may(other));
        back.or_else(|| self.choose_new(tokens, may))
    }

    /// Passes over a sequence until it is unparked; that costs nobody a turn.
    pub(crate) fn park(&mut self, id: SequenceId) {
        self.parked.insert(id);
        if let Some(ticket) = self.waiting.get(&id) {
            self.line.remove(&ticket.tenant, id);
        }
        if self.chosen == Some(id) {
            self.chosen = None;
        }
    }

    /// A parked sequence has its turn again.
    pub(crate) fn unpark(&mut self, id: SequenceId) {
        if !self.parked.remove(&id) {
            return;
        }
        let ticket = self.waiting.get(&id).filter(|ticket| !ticket.returned);
        if let Some(ticket) = ticket.cloned() {
            self.stand_in_line(&ticket);
        }
        if self.passes == 0 {
            self.chosen = None;
        }
    }

    fn choose_returned(&self, may: impl Fn(&Candidate) -> bool) -> Option<SequenceId> {
        let tickets = self.returned.iter().filter_map(|id| self.waiting.get(id));
        let mut returned = tickets.map(|ticket| ticket.candidate);
        let found = returned.find(|one| !self.parked.contains(&one.id) && may(one));
        found.map(|one| one.id)
    }

    fn choose_new(&self, tokens: u32, may: impl Fn(&Candidate) -> bool) -> Option<SequenceId> {
        if self.turns % OLDEST_EVERY == OLDEST_EVERY - 1 {
            return self.line.oldest(|one| one.tokens <= tokens && may(one));
        }
        self.line.next(tokens, may)
    }

    /// A sequence gets a slot. A new one has used its turn or passed, and its tenant pays for its known tokens.
    pub(crate) fn take(&mut self, id: SequenceId) {
        self.first();
        let has_turn = self.chosen == Some(id);
        let Some(ticket) = self.waiting.get(&id) else {
            return;
        };
        if !ticket.returned {
            let (tenant, tokens) = (ticket.tenant.clone(), ticket.candidate.tokens);
            self.tenants.serve(&tenant, u64::from(tokens));
            self.line.charged(&tenant, self.tenants.served(&tenant));
            self.overtaken += u32::from(self.choose_returned(|_| true).is_some());
            if has_turn {
                self.turns = self.turns.wrapping_add(1);
            } else {
                self.passes += 1;
            }
        }
        self.leave(id);
    }

    /// A sequence goes without a slot. Says whether it was there.
    pub(crate) fn remove(&mut self, id: SequenceId) -> bool {
        self.leave(id)
    }

    /// A tenant got so many generated tokens.
    pub(crate) fn charge(&mut self, tenant: &Arc<str>, tokens: u64) {
        self.tenants.charge(tenant, tokens);
        self.line.charged(tenant, self.tenants.served(tenant));
    }

    fn leave(&mut self, id: SequenceId) -> bool {
        let Some(ticket) = self.waiting.remove(&id) else {
            return false;
        };
        self.tokens -= u64::from(ticket.candidate.tokens);
        self.line.remove(&ticket.tenant, id);
        self.tenants.leave(&ticket.tenant);
        self.returned.retain(|other| *other != id);
        if self.returned.is_empty() {
            self.overtaken = 0;
        }
        self.parked.remove(&id);
        if self.chosen == Some(id) || self.passes == 0 {
            self.chosen = None;
        }
        true
    }

    pub(crate) fn contains(&self, id: SequenceId) -> bool {
        self.waiting.contains_key(&id)
    }

    /// The sequence that has waited longest.
    pub(crate) fn oldest(&self) -> Option<SequenceId> {
        self.waiting.first_key_value().map(|(id, _)| *id)
    }

    /// Tokens a tenant paid for.
    #[cfg(test)]
    pub(crate) fn served(&self, tenant: &str) -> u64 {
        self.tenants.served(tenant)
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(id: u64, tenant: &str, priority: i32, tokens: u32) -> Ticket {
        let candidate = Candidate {
            id: SequenceId(id),
            priority,
            tokens,
            most_tokens: tokens,
            ahead: tokens,
        };
        Ticket {
            candidate,
            tenant: tenant.into(),
            returned: false,
        }
    }

    fn queue(tickets: &[(u64, &str, i32, u32)]) -> Queue {
        let mut queue = Queue::default();
        for (id, tenant, priority, tokens) in tickets {
            queue.push(ticket(*id, tenant, *priority, *tokens));
        }
        queue
    }

    /// Ids in the order in which they get slots.
    fn served(queue: &mut Queue) -> Vec<u64> {
        let mut order = Vec::new();
        while let Some(id) = queue.first() {
            queue.take(id);
            order.push(id.0);
        }
        order
    }

    #[test]
    fn short_ones_pass_long_ones_and_every_fourth_turn_is_the_oldests() {
        let mut queue = queue(&[
            (1, "", 0, 200),
            (2, "", 0, 50),
            (3, "", 0, 40),
            (4, "", 0, 30),
            (5, "", 0, 20),
            (6, "", 0, 10),
        ]);
        assert_eq!(served(&mut queue), [6, 5, 4, 1, 3, 2]);
    }

    #[test]
    fn so_many_short_ones_pass_a_long_one_and_no_more() {
        let mut queue = queue(&[(1, "long", 0, 900)]);
        for id in 2..=60 {
            queue.push(ticket(id, "short", 0, 10));
        }
        let order = served(&mut queue);
        let place = order.iter().position(|id| *id == 1).unwrap() as u32;
        assert!(
            (MAX_PASSES..=MAX_PASSES + OLDEST_EVERY).contains(&place),
            "{order:?}"
        );
    }

    #[test]
    fn a_short_prompt_does_not_wait_for_the_turn_of_a_long_one() {
        let mut queue = Queue::default();
        for id in 1..=20 {
            queue.push(ticket(id, "flood", 0, 900));
        }
        for round in 0..12 {
            let short = 100 + round;
            assert!(queue.first().unwrap().0 <= 20);
            queue.push(ticket(short, "flood", 0, 10));
            assert_eq!(queue.first(), Some(SequenceId(short)));
            queue.take(SequenceId(short));
            let long = queue.first().unwrap();
            queue.take(long);
        }
    }

    #[test]
    fn a_lower_priority_number_goes_first_but_never_for_ever() {
        let mut queue = Queue::default();
        queue.push(ticket(1, "", 5, 10));
        for id in 2..=50 {
            queue.push(ticket(id, "", -3, 10));
        }
        assert_eq!(served(&mut queue)[..4], [2, 3, 4, 1]);
    }

    #[test]
    fn a_flood_of_one_tenant_does_not_starve_another() {
        let mut queue = Queue::default();
        for id in 1..=40 {
            queue.push(ticket(id, "flood", 0, 100));
        }
        for id in 41..=45 {
            queue.push(ticket(id, "other", 0, 100));
        }
        let order = served(&mut queue);
        let last = order.iter().position(|id| *id == 45).unwrap();
        assert!(
            last <= 14,
            "the other's five were done at {last}: {order:?}"
        );
    }

    #[test]
    fn tokens_count_not_requests() {
        let mut queue = Queue::default();
        for id in 1..=8 {
            queue.push(ticket(id, "long", 0, 1000));
        }
        for id in 9..=24 {
            queue.push(ticket(id, "short", 0, 100));
        }
        let order = served(&mut queue);
        let longs_before = order.iter().take(12).filter(|id| **id <= 8).count();
        assert!(longs_before <= 4, "{order:?}");
    }

    #[test]
    fn generated_tokens_are_paid_for_too() {
        let mut queue = queue(&[(1, "talks", 0, 10), (2, "listens", 0, 10)]);
        queue.charge(&"talks".into(), 500);
        assert_eq!(queue.first(), Some(SequenceId(2)));
    }

    #[test]
    fn a_tenant_that_was_away_gets_no_arrears() {
        let mut queue = Queue::default();
        for id in 1..=20 {
            queue.push(ticket(id, "busy", 0, 100));
        }
        for _ in 0..10 {
            let id = queue.first().unwrap();
            queue.take(id);
        }
        for id in 21..=30 {
            queue.push(ticket(id, "newcomer", 0, 100));
        }
        let order = served(&mut queue);
        let newcomers = order.iter().take(8).filter(|id| **id > 20).count();
        assert!((3..=5).contains(&newcomers), "{order:?}");
    }

    #[test]
    fn a_cancelled_sequence_is_skipped() {
        let mut queue = queue(&[(1, "", 0, 10), (2, "", 0, 10), (3, "", 0, 10)]);
        assert!(queue.remove(SequenceId(2)));
        assert!(!queue.remove(SequenceId(2)));
        assert!(queue.remove(SequenceId(1)));
        assert_eq!(queue.first(), Some(SequenceId(3)));
        assert_eq!((queue.len(), queue.tokens()), (1, 10));
    }

    #[test]
    fn one_that_lost_its_slot_goes_before_the_others() {
        let mut queue = queue(&[(1, "", 0, 4)]);
        queue.push_front(ticket(2, "", 9, 8));
        assert_eq!(queue.first(), Some(SequenceId(2)));
        assert_eq!(queue.tokens(), 12);
    }

    /// How many short ones pass sequence 1, whose turn it stays.
    fn passed_before_first(queue: &mut Queue) -> u32 {
        for id in 2..=60 {
            queue.push(ticket(id, "", 0, 10));
            assert_eq!(queue.first(), Some(SequenceId(1)));
            let Some(other) = queue.instead(u32::MAX, |_| true) else {
                return id as u32 - 2;
            };
            queue.take(other);
        }
        panic!("no end to those who pass");
    }

    #[test]
    fn one_that_waits_for_memory_keeps_its_turn_and_few_pass_it() {
        let mut queue = Queue::default();
        queue.push(ticket(1, "", -1, 900));
        assert_eq!(queue.first(), Some(SequenceId(1)));
        assert_eq!(passed_before_first(&mut queue), MAX_PASSES);
        queue.take(SequenceId(1));
        assert!(queue.first().is_some());
    }

    #[test]
    fn those_that_come_back_make_nobody_forget_whose_turn_it_is() {
        let mut queue = queue(&[(1, "", 0, 900)]);
        let mut passed = 0;
        for round in 0..200 {
            queue.push(ticket(100 + round, "", 0, 10));
            queue.push_front(ticket(1000 + round, "", 0, 300));
            assert_eq!(queue.first(), Some(SequenceId(1000 + round)));
            queue.take(SequenceId(1000 + round));
            if queue.first() == Some(SequenceId(1)) {
                break;
            }
            let short = queue.first().unwrap();
            queue.take(short);
            passed += 1;
        }
        assert!(passed <= MAX_PASSES + OLDEST_EVERY, "{passed} passed it");
        assert_eq!(queue.first(), Some(SequenceId(1)));
        assert_eq!(
            queue.instead(u32::MAX, |_| true),
            None,
            "nobody else may pass"
        );
    }

    #[test]
    fn few_pass_one_that_came_back_even_in_their_turn() {
        let mut queue = Queue::default();
        queue.push_front(ticket(1, "", 0, 900));
        assert_eq!(passed_before_first(&mut queue), MAX_PASSES);
        queue.take(SequenceId(1));
        assert!(queue.first().is_some());
        assert!(
            queue.instead(u32::MAX, |_| true).is_none(),
            "one waits, nobody else"
        );
    }

    #[test]
    fn a_tenant_pays_once_however_often_its_sequence_comes_back() {
        let mut queue = queue(&[(1, "mine", 0, 100), (2, "other", 0, 100)]);
        queue.take(SequenceId(1));
        assert_eq!(queue.served("mine"), 100);
        for _ in 0..3 {
            queue.push_front(ticket(1, "mine", 0, 150));
            queue.take(SequenceId(1));
        }
        assert_eq!(queue.served("mine"), 100);
    }
}
