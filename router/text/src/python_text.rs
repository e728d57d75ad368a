//! Values as Python writes them: `json.dumps` and `repr`. Knows the engine's values; not templates.

use std::{fmt::Write as _, io};

use minijinja::{Error, Output, State, Value, escape_formatter, value::ValueKind};
use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, Serializer};

use crate::shield::{CLOSE, OPEN};

/// Options of `json.dumps`.
#[derive(Debug, Default)]
pub(crate) struct JsonStyle {
    pub(crate) indent: Option<usize>,
    /// Between items, and between keys and values.
    pub(crate) separators: Option<[String; 2]>,
    pub(crate) ensure_ascii: bool,
    pub(crate) sort_keys: bool,
}

/// `json.dumps(value, …)`.
///
/// # Errors
/// The value has no JSON form.
pub(crate) fn json(value: &Value, style: JsonStyle) -> Result<String, serde_json::Error> {
    let mut bytes = Vec::new();
    let sorted = style.sort_keys.then(|| sorted(value)).transpose()?;
    let mut serializer = Serializer::with_formatter(&mut bytes, PythonJson::new(style));
    match sorted {
        Some(sorted) => sorted.serialize(&mut serializer)?,
        None => value.serialize(&mut serializer)?,
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn sorted(value: &Value) -> Result<serde_json::Value, serde_json::Error> {
    let mut value = serde_json::to_value(value)?;
    value.sort_all_objects();
    Ok(value)
}

struct PythonJson {
    item_separator: String,
    key_separator: String,
    indent: Option<usize>,
    ensure_ascii: bool,
    depth: usize,
    has_items: bool,
}

impl PythonJson {
    fn new(style: JsonStyle) -> Self {
        let comma = if style.indent.is_some() { "," } else { ", " };
        let default = || [comma.to_owned(), ": ".to_owned()];
        let [item_separator, key_separator] = style.separators.unwrap_or_else(default);
        Self {
            item_separator,
            key_separator,
            indent: style.indent,
            ensure_ascii: style.ensure_ascii,
            depth: 0,
            has_items: false,
        }
    }

    fn open<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.has_items = false;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.has_items {
            self.line(writer)?;
        }
        self.has_items = true;
        writer.write_all(bracket)
    }

    fn item<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(self.item_separator.as_bytes())?;
        }
        self.has_items = true;
        self.line(writer)
    }

    fn line<W: ?Sized + io::Write>(&self, writer: &mut W) -> io::Result<()> {
        match self.indent {
            Some(width) => write!(writer, "\n{:1$}", "", width * self.depth),
            None => Ok(()),
        }
    }
}

impl Formatter for PythonJson {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.item(writer, first)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.item(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key_separator.as_bytes())
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(float(value).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if !self.ensure_ascii {
            return writer.write_all(fragment.as_bytes());
        }
        for c in fragment.chars() {
            match c {
                // Marks are no part of the text.
                ' '..='~' | OPEN | CLOSE => write!(writer, "{c}")?,
                c => c
                    .encode_utf16(&mut [0; 2])
                    .iter()
                    .try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?,
            }
        }
        Ok(())
    }

    fn write_char_escape<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        CompactFormatter.write_char_escape(writer, escape)
    }
}

/// `repr` of a float: the shortest digits, with an exponent below 1e-4 and from 1e16 on.
fn float(value: f64) -> String {
    let scientific = format!("{value:e}");
    match scientific.split_once('e') {
        Some((digits, exponent)) => match exponent.parse::<i32>() {
            Ok(exponent) if (-4..16).contains(&exponent) => format!("{value:?}"),
            Ok(exponent) => {
                let sign = if exponent < 0 { '-' } else { '+' };
                format!("{digits}e{sign}{:02}", exponent.abs())
            }
            Err(_) => scientific,
        },
        None if value.is_nan() => "nan".to_owned(),
        None => scientific,
    }
}

/// What `{{ … }}` writes: text as it is, everything inside of lists and mappings as `repr` has it.
pub(crate) fn print(
    output: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    let is_float = value.kind() == ValueKind::Number && !value.is_integer();
    if is_float || matches!(value.kind(), ValueKind::Seq | ValueKind::Map) {
        let mut text = String::new();
        repr(value, &mut text)?;
        return output.write_str(&text).map_err(Error::from);
    }
    escape_formatter(output, state, value)
}

fn repr(value: &Value, out: &mut String) -> Result<(), Error> {
    match value.kind() {
        ValueKind::String => quote(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq => {
            out.push('[');
            for (i, item) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr(&item, out)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr(&key, out)?;
                out.push_str(": ");
                repr(&value.get_item(&key)?, out)?;
            }
            out.push('}');
        }
        ValueKind::Number if !value.is_integer() => {
            out.push_str(&f64::try_from(value.clone()).map(float)?);
        }
        _ => write!(out, "{value}").map_err(Error::from)?,
    }
    Ok(())
}

/// `repr` of a string.
fn quote(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_ascii_control() => out.extend(hex_escape(c)),
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// `\x1f`, say.
fn hex_escape(c: char) -> [char; 4] {
    let digit = |value: u32| char::from_digit(value, 16).unwrap_or('0');
    ['\\', 'x', digit(c as u32 >> 4), digit(c as u32 & 15)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::template_filters::value_of;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        let floats = [1.0, 0.1, 1e16, 1e15, 1.5e-5, 1e-4, -2.5e20, 1e100];
        let written: Vec<String> = floats.into_iter().map(float).collect();
        let python = [
            "1.0",
            "0.1",
            "1e+16",
            "1000000000000000.0",
            "1.5e-05",
            "0.0001",
            "-2.5e+20",
            "1e+100",
        ];
        assert_eq!(written, python);
    }

    #[test]
    fn json_has_pythons_options() {
        let value = value_of(json!({"b": [1, 1e20, {}, []], "a": "é\u{1F600}\n\"\u{1}"}));
        let write = |style| json(&value, style).unwrap();
        assert_eq!(
            write(JsonStyle::default()),
            "{\"b\": [1, 1e+20, {}, []], \"a\": \"é\u{1F600}\\n\\\"\\u0001\"}"
        );
        let ascii = JsonStyle {
            ensure_ascii: true,
            sort_keys: true,
            separators: Some([",".to_owned(), ":".to_owned()]),
            indent: None,
        };
        assert_eq!(
            write(ascii),
            r#"{"a":"\u00e9\ud83d\ude00\n\"\u0001","b":[1,1e+20,{},[]]}"#
        );
        let indented = JsonStyle {
            indent: Some(2),
            ..JsonStyle::default()
        };
        assert_eq!(
            write(indented),
            "{\n  \"b\": [\n    1,\n    1e+20,\n    {},\n    []\n  ],\n  \"a\": \"é\u{1F600}\\n\\\"\\u0001\"\n}"
        );
    }
}
