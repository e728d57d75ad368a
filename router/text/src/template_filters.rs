//! What Hugging Face's templates may call that Jinja does not have: `tojson` as Python writes it, `raise_exception`,
//! `strftime_now`, and the methods of Python's strings that the engine lacks.

use jiff::Zoned;
use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Kwargs, Serde, ValueKind, from_args},
};
use minijinja_contrib::pycompat;
use serde::Serialize;

use crate::python_text::{JsonStyle, json};

/// Most spaces that `tojson(indent=…)` may ask for.
const MAX_INDENT: usize = 16;

/// JSON with Python's spacing, non-ASCII as it is, and no HTML escapes.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the engine hands filters their arguments so"
)]
pub(crate) fn tojson(
    value: &Value,
    ensure_ascii: Option<Value>,
    indent: Option<usize>,
    options: Kwargs,
) -> Result<Value, Error> {
    let ensure_ascii = match ensure_ascii {
        Some(value) => Some(value),
        None => options.get("ensure_ascii")?,
    };
    let indent: Option<usize> = indent.or(options.get("indent")?);
    let separators: Option<Vec<String>> = options.get("separators")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let style = JsonStyle {
        indent: indent.map(|width| width.min(MAX_INDENT)),
        separators: separators.and_then(|pair| <[String; 2]>::try_from(pair).ok()),
        ensure_ascii: ensure_ascii.is_some_and(|value| value.is_true()),
        sort_keys: sort_keys.unwrap_or(false),
    };
    json(value, style)
        .map(Value::from_safe_string)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

/// Python's sequences: strings and mappings are some too.
pub(crate) fn is_sequence(value: &Value) -> bool {
    let kinds = [ValueKind::Seq, ValueKind::String, ValueKind::Map];
    value.is_undefined() || kinds.contains(&value.kind())
}

/// Methods of Python's values.
pub(crate) fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let found = value
        .as_str()
        .map(|text| string_method(text, name, arguments));
    match found {
        Some(Ok(Some(result))) => Ok(result),
        Some(Err(error)) => Err(error),
        Some(Ok(None)) | None => pycompat::unknown_method_callback(state, value, name, arguments),
    }
}

/// Methods that the engine lacks.
fn string_method(text: &str, name: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    let argument = || from_args::<(&str,)>(arguments).map(|(argument,)| argument);
    Ok(Some(match name {
        "removeprefix" => Value::from(text.strip_prefix(argument()?).unwrap_or(text)),
        "removesuffix" => Value::from(text.strip_suffix(argument()?).unwrap_or(text)),
        "partition" => parts(text.split_once(argument()?), argument()?, [text, "", ""]),
        "rpartition" => parts(text.rsplit_once(argument()?), argument()?, ["", "", text]),
        "rsplit" => {
            let (separator, limit): (&str, Option<usize>) = from_args(arguments)?;
            let pieces = limit.map_or(usize::MAX, |limit| limit.saturating_add(1));
            let mut pieces: Vec<&str> = text.rsplitn(pieces, separator).collect();
            pieces.reverse();
            pieces.into_iter().map(Value::from).collect()
        }
        _ => return Ok(None),
    }))
}

fn parts(cut: Option<(&str, &str)>, separator: &str, uncut: [&str; 3]) -> Value {
    let [head, middle, tail] = cut.map_or(uncut, |(head, tail)| [head, separator, tail]);
    [head, middle, tail].into_iter().map(Value::from).collect()
}

/// Marks errors that the template raised itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Raised(pub(crate) String);

/// Lets a template refuse its input.
pub(crate) fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// `strftime_now` for one rendering: the clock stands still at `now`.
pub(crate) fn strftime(now: Zoned) -> Value {
    Value::from_function(move |format: String| {
        jiff::fmt::strtime::format(&format, &now)
            .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
    })
}

/// A value of any serializable type.
pub(crate) fn value_of(value: impl Serialize) -> Value {
    Value::from(Serde(value))
}
