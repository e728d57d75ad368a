//! What Hugging Face's templates may call that Jinja does not have: `tojson` as Python writes it, `raise_exception`, `strftime_now`.

use std::io;

use jiff::Zoned;
use minijinja::{
    Error, ErrorKind, Value,
    value::{Kwargs, Serde},
};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// Most spaces that `tojson(indent=…)` may ask for.
const MAX_INDENT: usize = 16;

/// JSON with Python's spacing, non-ASCII as it is, and no HTML escapes.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the engine hands filters their arguments so"
)]
pub(crate) fn tojson(
    value: &Value,
    indent: Option<usize>,
    options: Kwargs,
) -> Result<Value, Error> {
    let indent = indent.or(options.get("indent")?);
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let json = match indent {
        None => write(value, PythonSpacing)?,
        Some(width) => write(
            value,
            PrettyFormatter::with_indent(" ".repeat(width.min(MAX_INDENT)).as_bytes()),
        )?,
    };
    Ok(Value::from_safe_string(json))
}

fn write(value: &Value, formatter: impl Formatter) -> Result<String, Error> {
    let mut bytes = Vec::new();
    value
        .serialize(&mut Serializer::with_formatter(&mut bytes, formatter))
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    String::from_utf8(bytes)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

/// `, ` and `: `, as `json.dumps` does.
struct PythonSpacing;

impl Formatter for PythonSpacing {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
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
