//! Fields that ask for text of a certain form, on every route: what they mean, and the check before a request queues.

use std::sync::Arc;

use ribbon_core::SequenceRequest;
use ribbon_text::{AnswerRules, Grammar, GrammarError, Tokenizer, Written};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::{error::ApiError, state::AppState, wish::Model};

/// A grammar that was asked for, and by which field.
#[derive(Clone, Debug)]
pub(crate) struct GrammarWish {
    /// What errors call it.
    pub(crate) field: &'static str,
    pub(crate) written: Written,
    /// It holds behind the first generated token with this id.
    start_after: Option<u32>,
    /// If this is the first one; otherwise it holds from there on.
    opened_by: Option<u32>,
}

/// `grammar` of the native routes and `response_format` of the others, in TGI's and OpenAI's forms.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct Format {
    #[serde(rename = "type")]
    kind: FormatKind,
    /// TGI's.
    value: Option<Value>,
    /// OpenAI's.
    json_schema: Option<NamedSchema>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "snake_case")]
enum FormatKind {
    Text,
    Json,
    JsonObject,
    JsonSchema,
    Regex,
}

/// A schema with a name, which has no say; nor has `strict`: a schema is always enforced.
#[derive(Clone, Debug, Deserialize, ToSchema)]
struct NamedSchema {
    schema: Option<Value>,
}

/// vLLM's fields.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guided {
    pub(crate) json: Option<Value>,
    pub(crate) regex: Option<String>,
    pub(crate) choice: Option<Vec<String>>,
    pub(crate) grammar: Option<String>,
}

impl Format {
    /// The grammar it asks for; `None` is plain text.
    ///
    /// # Errors
    /// A part is missing, or is of the wrong type.
    pub(crate) fn wish(self, field: &'static str) -> Result<Option<GrammarWish>, ApiError> {
        let kind = self.kind;
        let written = match (kind, self.value, self.json_schema) {
            (FormatKind::Text, ..) => return Ok(None),
            (FormatKind::JsonObject, None, _) => Written::JsonObject,
            (FormatKind::Json | FormatKind::JsonObject, Some(value), _) => schema(field, value)?,
            (FormatKind::JsonSchema, _, Some(named)) => match named.schema {
                Some(value) => schema(field, value)?,
                None => return Err(missing(field, "json_schema.schema")),
            },
            (FormatKind::JsonSchema, Some(value), None) => named_schema(field, value)?,
            (FormatKind::JsonSchema, None, None) => return Err(missing(field, "json_schema")),
            (FormatKind::Regex, Some(Value::String(regex)), _) => Written::Regex(regex),
            (FormatKind::Regex, Some(_), _) => {
                let message = format!("`{field}`: the `value` of a regex is a string");
                return Err(ApiError::invalid(field, message));
            }
            (FormatKind::Json | FormatKind::Regex, None, _) => return Err(missing(field, "value")),
        };
        let written = meaning_object(written, kind);
        Ok(Some(GrammarWish::new(field, written)))
    }
}

impl GrammarWish {
    /// A grammar for the whole of the generated text.
    pub(crate) fn new(field: &'static str, written: Written) -> Self {
        Self {
            field,
            written,
            start_after: None,
            opened_by: None,
        }
    }

    /// The same for what follows the model's thought: the one in which the prompt ends, or one that the answer may begin with.
    ///
    /// # Errors
    /// The prompt ends in a thought that no single token ends.
    pub(crate) fn behind_thought(
        self,
        is_thinking: bool,
        rules: &AnswerRules,
        tokenizer: &Tokenizer,
    ) -> Result<Self, ApiError> {
        let (start_after, opened_by) = match (is_thinking, rules.tokens_of_thought(tokenizer)) {
            (true, [_, Some(end)]) => (Some(end), None),
            (true, [_, None]) => return Err(self.endless_thought()),
            (false, [Some(begin), Some(end)]) => (Some(end), Some(begin)),
            (false, _) => (None, None),
        };
        Ok(Self {
            start_after,
            opened_by,
            ..self
        })
    }

    fn endless_thought(&self) -> ApiError {
        let field = self.field;
        let message = format!(
            "`{field}`: the model thinks first, and no single token of it ends the thought; switch thinking off in the prompt"
        );
        ApiError::invalid(field, message)
    }

