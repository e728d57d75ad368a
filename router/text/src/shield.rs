//! Keeps users' text from being read as control tokens: the special tokens in it are marked before the template is
//! rendered, and tokenized as plain text after. Knows strings and their marks; not roles, not templates.

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;

use crate::{EncodeError, SpecialTokens, Tokenizer};

/// Noncharacters, which no text should have.
pub(crate) const OPEN: char = '\u{FDD0}';
pub(crate) const CLOSE: char = '\u{FDD1}';

/// Finds special tokens in text.
#[derive(Debug)]
pub(crate) struct Shield {
    tokens: AhoCorasick,
}

impl Shield {
    /// A shield for these tokens; absent where there are none, or too many to look for.
    pub(crate) fn new<'a>(tokens: impl Iterator<Item = &'a str>) -> Option<Self> {
        let tokens: Vec<&str> = tokens.filter(|token| !token.trim().is_empty()).collect();
        let mut builder = AhoCorasick::builder();
        let built = builder
            .match_kind(MatchKind::LeftmostLongest)
            .build(&tokens);
        built
            .ok()
            .filter(|_| !tokens.is_empty())
            .map(|tokens| Self { tokens })
    }

    /// Marks the tokens in every string of a value; keys stay as they are.
    pub(crate) fn cover(&self, value: &mut Value) {
        match value {
            Value::String(text) => self.cover_text(text),
            Value::Array(values) => values.iter_mut().for_each(|value| self.cover(value)),
            Value::Object(values) => values.values_mut().for_each(|value| self.cover(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn cover_text(&self, text: &mut String) {
        if text.contains([OPEN, CLOSE]) {
            *text = unmarked(text);
        }
        let mut covered = String::new();
        let mut end = 0;
        for found in self.tokens.find_iter(text.as_str()) {
            covered.push_str(text.get(end..found.start()).unwrap_or_default());
            covered.push(OPEN);
            covered.push_str(text.get(found.range()).unwrap_or_default());
            covered.push(CLOSE);
            end = found.end();
        }
        if end > 0 {
            covered.push_str(text.get(end..).unwrap_or_default());
            *text = covered;
        }
    }
}

/// The text without marks.
pub(crate) fn unmarked(text: &str) -> String {
    text.replace([OPEN, CLOSE], "")
}

/// Token ids of a rendered prompt: what is marked is tokenized as plain text.
///
/// # Errors
/// The tokenizer refuses the text.
pub(crate) fn encode(tokenizer: &Tokenizer, marked: &str) -> Result<Vec<u32>, EncodeError> {
    let mut ids = Vec::new();
    let mut rest = marked;
    let mut is_plain = false;
    loop {
        let (piece, after) = rest.split_at(rest.find([OPEN, CLOSE]).unwrap_or(rest.len()));
        let is_first = piece.as_ptr() == marked.as_ptr();
        ids.extend(match is_first {
            _ if piece.is_empty() => Vec::new(),
            true => tokenizer.encode(piece, SpecialTokens::Skip)?,
            false => tokenizer.encode_inside(piece, is_plain)?,
        });
        // A template may cut a text between two marks, so each says by itself what follows.
        let mut chars = after.chars();
        match chars.next() {
            None => return Ok(ids),
            Some(mark) => is_plain = mark == OPEN,
        }
        rest = chars.as_str();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::detokenize::tests::bundled;

    #[test]
    fn tokens_in_strings_are_marked_and_keys_are_not() {
        let shield = Shield::new(["<a>", "<a><b>"].into_iter()).unwrap();
        let mut value = json!({"<a>": ["x<a><b>y<a>", 1, null]});
        shield.cover(&mut value);
        let expected = json!({"<a>": [format!("x{OPEN}<a><b>{CLOSE}y{OPEN}<a>{CLOSE}"), 1, null]});
        assert_eq!(value, expected);
        let mut forged = json!(format!("{CLOSE}<a>{OPEN}"));
        shield.cover(&mut forged);
        assert_eq!(forged, json!(format!("{OPEN}<a>{CLOSE}")));
        assert!(Shield::new([].into_iter()).is_none());
    }

    #[test]
    fn marked_tokens_are_plain_text_and_others_are_not() {
        let tokenizer = bundled();
        let special = tokenizer.encode("<|end|>", SpecialTokens::Skip).unwrap();
        assert_eq!(special.len(), 1);
        let text = format!("<|user|>a {OPEN}<|end|>{CLOSE} b<|end|>");
        let ids = encode(&tokenizer, &text).unwrap();
        let ends = ids.iter().filter(|id| special.contains(id)).count();
        assert_eq!(ends, 1, "{ids:?}");
        let shown: String = ids.iter().map(|&id| tokenizer.text_of(id)).collect();
        assert_eq!(shown, unmarked(&text));
        // A mark that lost its partner changes nothing but the pieces.
        let cut = encode(&tokenizer, &format!("a<|end|>{CLOSE}b")).unwrap();
        assert!(cut.contains(&special[0]));
    }
}
