//! One constrained sequence: what its grammar has seen, and the mask for its next token.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ribbon_grammar::{GrammarError, Matcher};

use crate::grammar::WORD_BITS;
use crate::grammar::library::Compiling;

/// A grammar that does not hold yet.
pub(super) struct Delay {
    /// It holds behind this token.
    pub(super) token: u32,
    /// If the first one is this; otherwise it holds from that one on.
    pub(super) opened_by: Option<u32>,
    /// Tokens that would end the text before.
    pub(super) end_tokens: Arc<[u32]>,
}

/// A sequence with a grammar.
pub(super) struct Row {
    compiling: Arc<Compiling>,
    matcher: Option<Matcher>,
    /// What the grammar waits for.
    delay: Option<Delay>,
    seen: usize,
    stops: Vec<u32>,
    mask: Vec<u32>,
    only_stops: bool,
    fault: Option<GrammarError>,
    fill_time: Duration,
}

impl Row {
    pub(super) fn new(
        compiling: Arc<Compiling>,
        delay: Option<Delay>,
        mut stops: Vec<u32>,
        mask_words: usize,
    ) -> Self {
        stops.sort_unstable();
        stops.dedup();
        Self {
            compiling,
            matcher: None,
            delay,
            seen: 0,
            stops,
            mask: vec![0; mask_words],
            only_stops: false,
            fault: None,
            fill_time: Duration::ZERO,
        }
    }

    /// Generated tokens it knows.
    pub(super) fn seen(&self) -> usize {
        self.seen
    }

    /// The tokens that may come next.
    pub(super) fn mask(&self) -> &[u32] {
        &self.mask
    }

    /// They all end the sequence.
    pub(super) fn only_stops(&self) -> bool {
        self.only_stops
    }

    /// Why none may come.
    pub(super) fn fault(&self) -> Option<String> {
        self.fault.as_ref().map(ToString::to_string)
    }

    /// How long the last mask took.
    pub(super) fn fill_time(&self) -> Duration {
        self.fill_time
    }

    /// Takes the tokens that came since the last mask, and makes the next.
    pub(super) fn fill(&mut self, tokens: &[u32]) {
        let began = Instant::now();
        self.fill_untimed(tokens);
        self.fill_time = began.elapsed();
    }

    fn fill_untimed(&mut self, tokens: &[u32]) {
        self.seen += tokens.len();
        self.only_stops = false;
        if self.fault.is_some() {
            return;
        }
        let filled = if let Some(tokens) = self.constrained(tokens) {
            self.fill_mask(tokens)
        } else {
            self.allow_all_but_the_end();
            Ok(())
        };
        if let Err(fault) = filled {
            self.fail(fault);
        }
    }

    /// No token may come any more.
    pub(super) fn fail(&mut self, fault: GrammarError) {
        self.mask.fill(0);
        self.only_stops = false;
        self.fault = Some(fault);
    }

    /// The tokens that the grammar holds for; `None` before it begins.
    fn constrained<'a>(&mut self, tokens: &'a [u32]) -> Option<&'a [u32]> {
        let Some(delay) = &mut self.delay else {
            return Some(tokens);
        };
        match (delay.opened_by, tokens.first()) {
            (Some(_), None) => return Some(tokens),
            (Some(opening), Some(first)) if opening != *first => {
                self.delay = None;
                return Some(tokens);
            }
            _ => delay.opened_by = None,
        }
        let begin = tokens.iter().position(|token| *token == delay.token)?;
        self.delay = None;
        Some(&tokens[begin + 1..])
    }

    fn allow_all_but_the_end(&mut self) {
        self.mask.fill(u32::MAX);
        for end in self.delay.iter().flat_map(|delay| delay.end_tokens.iter()) {
            if let Some(word) = self.mask.get_mut(*end as usize / WORD_BITS) {
                *word &= !(1 << (*end as usize % WORD_BITS));
            }
        }
    }

    fn allow(&mut self, token: u32) {
        if let Some(word) = self.mask.get_mut(token as usize / WORD_BITS) {
            *word |= 1 << (token as usize % WORD_BITS);
        }
    }

    fn fill_mask(&mut self, tokens: &[u32]) -> Result<(), GrammarError> {
        let matcher = match &mut self.matcher {
            Some(matcher) => matcher,
            None => self
                .matcher
                .insert(self.compiling.wait().clone()?.matcher()),
        };
        matcher.take(tokens)?;
        let allowed = matcher.mask()?;
        for (word, allowed) in self.mask.iter_mut().zip(allowed.as_slice()) {
            *word = *allowed;
        }
        if let Some(opening) = self.delay.as_ref().and_then(|delay| delay.opened_by) {
            self.allow(opening);
        }
        self.only_stops = self.allows_only_stops();
        Ok(())
    }

    fn allows_only_stops(&self) -> bool {
        let allowed: u32 = self.mask.iter().map(|word| word.count_ones()).sum();
        let is_set = |token: &&u32| {
            let word = self.mask.get(**token as usize / WORD_BITS);
            word.is_some_and(|word| word >> (**token as usize % WORD_BITS) & 1 == 1)
        };
        allowed as usize == self.stops.iter().filter(is_set).count()
    }
}
