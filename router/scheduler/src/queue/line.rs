//! New sequences in the order of their turns. Knows what each tenant was served so far; not who may pass whom.
//!
//! One set for each tenant and priority, and one entry for each of those in the order of turns: so a turn costs about the
//! same however many wait, and what a tenant is charged moves its entries, not its sequences.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::gate::SequenceId;

/// What a turn depends on beside the tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) id: SequenceId,
    /// Lower goes first.
    pub(crate) priority: i32,
    /// Known tokens.
    pub(crate) tokens: u32,
    /// Most tokens it may have in KV memory.
    pub(crate) most_tokens: u32,
    /// Tokens for which it should find pages.
    pub(crate) ahead: u32,
}

/// Shorter first, then older.
type Length = (u32, SequenceId);
/// Priority, tokens its tenant was served, and the shortest of that tenant and priority.
type Turn = (i32, u64, Length);

/// Sequences of one tenant.
#[derive(Debug, Default)]
struct Account {
    served: u64,
    waiting: BTreeMap<i32, BTreeMap<Length, Candidate>>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Line {
    accounts: HashMap<Arc<str>, Account>,
    turns: BTreeMap<Turn, Arc<str>>,
    oldest: BTreeMap<SequenceId, Candidate>,
}

impl Line {
    /// One more of a tenant that was served so many tokens.
    pub(super) fn insert(&mut self, tenant: &Arc<str>, served: u64, candidate: Candidate) {
        self.accounts.entry(tenant.clone()).or_default();
        self.charged(tenant, served);
        self.oldest.insert(candidate.id, candidate);
        self.change(tenant, candidate, |waiting, length| {
            waiting.insert(length, candidate);
        });
    }

    /// One leaves, if it is there.
    pub(super) fn remove(&mut self, tenant: &Arc<str>, id: SequenceId) {
        if let Some(candidate) = self.oldest.remove(&id) {
            self.change(tenant, candidate, |waiting, length| {
                waiting.remove(&length);
            });
        }
    }

    /// Keeps the turns right while the shortest of a tenant and priority may change.
    fn change(
        &mut self,
        tenant: &Arc<str>,
        candidate: Candidate,
        change: impl FnOnce(&mut BTreeMap<Length, Candidate>, Length),
    ) {
        let account = self.accounts.entry(tenant.clone()).or_default();
        let waiting = account.waiting.entry(candidate.priority).or_default();
        let turn = |length: Length| (candidate.priority, account.served, length);
        if let Some((length, _)) = waiting.first_key_value() {
            self.turns.remove(&turn(*length));
        }
        change(waiting, (candidate.tokens, candidate.id));
        if let Some((length, _)) = waiting.first_key_value() {
            self.turns.insert(turn(*length), tenant.clone());
            return;
        }
        account.waiting.remove(&candidate.priority);
        if account.waiting.is_empty() {
            self.accounts.remove(tenant);
        }
    }

    /// A tenant was served so many tokens by now.
    pub(super) fn charged(&mut self, tenant: &Arc<str>, served: u64) {
        let Some(account) = self.accounts.get_mut(tenant) else {
            return;
        };
        let before = std::mem::replace(&mut account.served, served);
        for (priority, waiting) in &account.waiting {
            if let Some((length, _)) = waiting.first_key_value() {
                self.turns.remove(&(*priority, before, *length));
                self.turns
                    .insert((*priority, served, *length), tenant.clone());
            }
        }
    }

    /// The oldest of those that `may`.
    pub(super) fn oldest(&self, may: impl Fn(&Candidate) -> bool) -> Option<SequenceId> {
        let mut candidates = self.oldest.values();
        candidates.find(|candidate| may(candidate)).map(|c| c.id)
    }

    /// Of those with at most so many known tokens that `may`: lowest priority number, least served tenant, shortest, oldest.
    pub(super) fn next(&self, tokens: u32, may: impl Fn(&Candidate) -> bool) -> Option<SequenceId> {
        let mut best: Option<Turn> = None;
        for ((priority, served, _), tenant) in &self.turns {
            if best.is_some_and(|best| (best.0, best.1) < (*priority, *served)) {
                break;
            }
            let waiting = self.accounts.get(tenant)?.waiting.get(priority)?;
            let mut short = waiting.iter().take_while(|(length, _)| length.0 <= tokens);
            let found = short.find(|(_, candidate)| may(candidate));
            if let Some((length, _)) = found {
                let turn = (*priority, *served, *length);
                best = Some(best.map_or(turn, |best| best.min(turn)));
            }
        }
        best.map(|(_, _, (_, id))| id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the order means, by looking at all of them.
    #[derive(Default)]
    struct Plain {
        waiting: Vec<(Arc<str>, Candidate)>,
        served: HashMap<Arc<str>, u64>,
    }

    impl Plain {
        fn next(&self, may: impl Fn(&Candidate) -> bool) -> Option<SequenceId> {
            let allowed = self.waiting.iter().filter(|(_, one)| may(one));
            let best = allowed.min_by_key(|(tenant, one)| {
                let served = self.served.get(tenant).copied().unwrap_or_default();
                (one.priority, served, one.tokens, one.id)
            });
            best.map(|(_, one)| one.id)
        }

        fn oldest(&self, may: impl Fn(&Candidate) -> bool) -> Option<SequenceId> {
            let ids = self.waiting.iter().filter(|(_, one)| may(one));
            ids.map(|(_, one)| one.id).min()
        }
    }

    fn both_agree(line: &Line, plain: &Plain, bound: u32) {
        let rules: [&dyn Fn(&Candidate) -> bool; 4] = [
            &|_| true,
            &|one| one.tokens <= bound,
            &|one| one.priority <= 0,
            &|one| one.id.0 % 3 == 0,
        ];
        for may in rules {
            assert_eq!(line.next(u32::MAX, may), plain.next(may));
            let short = |one: &Candidate| one.tokens <= bound && may(one);
            assert_eq!(line.next(bound, may), plain.next(short));
            assert_eq!(line.oldest(may), plain.oldest(may));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn turns_are_those_of_the_plain_definition(
            steps in prop::collection::vec((0..4_u8, 0..4_usize, -1..2_i32, 1..6_u32), 1..60)
        ) {
            let tenants: Vec<Arc<str>> = ["a", "b", "c", "d"].map(Arc::from).to_vec();
            let (mut line, mut plain) = (Line::default(), Plain::default());
            for (number, (kind, who, priority, tokens)) in steps.into_iter().enumerate() {
                let tenant = &tenants[who];
                let served = plain.served.entry(tenant.clone()).or_default();
                match kind {
                    0 => {
                        *served += u64::from(tokens);
                        line.charged(tenant, *served);
                    }
                    1 if !plain.waiting.is_empty() => {
                        let (tenant, one) = plain.waiting.swap_remove(number % plain.waiting.len());
                        line.remove(&tenant, one.id);
                    }
                    _ => {
                        let id = SequenceId(number as u64);
                        let one = Candidate { id, priority, tokens, most_tokens: tokens, ahead: tokens };
                        line.insert(tenant, *served, one);
                        plain.waiting.push((tenant.clone(), one));
                    }
                }
                both_agree(&line, &plain, 3);
            }
            prop_assert_eq!(line.oldest.len(), plain.waiting.len());
            prop_assert!(line.turns.len() <= plain.waiting.len());
        }
    }
}
