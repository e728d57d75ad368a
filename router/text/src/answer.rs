//! An answer in its parts: what was thought, said, and called. Knows text as it arrives; not tokens, not clients.

use crate::{
    Tokenizer,
    reasoning::{Phase, ReasoningFormat, ReasoningSplit},
    tools::{CallParser, Part, ToolUse, say},
};

/// What is looked for in an answer.
#[derive(Clone, Debug, Default)]
pub struct AnswerRules {
    /// Thoughts, in this format.
    pub reasoning: Option<&'static ReasoningFormat>,
    /// Tool calls.
    pub tools: Option<ToolUse>,
}

impl AnswerRules {
    /// Whether answers are text and nothing else.
    pub fn is_plain(&self) -> bool {
        self.reasoning.is_none() && self.tools.is_none()
    }

    /// The tokens that begin and end what is thought; `None` where nothing is, or several tokens write one.
    pub fn tokens_of_thought(&self, tokenizer: &Tokenizer) -> [Option<u32>; 2] {
        let markers = self.reasoning.map(ReasoningFormat::markers);
        let id = |marker: &str| tokenizer.id_of(marker);
        markers.map_or([None; 2], |markers| markers.map(id))
    }

    /// Special tokens that mark parts of an answer, which must be in its text to be found.
    pub fn marker_tokens(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let reasoning = self.reasoning.iter().flat_map(|format| format.markers());
        let tools = self.tools.iter().flat_map(|tools| tools.format.markers());
        let ids = reasoning
            .chain(tools)
            .filter_map(|marker| tokenizer.id_of(marker));
        ids.filter(|&id| tokenizer.is_special(id)).collect()
    }
}

/// Takes one answer apart. The parts do not depend on where its text was cut.
#[derive(Debug)]
pub struct AnswerParser {
    reasoning: Option<ReasoningSplit>,
    calls: Option<CallParser>,
}

impl AnswerParser {
    /// `is_open` says that the prompt ended inside of a thought.
    pub fn new(rules: &AnswerRules, is_open: bool) -> Self {
        let split = |format| ReasoningSplit::new(format, is_open);
        Self {
            reasoning: rules.reasoning.map(split),
            calls: rules.tools.clone().map(CallParser::new),
        }
    }

    /// Takes the next piece and appends the parts that are decided.
    pub fn push(&mut self, piece: &str, out: &mut Vec<Part>) {
        match &mut self.reasoning {
            None => self.answer(piece, out),
            Some(split) => {
                let (mut thought, mut answer) = (String::new(), String::new());
                split.push(piece, &mut thought, &mut answer);
                think(thought, out);
                self.answer(&answer, out);
            }
        }
    }

    /// Appends the rest: the text is over.
    pub fn finish(&mut self, out: &mut Vec<Part>) {
        if let Some(split) = &mut self.reasoning {
            let (mut thought, mut answer) = (String::new(), String::new());
            split.finish(&mut thought, &mut answer);
            think(thought, out);
            self.answer(&answer, out);
        }
        if let Some(calls) = &mut self.calls {
            calls.finish(out);
        }
    }

    /// Where in the answer the text is.
    pub fn phase(&self) -> Phase {
        self.reasoning
            .as_ref()
            .map_or(Phase::Answer, |split| split.phase)
    }

    /// Whether nothing more can come of this answer.
    pub fn is_full(&self) -> bool {
        self.calls.as_ref().is_some_and(CallParser::is_full)
    }

    /// Whether the text stands inside of a call that is out in part.
    pub fn is_amid_call(&self) -> bool {
        self.calls.as_ref().is_some_and(CallParser::is_amid_call)
    }

    fn answer(&mut self, text: &str, out: &mut Vec<Part>) {
        match &mut self.calls {
            Some(calls) => calls.push(text, out),
            None => say(text.to_owned(), out),
        }
    }
}

fn think(thought: String, out: &mut Vec<Part>) {
    if !thought.is_empty() {
        out.push(Part::Reasoning(thought));
    }
}
