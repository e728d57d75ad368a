//! One sequence's answer in its parts, token by token: what each completed, and how many were spent on thought.

use ribbon_core::FinishReason;
use ribbon_text::{AnswerParser, AnswerRules, Part, Phase};

/// An answer that may have more parts than text.
pub(crate) struct Answer {
    parser: AnswerParser,
    /// What the last token completed.
    parts: Vec<Part>,
    /// Calls begun before the last token.
    calls_before: usize,
    num_calls: usize,
    num_tokens: u32,
    pub(crate) reasoning_tokens: u32,
    pub(crate) has_reasoning: bool,
}

impl Answer {
    /// `None` where an answer is text and nothing else.
    pub(crate) fn new(rules: &AnswerRules, is_thinking: bool) -> Option<Self> {
        (!rules.is_plain()).then(|| Self {
            parser: AnswerParser::new(rules, is_thinking),
            parts: Vec::new(),
            calls_before: 0,
            num_calls: 0,
            num_tokens: 0,
            reasoning_tokens: 0,
            has_reasoning: rules.reasoning.is_some(),
        })
    }

    /// Takes the next token's text; says when the answer ends here though the sequence does not.
    pub(crate) fn take(
        &mut self,
        piece: &str,
        finish: Option<FinishReason>,
    ) -> Option<FinishReason> {
        let before = self.parser.phase();
        self.parts.clear();
        self.parser.push(piece, &mut self.parts);
        let finish = if self.parser.is_full() {
            Some(FinishReason::StopSequence)
        } else {
            finish
        };
        if finish.is_some() {
            self.parser.finish(&mut self.parts);
        }
        self.count(before);
        finish
    }

    /// What the last token completed.
    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Index of the first call among [`Answer::parts`].
    pub(crate) fn calls_before(&self) -> usize {
        self.calls_before
    }

    /// Whether tools were called, and the answer did not end inside of a call.
    pub(crate) fn has_whole_calls(&self) -> bool {
        self.num_calls > 0 && !self.parser.is_amid_call()
    }

    fn count(&mut self, before: Phase) {
        self.num_tokens += 1;
        match (before, self.parser.phase()) {
            // The tokens that began the marker could not be told from an answer.
            (Phase::Start, Phase::Thought) => self.reasoning_tokens = self.num_tokens,
            (Phase::Thought, _) => self.reasoning_tokens += 1,
            _ => {}
        }
        self.calls_before = self.num_calls;
        let is_call = |part: &&Part| matches!(part, Part::Call(_));
        self.num_calls += self.parts.iter().filter(is_call).count();
    }
}
