//! One call written as a name, a separator and a JSON object, read as it arrives.

use super::{Part, Progress, argue, format::is_name_char, json_scan::JsonScan};
use crate::markers::Marker;

/// What stands before the separator is no name if it is longer.
const MAX_NAME_BYTES: usize = 256;
/// Mistral's models write an id of their own after the name; clients get ours.
const CALL_ID: &str = "[CALL_ID]";

#[derive(Debug)]
pub(super) struct NamedCall {
    separators: &'static [Marker],
    /// Bytes read and passed on; absent until the arguments begin.
    read: Option<usize>,
    scan: JsonScan,
}

impl NamedCall {
    pub(super) fn new(separators: &'static [Marker]) -> Self {
        Self {
            separators,
            read: None,
            scan: JsonScan::default(),
        }
    }

    pub(super) fn is_committed(&self) -> bool {
        self.read.is_some()
    }

    /// Reads on in `text`, which begins with the name and has grown since the last time.
    pub(super) fn read(
        &mut self,
        text: &str,
        accepts: &dyn Fn(&str) -> bool,
        out: &mut Vec<Part>,
    ) -> Progress {
        let Some(from) = self.read else {
            return self.read_name(text, accepts, out);
        };
        for (i, byte) in text.bytes().enumerate().skip(from) {
            self.scan.take(byte);
            if self.scan.depth == 0 {
                argue(text.get(from..=i).unwrap_or_default(), out);
                return Progress::Done(i + 1);
            }
        }
        argue(text.get(from..).unwrap_or_default(), out);
        self.read = Some(text.len());
        Progress::Open
    }

    fn read_name(
        &mut self,
        text: &str,
        accepts: &dyn Fn(&str) -> bool,
        out: &mut Vec<Part>,
    ) -> Progress {
        let found = self.separators.iter();
        let found = found.filter_map(|separator| Some((text.find(separator)?, separator.len())));
        let Some((at, length)) = found.min().filter(|(at, _)| *at <= MAX_NAME_BYTES) else {
            let longest = self
                .separators
                .iter()
                .map(|separator| separator.len())
                .max();
            let is_too_long = text.len() > MAX_NAME_BYTES + longest.unwrap_or(0);
            return if is_too_long {
                Progress::NoCall
            } else {
                Progress::Open
            };
        };
        let head = text.get(..at).unwrap_or_default();
        let name = head.split(CALL_ID).next().unwrap_or_default().trim();
        let rest = text.get(at + length..).unwrap_or_default();
        let arguments = rest.trim_start();
        if arguments.is_empty() {
            return Progress::Open;
        }
        if !arguments.starts_with('{') || !name.chars().all(is_name_char) || !accepts(name) {
            return Progress::NoCall;
        }
        out.push(Part::Call(name.to_owned()));
        self.read = Some(text.len() - arguments.len());
        self.read(text, accepts, out)
    }
}
