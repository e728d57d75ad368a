//! Messages to a prompt, with the model's own Jinja template and Hugging Face's settings. Work and output are bounded.

use std::{error::Error as _, io, path::Path};

use jiff::Zoned;
use minijinja::{Environment, Error, ErrorKind, Value, context, syntax::SyntaxConfig};
use minijinja_contrib::pycompat::unknown_method_callback;
use thiserror::Error;

use crate::{
    Tokenizer,
    model_files::{LoadError, read_json, read_text},
    template_filters::{Raised, raise_exception, strftime, tojson, value_of},
};

/// Template instructions one rendering may run; a template of a few hundred lines over 1,000 messages takes about 200,000.
const FUEL: u64 = 20_000_000;
/// Bytes one rendering may write.
const MAX_OUTPUT_BYTES: usize = 16 << 20;
const NAME: &str = "chat";

/// Why a conversation did not become a prompt.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// The template refused the messages.
    #[error("the chat template refused the messages: {0}")]
    Raised(String),
    /// The template failed on them.
    #[error("the chat template failed: {0}")]
    Failed(String),
    /// It ran longer than it may.
    #[error("the chat template took more than {FUEL} instructions")]
    TooLong,
    /// It wrote more than it may.
    #[error("the chat template wrote more than {MAX_OUTPUT_BYTES} bytes")]
    TooLarge,
}

/// What is rendered.
#[derive(Clone, Debug)]
pub struct Rendering<'a> {
    /// The conversation, each message an object as clients send it, `content` a string.
    pub messages: &'a [serde_json::Value],
    /// Ends the prompt with the opening of the assistant's turn.
    pub add_generation_prompt: bool,
    /// What `strftime_now` says.
    pub now: Zoned,
}

/// A model's chat template, compiled.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// The template of a model directory, from `chat_template.jinja`, `chat_template.json` or `tokenizer_config.json`
    /// (of a named list, `default`); `None` if there is none.
    ///
    /// # Errors
    /// A file is unreadable or the template does not parse.
    pub fn load(model_path: &Path, tokenizer: &Tokenizer) -> Result<Option<Self>, LoadError> {
        let path = model_path.join("chat_template.jinja");
        if let Some(source) = read_text(&path)? {
            return Self::compiled(&path, &source, tokenizer).map(Some);
        }
        for name in ["chat_template.json", "tokenizer_config.json"] {
            let path = model_path.join(name);
            if let Some(source) = read_json(&path)?.as_ref().and_then(template_source) {
                return Self::compiled(&path, &source, tokenizer).map(Some);
            }
        }
        Ok(None)
    }

    fn compiled(path: &Path, source: &str, tokenizer: &Tokenizer) -> Result<Self, LoadError> {
        Self::new(
            source,
            tokenizer.bos_token().unwrap_or_default(),
            tokenizer.eos_token().unwrap_or_default(),
        )
        .map_err(|error| LoadError::Invalid {
            path: path.to_owned(),
            reason: format!("the chat template: {}", describe(&error)),
        })
    }

    /// Compiles a template.
    ///
    /// # Errors
    /// It does not parse.
    pub fn new(source: &str, bos_token: &str, eos_token: &str) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()?,
        );
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.set_fuel(Some(FUEL));
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", raise_exception);
        environment.add_template_owned(NAME, without_generation_tags(source))?;
        Ok(Self {
            environment,
            bos_token: bos_token.to_owned(),
            eos_token: eos_token.to_owned(),
        })
    }

    /// The prompt of a conversation.
    ///
    /// # Errors
    /// The template refuses the messages, fails, or goes on too long.
    pub fn render(&self, rendering: &Rendering<'_>) -> Result<String, TemplateError> {
        let template = self
            .environment
            .get_template(NAME)
            .map_err(|error| classify(&error))?;
        let mut output = Bounded::default();
        let result = template.render_captured_to(self.variables(rendering), &mut output);
        match result {
            _ if output.is_full => Err(TemplateError::TooLarge),
            Err(error) => Err(classify(&error)),
            Ok(_) => String::from_utf8(output.bytes)
                .map_err(|error| TemplateError::Failed(error.to_string())),
        }
    }

    fn variables(&self, rendering: &Rendering<'_>) -> Value {
        context! {
            messages => value_of(rendering.messages),
            add_generation_prompt => rendering.add_generation_prompt,
            bos_token => self.bos_token.as_str(),
            eos_token => self.eos_token.as_str(),
            tools => Value::from(()),
            documents => Value::from(()),
            strftime_now => strftime(rendering.now.clone()),
        }
    }
}

/// A template written as a string, or as a list of named ones.
fn template_source(config: &serde_json::Value) -> Option<String> {
    let template = config.get("chat_template")?;
    let named = |list: &'_ [serde_json::Value]| {
        let default = list
            .iter()
            .find(|entry| entry.get("name").and_then(|n| n.as_str()) == Some("default"))?;
        Some(default.get("template")?.as_str()?.to_owned())
    };
    template
        .as_str()
        .map(str::to_owned)
        .or_else(|| named(template.as_array()?))
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
        (Some(Raised(message)), _) => TemplateError::Raised(message.clone()),
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
    let line = error
        .line()
        .map(|line| format!(" (line {line})"))
        .unwrap_or_default();
    format!("{}{detail}{line}", error.kind())
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
