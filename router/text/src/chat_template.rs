//! Messages to a prompt, with the model's own Jinja template and Hugging Face's settings. Work and output are bounded.

mod messages;
#[cfg(test)]
mod parity;
mod sources;

use std::{
    collections::{BTreeMap, HashSet},
    error::Error as _,
    io,
    path::Path,
};

use jiff::Zoned;
use messages::{extend_last, readable};
use minijinja::{Environment, Error, ErrorKind, Template, Value, syntax::SyntaxConfig};
use serde_json::{Map, Value as Json, json};
use sources::{DEFAULT, TOOL_USE};
use thiserror::Error;

use crate::{
    EncodeError, ReasoningFormat, Tokenizer, ToolFormat,
    model_files::LoadError,
    python_text::print,
    shield::{self, OPEN, Shield},
    template_filters::{Raised, is_sequence, method, raise_exception, strftime, tojson, value_of},
};

/// Template instructions one rendering may run; a template of a few hundred lines over 1,000 messages takes about 200,000.
const FUEL: u64 = 20_000_000;
/// Bytes one rendering may write.
const MAX_OUTPUT_BYTES: usize = 16 << 20;
/// Ends a message to continue: a noncharacter, since the text itself may also stand in the closing tokens. The space
/// after it shows whether the template cuts space.
const END_MARK: &str = "\u{FDD2} ";

/// Why a conversation did not become a prompt.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// The template refused the messages.
    #[error("the chat template refused the messages: {message}{}", at(*line))]
    Raised {
        /// In the template's words.
        message: String,
        /// Where it did.
        line: Option<usize>,
    },
    /// The template failed on them.
    #[error("the chat template failed: {0}")]
    Failed(String),
    /// It ran longer than it may.
    #[error("the chat template took more than {FUEL} instructions")]
    TooLong,
    /// It wrote more than it may.
    #[error("the chat template wrote more than {MAX_OUTPUT_BYTES} bytes")]
    TooLarge,
    /// The last message is not in what it wrote.
    #[error("the chat template does not show the last message, so it cannot be continued")]
    NotContinued,
}

/// How a prompt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With the opening of the assistant's turn.
    Opening,
    /// With the end of the last turn.
    Turn,
    /// In the last message, which the model goes on with.
    Continued {
        /// Space at its end is cut.
        trimmed: bool,
    },
}

/// What is rendered.
#[derive(Clone, Debug)]
pub struct Rendering<'a> {
    /// The conversation, each message an object as clients send it; `content` a string or a list of text parts.
    pub messages: &'a [Json],
    /// Tools to tell the model about, as clients send them.
    pub tools: Option<&'a [Json]>,
    /// Documents to tell the model about.
    pub documents: Option<&'a [Json]>,
    /// More variables of the template, named by the client.
    pub variables: Map<String, Json>,
    /// How the prompt ends.
    pub ending: Ending,
    /// What `strftime_now` says.
    pub now: Zoned,
}

impl<'a> Rendering<'a> {
    /// A conversation that the model answers.
    pub fn new(messages: &'a [Json], now: Zoned) -> Self {
        Self {
            messages,
            tools: None,
            documents: None,
            variables: Map::new(),
            ending: Ending::Opening,
            now,
        }
    }
}

/// A rendered prompt; it remembers which special tokens in it are only text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt(String);

impl Prompt {
    /// The text that the model reads.
    pub fn text(&self) -> String {
        shield::unmarked(&self.0)
    }

    /// Its token ids.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn encode(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>, EncodeError> {
        shield::encode(tokenizer, &self.0)
    }
}

/// A model's chat templates, compiled.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: Vec<(&'static str, String)>,
    shield: Option<Shield>,
    /// Roles whose messages may be lists of parts.
    roles_with_parts: Vec<&'static str>,
    variables: HashSet<String>,
    tool_format: Option<&'static ToolFormat>,
    reasoning: Option<&'static ReasoningFormat>,
}

impl ChatTemplate {
    /// The templates of a model directory; `None` if it has none.
    ///
    /// # Errors
    /// A file is unreadable or a template does not parse.
    pub fn load(model_path: &Path, tokenizer: &Tokenizer) -> Result<Option<Self>, LoadError> {
        let Some(found) = sources::find(model_path)? else {
            return Ok(None);
        };
        let mut template = Self::compiled(&found.named, tokenizer.named_tokens().to_vec())
            .map_err(|error| LoadError::Invalid {
                path: found.path,
                reason: format!("the chat template: {}", describe(&error)),
            })?;
        template.shield = Shield::new(tokenizer.special_texts());
        template.reasoning = template.reasoning_format(|token| tokenizer.id_of(token).is_some());
        Ok(Some(template))
    }

