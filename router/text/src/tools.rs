//! Tool calls in what a model says: the text in pieces to parts in order. Each decision is a function of the text so far
//! that no later text could change, so the parts do not depend on where the text was cut.

mod call_object;
mod demanded;
mod format;
mod json_scan;
mod named_call;
mod python_call;

use std::sync::Arc;

use call_object::CallObject;
pub use demanded::demanded;
pub use format::{Entry, GENERIC, ToolFormat};
use named_call::NamedCall;
use python_call::PythonCall;

use crate::markers::{Begin, begin_of, first_of, held_back};

/// A piece of an answer, in the order that it was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// What the model thought first.
    Reasoning(String),
    /// What it says.
    Text(String),
    /// A tool call begins; its arguments follow.
    Call(String),
    /// More of the last call's arguments, as JSON.
    Arguments(String),
}

/// What calls are looked for.
#[derive(Clone, Debug)]
pub struct ToolUse {
    /// How the model writes them.
    pub format: &'static ToolFormat,
    /// The tools there are.
    pub names: Arc<[String]>,
    /// Whether there may be more than one.
    pub parallel: bool,
    /// Whether the answer is calls and nothing else, so that the beginning of one is no text.
    pub required: bool,
}

/// How far a reader of one call came.
pub(crate) enum Progress {
    /// The text does not say yet.
    Open,
    /// The call is complete; so many bytes of the text were read.
    Done(usize),
    /// It is no call.
    NoCall,
}

/// Finds the calls of one answer.
#[derive(Debug)]
pub(crate) struct CallParser {
    tools: ToolUse,
    /// Text not decided yet.
    buffer: String,
    /// Text before `buffer` that was skipped, and belongs to the answer if no call follows.
    skipped: String,
    state: State,
    pub(crate) num_calls: u32,
}

#[derive(Debug)]
enum State {
    /// Plain text, until a marker begins calls.
    Text,
    /// Where a call may begin.
    Between,
    /// Inside of one.
    Call(Reader),
    /// Nothing of what follows is shown: one call was allowed.
    Full,
}

#[derive(Debug)]
enum Reader {
    Object(CallObject),
    Named(NamedCall),
    Python(PythonCall),
}

impl Reader {
    fn new(entry: Entry) -> Self {
        match entry {
            Entry::Object => Self::Object(CallObject::default()),
            Entry::Named(separators) => Self::Named(NamedCall::new(separators)),
            Entry::Python => Self::Python(PythonCall::default()),
        }
    }

    fn read(
        &mut self,
        text: &str,
        accepts: &dyn Fn(&str) -> bool,
        out: &mut Vec<Part>,
    ) -> Progress {
        match self {
            Self::Object(reader) => reader.read(text, accepts, out),
            Self::Named(reader) => reader.read(text, accepts, out),
            Self::Python(reader) => reader.read(text, accepts, out),
        }
    }

    /// Whether parts of the call are out.
    fn is_committed(&self) -> bool {
        match self {
            Self::Object(reader) => reader.is_committed(),
            Self::Named(reader) => reader.is_committed(),
            Self::Python(_) => false,
        }
    }
}

impl CallParser {
    pub(crate) fn new(tools: ToolUse) -> Self {
        let state = if tools.format.begins.is_empty() {
            State::Between
        } else {
            State::Text
        };
        Self {
            tools,
            buffer: String::new(),
            skipped: String::new(),
            state,
            num_calls: 0,
        }
    }