    /// The one grammar of several fields.
    ///
    /// # Errors
    /// Two of them ask for one.
    pub(crate) fn only(format: Option<Format>, guided: Guided) -> Result<Option<Self>, ApiError> {
        let format = format.map(|format| format.wish("response_format"));
        let json = guided.json.map(|value| schema("guided_json", value));
        let guided = [
            json.transpose()?.map(|it| ("guided_json", it)),
            guided.regex.map(|it| ("guided_regex", Written::Regex(it))),
            guided
                .choice
                .map(|it| ("guided_choice", Written::Choice(it))),
            guided
                .grammar
                .map(|it| ("guided_grammar", Written::Lark(it))),
        ];
        let guided = guided.into_iter().flatten();
        let guided = guided.map(|(field, written)| Self::new(field, written));
        let mut asked = format.transpose()?.flatten().into_iter().chain(guided);
        match (asked.next(), asked.next()) {
            (Some(one), Some(other)) => {
                let message = format!("`{}` and `{}` exclude each other", one.field, other.field);
                Err(ApiError::invalid(other.field, message))
            }
            (one, _) => Ok(one),
        }
    }
}

/// A schema as an object, or as its text.
fn schema(field: &'static str, value: Value) -> Result<Written, ApiError> {
    let value = match value {
        Value::String(text) => serde_json::from_str(&text).map_err(|error| {
            ApiError::invalid(field, format!("`{field}`: the schema is no JSON: {error}"))
        })?,
        value => value,
    };
    if value.is_object() {
        return Ok(Written::JsonSchema(value));
    }
    let message = format!("`{field}`: grammar not supported: a JSON schema is an object");
    Err(ApiError::invalid(field, message))
}

/// TGI's `{"name": …, "schema": …}`.
fn named_schema(field: &'static str, value: Value) -> Result<Written, ApiError> {
    let named: NamedSchema = serde_json::from_value(value)
        .map_err(|error| ApiError::invalid(field, format!("`{field}`: {error}")))?;
    match named.schema {
        Some(value) => schema(field, value),
        None => Err(missing(field, "value.schema")),
    }
}

/// Who writes `properties` means an object, as TGI reads it; by JSON Schema alone a number would do.
fn meaning_object(mut written: Written, kind: FormatKind) -> Written {
    if let Written::JsonSchema(Value::Object(schema)) = &mut written {
        let mut keys = ["properties", "required"].iter();
        if kind == FormatKind::JsonObject || keys.any(|key| schema.contains_key(*key)) {
            schema.entry("type").or_insert_with(|| json!("object"));
        }
    }
    written
}

fn missing(field: &'static str, part: &str) -> ApiError {
    ApiError::invalid(field, format!("`{field}` needs `{part}` for its `type`"))
}

/// Has a grammar compiled on a worker of its own kind, so that nobody else waits behind it; one that is known does not wait.
///
/// # Errors
/// It cannot be enforced, this model has no grammars, or too many wait.
pub(crate) async fn checked(
    state: &AppState,
    wish: GrammarWish,
    model: &Model,
) -> Result<Arc<Grammar>, ApiError> {
    let field = wish.field;
    let refused = |reason: String| ApiError::invalid(field, format!("`{field}`: {reason}"));
    if !state.settings.grammar_support {
        let reason = "grammars are switched off (`--disable-grammar-support`)";
        return Err(refused(reason.to_owned()));
    }
    if model.description.eos_token_ids.is_empty() {
        let error = GrammarError::Vocabulary("no token ends a text".to_owned());
        return Err(refused(error.to_string()));
    }
    let grammar = compiled(state, wish.written).await?;
    let grammar = grammar.map_err(|error| refused(error.to_string()))?;
    Ok(Arc::new(Grammar {
        start_after: wish.start_after,
        opened_by: wish.opened_by,
        ..grammar
    }))
}

async fn compiled(
    state: &AppState,
    written: Written,
) -> Result<Result<Grammar, GrammarError>, ApiError> {
    let text = state.text.clone();
    let known = state.workers.run(0, move || text.grammars.known(written));
    let grammar = match known.await? {
        Ok((grammar, false)) => grammar,
        known => return Ok(known.map(|(grammar, _)| grammar)),
    };
    let text = state.text.clone();
    let checking = move || text.grammars.check(&grammar).map(|()| grammar);
    let checked = state.grammar_workers.run(0, checking).await;
    checked.map_err(|error| state.advised(error))
}

/// Has every sequence follow the grammar.
pub(crate) fn attach(grammar: &Arc<Grammar>, group: &mut [SequenceRequest]) {
    for request in group {
        Arc::make_mut(&mut request.sampling).grammar = Some(grammar.clone());
    }
}
