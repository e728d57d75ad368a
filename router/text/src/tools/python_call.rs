//! One call written as Python writes it, `name(key=value, …)`, its literals turned into JSON once it is complete.

use serde_json::{Map, Value};

use super::{Part, Progress, argue, format::is_name_char};

/// Literals inside of literals.
const MAX_DEPTH: usize = 64;

#[derive(Debug, Default)]
pub(super) struct PythonCall {
    /// Bytes read.
    read: usize,
    depth: usize,
    /// The quote that ends the string being read.
    quote: Option<u8>,
    is_escaped: bool,
}

impl PythonCall {
    /// Reads on in `text`, which begins with the name and has grown since the last time.
    pub(super) fn read(
        &mut self,
        text: &str,
        accepts: &dyn Fn(&str) -> bool,
        out: &mut Vec<Part>,
    ) -> Progress {
        for (i, byte) in text.bytes().enumerate().skip(self.read) {
            self.read = i + 1;
            let was_outside = self.depth == 0;
            self.take(byte);
            if was_outside && self.depth == 0 && !is_name_byte(byte) {
                return Progress::NoCall;
            }
            if was_outside && self.depth > 0 && !accepts(text.get(..i).unwrap_or_default()) {
                return Progress::NoCall;
            }
            if !was_outside && self.depth == 0 {
                return finish(text.get(..=i).unwrap_or_default(), out);
            }
        }
        Progress::Open
    }

    fn take(&mut self, byte: u8) {
        match (self.quote, byte) {
            (Some(_), _) if self.is_escaped => self.is_escaped = false,
            (Some(_), b'\\') => self.is_escaped = true,
            (Some(quote), byte) if byte == quote => self.quote = None,
            (None, b'\'' | b'"') => self.quote = Some(byte),
            (None, b'(' | b'[' | b'{') => self.depth += 1,
            (None, b')' | b']' | b'}') => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

fn is_name_byte(byte: u8) -> bool {
    !byte.is_ascii() || is_name_char(char::from(byte))
}

/// A complete call.
fn finish(call: &str, out: &mut Vec<Part>) -> Progress {
    let parsed = call
        .split_once('(')
        .and_then(|(name, rest)| Some((name, Literals { rest }.keywords()?)));
    let Some((name, arguments)) = parsed else {
        return Progress::NoCall;
    };
    out.push(Part::Call(name.to_owned()));
    argue(&Value::Object(arguments).to_string(), out);
    Progress::Done(call.len())
}

/// Python's literals, read one after the other.
struct Literals<'a> {
    rest: &'a str,
}

impl Literals<'_> {
    /// `key=value, …)`
    fn keywords(&mut self) -> Option<Map<String, Value>> {
        let mut arguments = Map::new();
        while !self.took(')') {
            let (key, rest) = self.rest.split_once('=')?;
            let key = key.trim();
            if key.is_empty() || !key.chars().all(is_name_char) {
                return None;
            }
            self.rest = rest;
            arguments.insert(key.to_owned(), self.value(0)?);
            if !self.took(',') {
                return self.took(')').then_some(arguments);
            }
        }
        Some(arguments)
    }

    /// Skips space, and `wanted` if it is next.
    fn took(&mut self, wanted: char) -> bool {
        self.rest = self.rest.trim_start();
        let rest = self.rest.strip_prefix(wanted);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        self.rest = self.rest.trim_start();
        match self.rest.chars().next()? {
            _ if depth > MAX_DEPTH => None,
            quote @ ('\'' | '"') => self.string(quote).map(Value::String),
            '[' => self.list(']', depth),
            '(' => self.list(')', depth),
            '{' => self.dict(depth),
            _ => self.word(),
        }
    }

    fn list(&mut self, end: char, depth: usize) -> Option<Value> {
        self.rest = self.rest.get(1..)?;
        let mut values = Vec::new();
        while !self.took(end) {
            values.push(self.value(depth + 1)?);
            if !self.took(',') {
                return self.took(end).then_some(Value::Array(values));
            }
        }
        Some(Value::Array(values))
    }

    fn dict(&mut self, depth: usize) -> Option<Value> {
        self.rest = self.rest.get(1..)?;
        let mut values = Map::new();
        while !self.took('}') {
            let key = match self.value(depth + 1)? {
                Value::String(key) => key,
                other => other.to_string(),
            };
            if !self.took(':') {
                return None;
            }
            values.insert(key, self.value(depth + 1)?);
            if !self.took(',') {
                return self.took('}').then_some(Value::Object(values));
            }
        }
        Some(Value::Object(values))
    }

    fn word(&mut self) -> Option<Value> {
        let end = self
            .rest
            .find(|c: char| ",)]}:".contains(c) || c.is_whitespace())?;
        let (word, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        match word {
            "True" | "true" => Some(Value::Bool(true)),
            "False" | "false" => Some(Value::Bool(false)),
            "None" | "null" => Some(Value::Null),
            number => serde_json::from_str::<serde_json::Number>(number)
                .ok()
                .map(Value::Number),
        }
    }

    fn string(&mut self, quote: char) -> Option<String> {
        let mut text = String::new();
        let mut chars = self.rest.get(1..)?.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => text.push_str(&escape(&mut chars)?),
                c if c == quote => {
                    self.rest = chars.as_str();
                    return Some(text);
                }
                c => text.push(c),
            }
        }
        None
    }
}

/// What stands for the characters after a backslash; Python keeps both where it knows none.
fn escape(chars: &mut std::str::Chars<'_>) -> Option<String> {
    let escaped = match chars.next()? {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'u' => return unicode(chars),
        c @ ('\\' | '\'' | '"') => c,
        other => return Some(format!("\\{other}")),
    };
    Some(escaped.to_string())
}

/// Four hexadecimal digits.
fn unicode(chars: &mut std::str::Chars<'_>) -> Option<String> {
    let digits: String = chars.by_ref().take(4).collect();
    let code = u32::from_str_radix(&digits, 16).ok()?;
    char::from_u32(code).map(String::from)
}
