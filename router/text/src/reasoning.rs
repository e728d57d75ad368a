//! What a model thinks before it answers, split off while the text arrives. The split does not depend on where it was cut.

use crate::markers::{Begin, Marker, begin_of, held_back};

/// How a model marks what it thinks.
#[derive(Debug, PartialEq, Eq)]
pub struct ReasoningFormat {
    pub(crate) begin: Marker,
    pub(crate) end: Marker,
}

static FORMATS: [ReasoningFormat; 2] = [
    ReasoningFormat {
        begin: "<think>",
        end: "</think>",
    },
    // Magistral
    ReasoningFormat {
        begin: "[THINK]",
        end: "[/THINK]",
    },
];

impl ReasoningFormat {
    /// The format of a model whose chat template, or vocabulary, has its end marker.
    pub(crate) fn of_model(
        template: &str,
        is_token: impl Fn(&str) -> bool,
    ) -> Option<&'static Self> {
        let mut formats = FORMATS.iter();
        formats.find(|format| template.contains(format.end) || is_token(format.end))
    }

    /// Whether a prompt ends inside of what is thought, so that the answer does not begin with the marker.
    pub fn is_open(&self, prompt: &str) -> bool {
        prompt.trim_end().ends_with(self.begin)
    }

    pub(crate) fn markers(&self) -> [Marker; 2] {
        [self.begin, self.end]
    }
}

/// Where in an answer the text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// At its beginning: it may yet begin with a thought.
    Start,
    /// In the thought.
    Thought,
    /// After it, or there is none.
    Answer,
}

/// Splits one answer.
#[derive(Debug)]
pub(crate) struct ReasoningSplit {
    format: &'static ReasoningFormat,
    /// Text not decided yet.
    buffer: String,
    pub(crate) phase: Phase,
    /// Space at the edges of the thought is left out.
    skips_space: bool,
}

impl ReasoningSplit {
    /// `is_open` says that the prompt ended inside of the thought.
    pub(crate) fn new(format: &'static ReasoningFormat, is_open: bool) -> Self {
        Self {
            format,
            buffer: String::new(),
            phase: if is_open {
                Phase::Thought
            } else {
                Phase::Start
            },
            skips_space: is_open,
        }
    }

    /// Takes the next piece; appends to `thought` and `answer` what belongs there.
    pub(crate) fn push(&mut self, piece: &str, thought: &mut String, answer: &mut String) {
        self.buffer.push_str(piece);
        if self.phase == Phase::Start {
            self.begin(answer);
        }
        if self.phase == Phase::Thought {
            self.think(thought);
        }
        if self.phase == Phase::Answer {
            self.skip_space();
            answer.push_str(&std::mem::take(&mut self.buffer));
        }
    }

    /// Appends the rest: the text is over.
    pub(crate) fn finish(&mut self, thought: &mut String, answer: &mut String) {
        let rest = std::mem::take(&mut self.buffer);
        match self.phase {
            Phase::Thought => thought.push_str(rest.trim_end()),
            Phase::Start | Phase::Answer => answer.push_str(&rest),
        }
    }

    fn begin(&mut self, answer: &mut String) {
        let text = self.buffer.trim_start();
        match begin_of(text, &[self.format.begin], false) {
            Begin::Whole(length) => {
                let end = self.buffer.len() - text.len() + length;
                self.buffer.drain(..end);
                (self.phase, self.skips_space) = (Phase::Thought, true);
            }
            Begin::Undecided => {}
            Begin::Other => {
                answer.push_str(&std::mem::take(&mut self.buffer));
                self.phase = Phase::Answer;
            }
        }
    }

    fn think(&mut self, thought: &mut String) {
        self.skip_space();
        let end = self.format.end;
        if let Some((inner, after)) = self.buffer.split_once(end) {
            thought.push_str(inner.trim_end());
            self.buffer = after.to_owned();
            (self.phase, self.skips_space) = (Phase::Answer, true);
            return;
        }
        let shown = self.buffer.len() - held_back(&self.buffer, &[end]);
        thought.extend(self.buffer.drain(..shown));
    }

    fn skip_space(&mut self) {
        if self.skips_space {
            let space = self.buffer.len() - self.buffer.trim_start().len();
            self.buffer.drain(..space);
            self.skips_space = self.buffer.is_empty();
        }
    }
}
