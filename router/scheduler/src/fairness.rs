//! Which prompts share the prompt tokens of a step, and what admission leaves free. Pure arithmetic; knows no clock and no pages.
//!
//! Shortest rest first, so that a short prompt never waits behind a long one; a quarter of the step is kept for the prompt
//! was seated first, so that a long one always gets on. Beside a long one, a short prompt that a step of twice the size
//! completes is not cut in two: it has waited already, and a second step costs it more than the longer one costs others. Where a prompt is completed, the rest of the step stays
//! small: its first token must not wait for somebody else's prompt.

use ribbon_core::Slot;

use crate::gate::SequenceId;

/// The part of a step that is kept for the prompt that was seated first.
const OLDEST_SHARE: u32 = 4;
/// Where a step is too small for parts, every so many steps belong to that prompt.
const OLDEST_EVERY: u64 = 4;
/// Smaller steps are.
const LEAST_SHARED_TOKENS: u32 = 8;
/// A step that completes a prompt may carry so many tokens of others, however short that prompt was.
const LEAST_COMPANY_TOKENS: u32 = 64;
/// A step of prompts alone with more tokens than this is waited for before the next prompt tokens leave.
pub(crate) const LONG_PREFILL_TOKENS: u32 = 32;
/// With several prompts in line, a step of them alone has no more tokens.
const MOST_CROWDED_TOKENS: u32 = 256;
/// A short prompt may make a step so many times as long: of a step that aims at four decode-only steps (`budget`) that makes
/// seven, still less than two.
const MOST_STRETCH: u32 = 2;
/// A sequence of at most so many tokens in all is short: it may use the room that longer ones leave.
pub(crate) const SHORT_TOKENS: u32 = 256;
/// Long sequences leave room for so many short ones.
pub(crate) const ROOM_FOR_SHORT: u32 = 2;

/// A prompt that holds a slot and is not computed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefill {
    pub(crate) slot: Slot,
    /// Tokens to compute.
    pub(crate) left: u32,
}

/// Prompt tokens of a step that could carry `budget` of them and has no decodes to be bound by. Where several of `prompts` stand
/// in line behind a long one, a part of them: whoever comes waits for the step that he finds, and a token of it costs little more.
pub(crate) fn alone(seated: &[Prefill], prompts: usize, budget: u32) -> u32 {
    let is_long = |prefill: &Prefill| prefill.left > SHORT_TOKENS;
    if prompts > 1 && seated.iter().any(is_long) {
        budget.min(MOST_CROWDED_TOKENS)
    } else {
        budget
    }
}

/// Who gets the next prompt tokens of the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A prompt that holds a slot.
    Seated(Slot),
    /// The one whose turn it is in the queue.
    Waiting(SequenceId),
}

/// The prompt tokens of one step, as they are given away.
#[derive(Debug)]
pub(crate) struct Chunks {
    /// The next one last.
    seated: Vec<Prefill>,
    /// The prompt that was seated first, until it had its part.
    oldest: Option<Prefill>,
    /// That part, until it is given.
    kept: u32,
    /// Tokens that may still be given.
    allowed: u32,
    /// Tokens of prompts that this step completes.
    completing: u32,
    /// Tokens to which a short prompt may stretch the step; 0 once somebody had a part of it.
    stretched: u32,
}

impl Chunks {
    /// `seated`: in the order they were seated. `step`: any number that counts steps. `allowed`: prompt tokens of the step.
    pub(crate) fn new(mut seated: Vec<Prefill>, step: u64, allowed: u32) -> Self {
        let oldest = seated.first().copied();
        let is_flooded = seated.iter().any(|prefill| prefill.left > SHORT_TOKENS);
        // Among equals the one that was seated first comes last, where the next is taken from.
        seated.reverse();
        seated.sort_by_key(|prefill| std::cmp::Reverse(prefill.left));
        let mut chunks = Self {
            seated,
            oldest,
            kept: oldest.map_or(0, |oldest| oldest.left.min(allowed / OLDEST_SHARE)),
            allowed,
            completing: 0,
            stretched: if is_flooded {
                allowed.saturating_mul(MOST_STRETCH)
            } else {
                0
            },
        };
        if allowed < LEAST_SHARED_TOKENS {
            chunks.stretched = 0;
            // All of a small step, or nothing.
            chunks.kept = if step.is_multiple_of(OLDEST_EVERY) {
                allowed
            } else {
                0
            };
        }
        chunks
    }

    /// Who is next. `waiting`: whose turn it is in the queue, with the tokens it needs.
    pub(crate) fn next(&mut self, waiting: Option<(SequenceId, u32)>) -> Option<Next> {
        if self.allowed == 0 {
            return None;
        }
        if self.allowed <= self.kept
            && let Some(oldest) = self.oldest
        {
            return Some(self.seat(oldest));
        }
        match (self.seated.last().copied(), waiting) {
            (None, None) => None,
            (Some(seated), Some((id, tokens))) if tokens < seated.left => Some(Next::Waiting(id)),
            (None, Some((id, _))) => Some(Next::Waiting(id)),
            (Some(seated), _) => Some(self.seat(seated)),
        }
    }