    /// Whether nothing more can come of this answer.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self.state, State::Full)
    }

    /// Whether the text stands inside of a call that is out in part.
    pub(crate) fn is_amid_call(&self) -> bool {
        matches!(&self.state, State::Call(reader) if reader.is_committed())
    }

    /// Takes the next piece and appends what is decided.
    pub(crate) fn push(&mut self, piece: &str, out: &mut Vec<Part>) {
        self.buffer.push_str(piece);
        while self.step(false, out) {}
    }

    /// Appends the rest: the text is over.
    pub(crate) fn finish(&mut self, out: &mut Vec<Part>) {
        while self.step(true, out) {}
        let rest = std::mem::take(&mut self.skipped) + &std::mem::take(&mut self.buffer);
        let is_part_of_calls = match &self.state {
            State::Full => true,
            State::Call(reader) => self.tools.required || reader.is_committed(),
            State::Between => self.tools.required || self.num_calls > 0,
            State::Text => false,
        };
        if !is_part_of_calls {
            say(rest, out);
        }
    }

    /// Goes on by one decision; `false` if the text does not allow one yet.
    fn step(&mut self, is_last: bool, out: &mut Vec<Part>) -> bool {
        match self.state {
            State::Text => self.step_text(out),
            State::Between => self.step_between(is_last, out),
            State::Call(_) => self.step_call(out),
            State::Full => {
                self.buffer.clear();
                false
            }
        }
    }

    /// Shows text up to a marker; what may become one is held back, and the space before it.
    fn step_text(&mut self, out: &mut Vec<Part>) -> bool {
        let begins = self.tools.format.begins;
        if let Some((at, marker)) = first_of(&self.buffer, begins) {
            let text = self.buffer.get(..at).unwrap_or_default();
            say(text.trim_end().to_owned(), out);
            // The space is given back too if the marker begins no call.
            let skipped = at + marker.len();
            let kept = text.trim_end().len();
            self.skip_range(kept, skipped);
            self.state = State::Between;
            return true;
        }
        let held = match begins {
            [] => 0,
            begins => held_back(&self.buffer, begins),
        };
        let shown = self.buffer.len() - held;
        say(self.buffer.drain(..shown).collect(), out);
        false
    }

    /// Skips what may stand around calls, to the beginning of one or back to plain text.
    fn step_between(&mut self, is_last: bool, out: &mut Vec<Part>) -> bool {
        let format = self.tools.format;
        match begin_of(&self.buffer, format.glue, is_last) {
            Begin::Whole(length) => {
                self.skip_range(0, length);
                true
            }
            Begin::Undecided => false,
            Begin::Other if format.entry.may_begin(&self.buffer) => {
                self.state = State::Call(Reader::new(format.entry));
                true
            }
            Begin::Other => {
                self.back_to_text(out);
                true
            }
        }
    }

    fn step_call(&mut self, out: &mut Vec<Part>) -> bool {
        let State::Call(reader) = &mut self.state else {
            return false;
        };
        let (names, marked) = (&self.tools.names, !self.tools.format.begins.is_empty());
        // Between markers, a name that is none is the model's mistake, not an answer that happens to look like a call.
        let accepts = |name: &str| marked || names.iter().any(|known| known == name);
        match reader.read(&self.buffer, &accepts, out) {
            Progress::Open => false,
            Progress::NoCall => {
                self.back_to_text(out);
                true
            }
            Progress::Done(length) => {
                self.buffer.drain(..length);
                self.skipped.clear();
                self.num_calls += 1;
                self.state = if self.tools.parallel {
                    State::Between
                } else {
                    State::Full
                };
                true
            }
        }
    }

    /// No call here: what was skipped was text, unless it followed a call.
    fn back_to_text(&mut self, out: &mut Vec<Part>) {
        let skipped = std::mem::take(&mut self.skipped);
        let begins = self.tools.format.begins;
        if self.num_calls == 0 || first_of(&skipped, begins).is_some() {
            say(skipped, out);
        }
        self.state = State::Text;
    }

    /// Moves bytes of the buffer to what was skipped, and drops those before.
    fn skip_range(&mut self, from: usize, to: usize) {
        self.skipped
            .push_str(self.buffer.get(from..to).unwrap_or_default());
        self.buffer.drain(..to);
    }
}

/// Appends text, none if it is empty.
pub(crate) fn say(text: String, out: &mut Vec<Part>) {
    match out.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(before)) => before.push_str(&text),
        _ => out.push(Part::Text(text)),
    }
}

/// Appends arguments, none if they are empty.
pub(crate) fn argue(text: &str, out: &mut Vec<Part>) {
    match out.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Arguments(before)) => before.push_str(text),
        _ => out.push(Part::Arguments(text.to_owned())),
    }
}

#[cfg(test)]
#[path = "tools/tests.rs"]
mod tests;