    /// Compiles one template.
    ///
    /// # Errors
    /// It does not parse.
    pub fn new(source: &str, bos_token: &str, eos_token: &str) -> Result<Self, Error> {
        let special_tokens = vec![
            ("bos_token", bos_token.to_owned()),
            ("eos_token", eos_token.to_owned()),
        ];
        Self::compiled(&[(DEFAULT.to_owned(), source.to_owned())], special_tokens)
    }

    fn compiled(
        named: &[(String, String)],
        special_tokens: Vec<(&'static str, String)>,
    ) -> Result<Self, Error> {
        let mut environment = environment()?;
        for (name, source) in named {
            environment.add_template_owned(name.clone(), without_generation_tags(source))?;
        }
        let mut template = Self {
            environment,
            special_tokens,
            shield: None,
            roles_with_parts: Vec::new(),
            variables: HashSet::new(),
            tool_format: None,
            reasoning: None,
        };
        for part in [DEFAULT, TOOL_USE] {
            if let Ok(part) = template.environment.get_template(part) {
                template.variables.extend(part.undeclared_variables(false));
            }
        }
        let with_tools = template.named(true)?;
        template.tool_format =
            ToolFormat::of_template(with_tools.source(), template.reads("tools"));
        template.roles_with_parts = template.probed_roles();
        template.reasoning = template.reasoning_format(|_| false);
        Ok(template)
    }

    /// Whether the template looks at a variable of this name.
    pub fn reads(&self, variable: &str) -> bool {
        self.variables.contains(variable)
    }

    /// How the model writes tool calls; absent if its template does not tell it about tools.
    pub fn tool_format(&self) -> Option<&'static ToolFormat> {
        self.tool_format
    }

    /// How the model marks what it thinks; absent if it is not known to think.
    pub fn reasoning(&self) -> Option<&'static ReasoningFormat> {
        self.reasoning
    }

    fn reasoning_format(
        &self,
        is_token: impl Fn(&str) -> bool,
    ) -> Option<&'static ReasoningFormat> {
        let default = self.named(false).ok()?;
        ReasoningFormat::of_model(default.source(), is_token)
    }

    fn named(&self, has_tools: bool) -> Result<Template<'_, '_>, Error> {
        match self.environment.get_template(TOOL_USE) {
            Ok(template) if has_tools => Ok(template),
            _ => self.environment.get_template(DEFAULT),
        }
    }

    /// Roles in which the template shows the text of a list of parts, and not the list.
    fn probed_roles(&self) -> Vec<&'static str> {
        let shows_parts = |role: &&'static str| {
            let mut messages = vec![json!({"role": "user", "content": "Hi"})];
            let parts = json!({"role": role, "content": [{"type": "text", "text": "PROBE"}]});
            match *role {
                "system" => messages.insert(0, parts),
                "user" => messages = vec![parts],
                _ => messages.push(parts),
            }
            let rendering = Rendering::new(&messages, Zoned::default());
            let shown = self.write(&rendering, &value_of(&messages));
            let is_quoted = |shown: &str| shown.contains("'PROBE'") || shown.contains("\"PROBE\"");
            shown.is_ok_and(|shown| shown.contains("PROBE") && !is_quoted(&shown))
        };
        let roles = ["system", "user", "assistant", "tool"];
        roles.into_iter().filter(shows_parts).collect()
    }

    /// The prompt of a conversation.
    ///
    /// # Errors
    /// The template refuses the messages, fails, or goes on too long.
    pub fn render(&self, rendering: &Rendering<'_>) -> Result<Prompt, TemplateError> {
        let reads_parts = |role: &str| self.roles_with_parts.contains(&role);
        let mut messages = readable(rendering.messages, self.shield.as_ref(), reads_parts);
        let shown = match rendering.ending {
            Ending::Continued { trimmed } => {
                if !extend_last(&mut messages, END_MARK) {
                    return Err(TemplateError::NotContinued);
                }
                let shown = self.write(rendering, &value_of(&messages))?;
                cut_at_mark(shown, trimmed)
            }
            Ending::Opening | Ending::Turn => self.write(rendering, &value_of(&messages)),
        };
        let settled = |shown: String| match &self.shield {
            Some(shield) if shown.contains(OPEN) => shield.settled(shown),
            _ => shown,
        };
        shown.map(settled).map(Prompt)
    }

    fn write(&self, rendering: &Rendering<'_>, messages: &Value) -> Result<String, TemplateError> {
        let template = self
            .named(rendering.tools.is_some())
            .map_err(|error| classify(&error))?;
        let mut output = Bounded::default();
        let variables = self.variables_of(rendering, messages);
        let result = template.render_captured_to(variables, &mut output);
        match result {
            _ if output.is_full => Err(TemplateError::TooLarge),
            Err(error) => Err(classify(&error)),
            Ok(_) => String::from_utf8(output.bytes)
                .map_err(|error| TemplateError::Failed(error.to_string())),
        }
    }

    fn variables_of(&self, rendering: &Rendering<'_>, messages: &Value) -> Value {
        let own = self.special_tokens.iter();
        let own = own.map(|(name, text)| ((*name).to_owned(), Value::from(text.as_str())));
        let clients = rendering.variables.iter();
        let clients = clients.map(|(name, value)| (name.clone(), value_of(value)));
        let opens = rendering.ending == Ending::Opening;
        let fixed = [
            ("messages", messages.clone()),
            ("tools", self.shielded(rendering.tools)),
            ("documents", self.shielded(rendering.documents)),
            ("add_generation_prompt", Value::from(opens)),
            ("strftime_now", strftime(rendering.now.clone())),
        ];
        let fixed = fixed.map(|(name, value)| (name.to_owned(), value));
        let all: BTreeMap<String, Value> = own.chain(clients).chain(fixed).collect();
        Value::from(all)
    }

    fn shielded(&self, values: Option<&[Json]>) -> Value {
        let mut values = values.map(<[Json]>::to_vec);
        if let (Some(shield), Some(values)) = (&self.shield, &mut values) {
            for value in values.iter_mut() {
                shield.cover(value);
            }
        }
        values.map_or(Value::from(()), value_of)
    }
}