    /// It is the turn of a prompt that holds a slot.
    fn seat(&mut self, next: Prefill) -> Next {
        self.seated.retain(|prefill| prefill.slot != next.slot);
        if self.oldest.is_some_and(|oldest| oldest.slot == next.slot) {
            self.oldest = None;
            self.kept = 0;
        }
        Next::Seated(next.slot)
    }

    /// Most tokens for the next prompt, with `left` of its `known` tokens to compute.
    pub(crate) fn limit(&self, left: u32, known: u32) -> u32 {
        let free = self.allowed.saturating_sub(self.kept);
        if known <= SHORT_TOKENS && left <= self.stretched.saturating_sub(self.kept) {
            return left.max(free);
        }
        if left <= free || self.completing == 0 {
            return free;
        }
        free.min(self.completing.max(LEAST_COMPANY_TOKENS))
    }

    /// So many tokens were given to a prompt with `left` to compute.
    pub(crate) fn gave(&mut self, tokens: u32, left: u32) {
        // What is kept for the first seated is there even where the step was stretched.
        self.allowed = self.allowed.saturating_sub(tokens).max(self.kept);
        self.stretched = 0;
        if tokens >= left {
            self.completing += tokens;
        } else if self.completing > 0 {
            self.allowed = self.allowed.min(self.kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seated(lefts: &[u32]) -> Vec<Prefill> {
        let slots = (1..).map(Slot);
        let prefill = |(slot, left): (Slot, &u32)| Prefill { slot, left: *left };
        slots.zip(lefts).map(prefill).collect()
    }

    /// Slot (0: the waiting one) and tokens, in the order given.
    fn given(lefts: &[u32], step: u64, allowed: u32, waiting: Option<u32>) -> Vec<(u32, u32)> {
        let mut chunks = Chunks::new(seated(lefts), step, allowed);
        let mut waiting = waiting.map(|tokens| (SequenceId(9), tokens));
        let mut order = Vec::new();
        while let Some(next) = chunks.next(waiting) {
            let (slot, left) = match next {
                Next::Seated(slot) => (slot.0, lefts[slot.0 as usize - 1]),
                Next::Waiting(_) => (0, waiting.take().unwrap().1),
            };
            let tokens = chunks.limit(left, left).min(left);
            chunks.gave(tokens, left);
            order.push((slot, tokens));
        }
        order
    }

    #[test]
    fn the_shortest_rest_goes_first_seated_or_not() {
        assert_eq!(given(&[900, 100], 1, 512, None), [(2, 100), (1, 100)]);
        assert_eq!(given(&[900], 1, 512, Some(80)), [(0, 80), (1, 80)]);
        assert_eq!(given(&[80], 1, 512, Some(900)), [(1, 80), (0, 80)]);
    }

    #[test]
    fn the_first_seated_always_gets_a_quarter() {
        let mut lefts = vec![900];
        lefts.extend([60; 20]);
        let order = given(&lefts, 1, 512, None);
        assert_eq!(order.last(), Some(&(1, 128)));
        assert_eq!(order.iter().map(|(_, tokens)| tokens).sum::<u32>(), 512);
    }

    #[test]
    fn of_small_steps_every_fourth_is_the_first_seateds() {
        let order = |step| given(&[900, 100], step, 4, None);
        assert_eq!(
            [order(1), order(2), order(3), order(4)],
            [[(2, 4)], [(2, 4)], [(2, 4)], [(1, 4)]]
        );
    }

    #[test]
    fn a_completed_prompt_has_little_company() {
        assert_eq!(given(&[20, 900], 1, 512, None), [(1, 20), (2, 64)]);
        assert_eq!(given(&[300, 300], 1, 512, None), [(1, 300), (2, 212)]);
        assert_eq!(given(&[900], 1, 512, None), [(1, 512)]);
    }

    #[test]
    fn a_short_prompt_is_not_cut_where_a_step_of_twice_the_size_completes_it() {
        assert_eq!(given(&[900], 1, 60, Some(100)), [(0, 100), (1, 15)]);
        assert_eq!(given(&[900], 1, 60, Some(106)), [(0, 45), (1, 15)]);
        assert_eq!(given(&[900, 100], 1, 60, None), [(2, 100), (1, 15)]);
        assert_eq!(
            given(&[100], 1, 60, None),
            [(1, 60)],
            "it has waited for nobody"
        );
        assert_eq!(given(&[300], 1, 200, None), [(1, 200)], "it is long");
        let both = given(&[900, 100, 100], 1, 60, None);
        assert_eq!(both, [(2, 100), (1, 15)], "only the first is stretched for");
    }

    #[test]
    fn many_short_prompts_fill_the_step() {
        let tokens = |order: Vec<(u32, u32)>| order.iter().map(|(_, tokens)| tokens).sum::<u32>();
        assert_eq!(tokens(given(&[60; 20], 1, 512, None)), 512);
    }
}
