//! Keeps users' text from being read as control tokens: the special tokens in it are marked before the template is
//! rendered, and tokenized as plain text after. Knows strings and their marks; not roles, not templates.

use std::{mem, ops::Range};

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;

use crate::{EncodeError, SpecialTokens, Tokenizer};

/// Noncharacters, which no text should have.
pub(crate) const OPEN: char = '\u{FDD0}';
pub(crate) const CLOSE: char = '\u{FDD1}';

/// Finds special tokens in text.
#[derive(Debug)]
pub(crate) struct Shield {
    texts: Vec<String>,
    tokens: AhoCorasick,
}

impl Shield {
    /// A shield for these tokens; absent where there are none, or too many to look for.
    pub(crate) fn new(tokens: impl Iterator<Item = String>) -> Option<Self> {
        let texts: Vec<String> = tokens.filter(|token| !token.trim().is_empty()).collect();
        let mut builder = AhoCorasick::builder();
        let built = builder.match_kind(MatchKind::LeftmostLongest).build(&texts);
        built
            .ok()
            .filter(|_| !texts.is_empty())
            .map(|tokens| Self { texts, tokens })
    }

    /// Marks the tokens in every string of a value, keys included: templates look for none that has a token in it.
    pub(crate) fn cover(&self, value: &mut Value) {
        match value {
            Value::String(text) => self.cover_text(text),
            Value::Array(values) => values.iter_mut().for_each(|value| self.cover(value)),
            Value::Object(values) => {
                let all = mem::take(values).into_iter();
                *values = all.map(|(key, value)| self.covered(key, value)).collect();
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn covered(&self, mut key: String, mut value: Value) -> (String, Value) {
        self.cover_text(&mut key);
        self.cover(&mut value);
        (key, value)
    }

    fn cover_text(&self, text: &mut String) {
        if text.contains([OPEN, CLOSE]) {
            *text = unmarked(text);
        }
        let found = self.tokens.find_iter(text.as_str());
        let mut ranges: Vec<_> = found.map(|found| found.range()).collect();
        let end = ranges.last().map_or(0, |last| last.end);
        ranges.extend(self.fragment(text, end));
        let mut covered = String::new();
        let mut from = 0;
        for range in ranges {
            covered.push_str(text.get(from..range.start).unwrap_or_default());
            covered.push(OPEN);
            covered.push_str(text.get(range.clone()).unwrap_or_default());
            covered.push(CLOSE);
            from = range.end;
        }
        if from > 0 {
            covered.push_str(text.get(from..).unwrap_or_default());
            *text = covered;
        }
    }

    /// What the template may complete to a token with what it puts behind or around: an end behind `from` that begins
    /// like one, or a whole text out of one. Not words: templates look for them.
    fn fragment(&self, text: &str, from: usize) -> Option<Range<usize>> {
        let text = text.trim_end();
        let longest = self.texts.iter().map(String::len).max()?;
        let behind = text.get(from..)?.char_indices().rev();
        let behind = behind.map(|(at, c)| (from + at, c));
        let near = behind.take_while(|(at, _)| text.len() - at < longest);
        let signs = near.filter(|(_, c)| !c.is_alphanumeric());
        let starts = signs.map(|(at, _)| at).filter(|&at| {
            let (before, end) = text.split_at(at);
            let is_whole = before.trim().is_empty();
            let mut texts = self.texts.iter();
            texts.any(|token| token.starts_with(end) || is_whole && token.contains(end))
        });
        starts.last().map(|at| at..text.len())
    }

    /// A rendered prompt with its marks, or without any where no special token touches what they mark.
    pub(crate) fn settled(&self, marked: String) -> String {
        let plain = unmarked(&marked);
        let found = self.tokens.find_iter(plain.as_str());
        let mut tokens = found.map(|found| found.range()).peekable();
        let mut end = 0;
        let is_needed = pieces(&marked).any(|(piece, is_plain)| {
            let start = end;
            end += piece.len();
            while tokens.next_if(|token| token.end <= start).is_some() {}
            is_plain && tokens.peek().is_some_and(|token| token.start < end)
        });
        if is_needed { marked } else { plain }
    }
}

/// The text without marks.
pub(crate) fn unmarked(text: &str) -> String {
    text.replace([OPEN, CLOSE], "")
}

/// What stands between marks, and whether it is plain text. A template may cut a text between two marks, so each says by
/// itself what follows.
fn pieces(marked: &str) -> impl Iterator<Item = (&str, bool)> {
    let mut is_next_plain = false;
    marked.split_inclusive([OPEN, CLOSE]).map(move |piece| {
        let is_plain = mem::replace(&mut is_next_plain, piece.ends_with(OPEN));
        (piece.trim_end_matches([OPEN, CLOSE]), is_plain)
    })
}

/// Token ids of a rendered prompt: what is marked is tokenized as plain text.
///
/// # Errors
/// The tokenizer refuses the text.
pub(crate) fn encode(tokenizer: &Tokenizer, marked: &str) -> Result<Vec<u32>, EncodeError> {
    let mut ids = Vec::new();
    for (i, (piece, is_plain)) in pieces(marked).enumerate() {
        ids.extend(match i {
            _ if piece.is_empty() => Vec::new(),
            0 => tokenizer.encode(piece, SpecialTokens::Skip)?,
            _ => tokenizer.encode_inside(piece, is_plain)?,
        });
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::detokenize::tests::bundled;

    fn shield(tokens: &[&str]) -> Option<Shield> {
        Shield::new(tokens.iter().map(|&token| token.to_owned()))
    }

    #[test]
    fn tokens_in_strings_and_keys_are_marked() {
        let shield = shield(&["<a>", "<a><b>"]).unwrap();
        let mut value = json!({"<a>": ["x<a><b>y<a>", 1, null], "role\u{FDD1}": "a"});
        shield.cover(&mut value);
        let (pair, one) = (format!("{OPEN}<a><b>{CLOSE}"), format!("{OPEN}<a>{CLOSE}"));
        let expected = json!({one.clone(): [format!("x{pair}y{one}"), 1, null], "role": "a"});
        assert_eq!(value, expected);
        let mut forged = json!(format!("{CLOSE}<a>{OPEN}"));
        shield.cover(&mut forged);
        assert_eq!(forged, json!(one));
        assert!(Shield::new([].into_iter()).is_none());
    }

    #[test]
    fn what_may_become_a_token_is_marked_and_words_are_not() {
        let shield = shield(&["<|end|>", "</s>", "sop"]).unwrap();
        for (text, covered) in [
            ("a <", "a [<]"),
            ("a <|e \n", "a [<|e] \n"),
            ("<|end|> <|end|", "[<|end|>] [<|end|]"),
            ("|end|", "[|end|]"),
            (" /s ", " [/s] "),
            ("end", "end"),
            ("so", "so"),
            ("a |end|", "a |end|"),
            ("<x", "<x"),
            (" \n", " \n"),
            ("", ""),
        ] {
            let mut value = json!(text);
            shield.cover(&mut value);
            let expected = covered.replace('[', "\u{FDD0}").replace(']', "\u{FDD1}");
            assert_eq!(value, json!(expected), "{text:?}");
        }
    }

    #[test]
    fn marks_stay_where_a_token_touches_them() {
        let shield = shield(&["<|end|>"]).unwrap();
        let covered = |text: &str| {
            let mut value = json!(text);
            shield.cover(&mut value);
            value.as_str().unwrap().to_owned()
        };
        for (marked, is_needed) in [
            (covered("<|e") + "nd|>", true),
            (format!("<{}>", covered("|end|")), true),
            (format!("<|end|>{}<|end|>", covered("a<|end|>")), true),
            (format!("<|end|>{}<|end|>", covered("a <|")), false),
            (format!("<|end|>{}<|end|>", covered("<")), false),
        ] {
            let expected = if is_needed {
                marked.clone()
            } else {
                unmarked(&marked)
            };
            assert!(marked.contains(OPEN), "{marked}");
            assert_eq!(shield.settled(marked), expected);
        }
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
