//! One call written as a JSON object, read as it arrives: its arguments are passed on before it is complete.

use serde_json::Value;

use super::{
    Part, Progress, argue,
    json_scan::{JsonScan, Mark},
};

const NAMES: [&str; 2] = ["name", "tool_name"];
const ARGUMENTS: [&str; 3] = ["arguments", "parameters", "args"];

/// Reads one object. What it is given always begins with it.
#[derive(Debug, Default)]
pub(super) struct CallObject {
    /// Bytes read.
    read: usize,
    scan: JsonScan,
    /// Where the key or value at the first level began.
    start: usize,
    /// The key whose value is being read.
    key: Option<String>,
    name: Option<String>,
    /// Arguments that could not be passed on before the name was known.
    arguments: Option<String>,
    is_committed: bool,
    /// Where the arguments go on that are being passed on.
    passing: Option<usize>,
}

/// What a byte of the object decided.
enum Decided {
    Nothing,
    NoCall,
    End,
}

impl CallObject {
    pub(super) fn is_committed(&self) -> bool {
        self.is_committed
    }

    /// Reads on in `text`, which has grown since the last time.
    pub(super) fn read(
        &mut self,
        text: &str,
        accepts: &dyn Fn(&str) -> bool,
        out: &mut Vec<Part>,
    ) -> Progress {
        for (i, byte) in text.bytes().enumerate().skip(self.read) {
            self.read = i + 1;
            let mark = self.scan.take(byte);
            self.pass_arguments(text, i, mark, out);
            match self.take(text, i, mark, accepts) {
                Decided::Nothing => {}
                Decided::NoCall => return Progress::NoCall,
                Decided::End => return self.end(text, accepts, out),
            }
        }
        self.pass_on(text, self.read, out);
        Progress::Open
    }

    /// Follows keys and values of the first level.
    fn take(
        &mut self,
        text: &str,
        i: usize,
        mark: Mark,
        accepts: &dyn Fn(&str) -> bool,
    ) -> Decided {
        match (mark, self.scan.depth) {
            (Mark::OpensString, 1) if self.key.is_none() => self.start = i,
            (Mark::Colon, 1) if self.key.is_none() => {
                let key = text.get(self.start..i).unwrap_or_default();
                self.key = Some(serde_json::from_str(key).unwrap_or_default());
                self.start = i + 1;
            }
            (Mark::Comma, 1) | (Mark::Closes, 0) => {
                let value = text.get(self.start..i).unwrap_or_default();
                let is_fine = self
                    .key
                    .take()
                    .is_none_or(|key| self.keep(&key, value, accepts));
                return match mark {
                    _ if !is_fine => Decided::NoCall,
                    Mark::Closes => Decided::End,
                    _ => Decided::Nothing,
                };
            }
            _ => {}
        }
        Decided::Nothing
    }

    /// Keeps the value of a key; `false` if it names no tool.
    fn keep(&mut self, key: &str, value: &str, accepts: &dyn Fn(&str) -> bool) -> bool {
        if NAMES.contains(&key) && self.name.is_none() {
            self.name = serde_json::from_str(value).ok();
            return self.name.as_deref().is_some_and(accepts);
        }
        if ARGUMENTS.contains(&key) && !self.is_committed {
            self.arguments = Some(value.trim().to_owned());
        }
        true
    }

    /// Arguments that are an object are passed on as they come, once it is known for whom.
    fn pass_arguments(&mut self, text: &str, i: usize, mark: Mark, out: &mut Vec<Part>) {
        let is_object = text.as_bytes().get(i) == Some(&b'{');
        match (mark, self.scan.depth, &self.name) {
            (Mark::Opens, 2, Some(name)) if is_object && self.awaits_arguments(text, i) => {
                out.push(Part::Call(name.clone()));
                self.is_committed = true;
                self.passing = Some(i);
            }
            (Mark::Closes, 1, _) => {
                self.pass_on(text, i + 1, out);
                self.passing = None;
            }
            _ => {}
        }
    }

    /// Whether byte `i` is the first of the arguments.
    fn awaits_arguments(&self, text: &str, i: usize) -> bool {
        let before = text.get(self.start..i).unwrap_or_default();
        let is_key = |key: &String| ARGUMENTS.contains(&key.as_str());
        !self.is_committed && self.key.as_ref().is_some_and(is_key) && before.trim().is_empty()
    }

    fn pass_on(&mut self, text: &str, to: usize, out: &mut Vec<Part>) {
        if let Some(from) = self.passing {
            argue(text.get(from..to).unwrap_or_default(), out);
            self.passing = Some(to);
        }
    }

    fn end(&mut self, text: &str, accepts: &dyn Fn(&str) -> bool, out: &mut Vec<Part>) -> Progress {
        if self.is_committed {
            return Progress::Done(self.read);
        }
        let nested = || nested_call(text.get(..self.read).unwrap_or_default());
        let call = self.name.take().map(|name| (name, self.arguments.take()));
        match call.or_else(nested) {
            Some((name, arguments)) if accepts(&name) => {
                out.push(Part::Call(name));
                argue(&as_object(arguments), out);
                Progress::Done(self.read)
            }
            _ => Progress::NoCall,
        }
    }
}

/// `{"type": "function", "function": {"name": …, "arguments": …}}`, as OpenAI writes calls.
fn nested_call(object: &str) -> Option<(String, Option<String>)> {
    let object: Value = serde_json::from_str(object).ok()?;
    let function = object.get("function")?;
    let name = NAMES.iter().find_map(|key| function.get(key)?.as_str())?;
    let arguments = ARGUMENTS.iter().find_map(|key| function.get(key));
    Some((name.to_owned(), arguments.map(Value::to_string)))
}

/// Arguments may be missing, or JSON in a string.
fn as_object(arguments: Option<String>) -> String {
    let arguments = arguments.unwrap_or_else(|| "{}".to_owned());
    match serde_json::from_str(&arguments) {
        Ok(Value::String(inner)) => inner,
        Ok(Value::Null) => "{}".to_owned(),
        _ => arguments,
    }
}
