//! One constrained sequence: what its grammar has seen, and the mask for its next token.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ribbon_grammar::{GrammarError, Matcher};

use crate::grammar::WORD_BITS;
use crate::grammar::library::Compiling;

/// A sequence with a grammar.
pub(super) struct Row {
    compiling: Arc<Compiling>,
    matcher: Option<Matcher>,
    /// The grammar holds behind this token, which has not come yet.
    start_after: Option<u32>,
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
        start_after: Option<u32>,
        mut stops: Vec<u32>,
        mask_words: usize,
    ) -> Self {
        stops.sort_unstable();
        stops.dedup();
        Self {
            compiling,
            matcher: None,
            start_after,
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
        let filled = match self.constrained(tokens) {
            Some(tokens) => self.fill_mask(tokens),
            None => {
                self.mask.fill(u32::MAX);
                Ok(())
            }
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
        let Some(start) = self.start_after else {
            return Some(tokens);
        };
        let begin = tokens.iter().position(|token| *token == start)?;
        self.start_after = None;
        Some(&tokens[begin + 1..])
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