/// Jinja as Hugging Face sets it up.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    environment.set_unknown_method_callback(method);
    environment.set_formatter(print);
    environment.set_fuel(Some(FUEL));
    environment.add_filter("tojson", tojson);
    environment.add_test("sequence", is_sequence);
    environment.add_function("raise_exception", raise_exception);
    Ok(environment)
}

/// The prompt up to the mark, without the turn's closing tokens.
fn cut_at_mark(mut prompt: String, trimmed: bool) -> Result<String, TemplateError> {
    let end = prompt
        .rfind(END_MARK.trim_end())
        .ok_or(TemplateError::NotContinued)?;
    let keeps_space = prompt
        .get(end..)
        .is_some_and(|rest| rest.starts_with(END_MARK));
    prompt.truncate(end);
    if trimmed || !keeps_space {
        prompt.truncate(prompt.trim_end().len());
    }
    Ok(prompt)
}

/// `{% generation %}` marks the assistant's tokens for training; here it is a block that is always entered.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag, after)) = next_tag(rest) {
        out.push_str(before);
        let plain = tag.trim_start_matches("{%").trim_end_matches("%}");
        match plain.trim_matches(['-', '+']).trim() {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out + rest
}

fn next_tag(source: &str) -> Option<(&str, &str, &str)> {
    let (before, opened) = source.split_at(source.find("{%")?);
    let (tag, after) = opened.split_at(opened.find("%}")? + 2);
    Some((before, tag, after))
}

fn classify(error: &Error) -> TemplateError {
    match (raised_in(error), error.kind()) {
        (Some(Raised(message)), _) => TemplateError::Raised {
            message: message.clone(),
            line: error.line(),
        },
        (None, ErrorKind::OutOfFuel) => TemplateError::TooLong,
        (None, _) => TemplateError::Failed(describe(error)),
    }
}

fn raised_in(error: &Error) -> Option<&Raised> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(raised) = error.downcast_ref() {
            return Some(raised);
        }
        cause = error.source();
    }
    None
}

/// The error in one line, with the template's line.
fn describe(error: &Error) -> String {
    let detail = error
        .detail()
        .map(|detail| format!(": {detail}"))
        .unwrap_or_default();
    format!("{}{detail}{}", error.kind(), at(error.line()))
}

fn at(line: Option<usize>) -> String {
    line.map(|line| format!(" (line {line})"))
        .unwrap_or_default()
}

/// A buffer that refuses to grow without bound.
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    is_full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.is_full |= self.bytes.len() + piece.len() > MAX_OUTPUT_BYTES;
        if self.is_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "chat_template/tests.rs"]
mod tests;
