//! Finds stop strings in a text that arrives in pieces. The result does not depend on where the pieces are cut.
//!
//! One Knuth–Morris–Pratt automaton per string: constant work per byte, whatever the strings are.

use std::sync::Arc;

/// What becomes of the stop string itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopText {
    /// The text ends with it (native routes); nothing has to be held back.
    Keep,
    /// The text ends before it (OpenAI routes); what may become one is held back.
    Drop,
}

/// The stop strings of a request.
#[derive(Clone, Debug, Default)]
pub struct StopStrings(Arc<[Pattern]>);

#[derive(Debug)]
struct Pattern {
    bytes: Box<[u8]>,
    /// Length of the longest proper prefix that ends at each byte.
    borders: Box<[usize]>,
}

impl StopStrings {
    /// Compiles the strings; empty ones match nothing.
    pub fn new<'a>(strings: impl IntoIterator<Item = &'a str>) -> Self {
        Self(
            strings
                .into_iter()
                .filter(|s| !s.is_empty())
                .map(Pattern::new)
                .collect(),
        )
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Pattern {
    fn new(string: &str) -> Self {
        let mut pattern = Self {
            bytes: string.bytes().collect(),
            borders: Box::default(),
        };
        let mut borders = vec![0];
        let mut matched = 0;
        for &byte in pattern.bytes.iter().skip(1) {
            matched = pattern.advance(&borders, matched, byte);
            borders.push(matched);
        }
        pattern.borders = borders.into();
        pattern
    }

    /// Bytes of the pattern that the text ends with, after one more byte of text.
    fn advance(&self, borders: &[usize], mut matched: usize, byte: u8) -> usize {
        loop {
            if self.bytes.get(matched) == Some(&byte) {
                return matched + 1;
            }
            if matched == 0 {
                return 0;
            }
            matched = borders.get(matched - 1).copied().unwrap_or(0);
        }
    }
}

/// Watches one sequence's text.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    strings: StopStrings,
    mode: StopText,
    /// For each string, how much of it the text ends with.
    matched: Vec<usize>,
    /// Text not released yet; only with [`StopText::Drop`].
    held: String,
}

impl StopMatcher {
    /// A matcher at the start of a text.
    pub fn new(strings: StopStrings, mode: StopText) -> Self {
        let matched = vec![0; strings.0.len()];
        Self {
            strings,
            mode,
            matched,
            held: String::new(),
        }
    }

    /// Takes the next piece and appends what may be shown to `out`. True when the text ends here;
    /// the first string to be complete wins, the longest of several.
    pub fn push(&mut self, piece: &str, out: &mut String) -> bool {
        if self.strings.is_empty() {
            out.push_str(piece);
            return false;
        }
        let hit = piece
            .bytes()
            .enumerate()
            .find_map(|(i, byte)| Some((i + 1, self.advance(byte)?)));
        match (self.mode, hit) {
            (StopText::Keep, None) => out.push_str(piece),
            (StopText::Keep, Some((end, _))) => out.push_str(piece.get(..end).unwrap_or(piece)),
            (StopText::Drop, None) => self.release(piece, out),
            (StopText::Drop, Some((end, length))) => self.cut(piece, end, length, out),
        }
        hit.is_some()
    }

    /// Releases what was held back: the text ended without a match.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }

    /// Length of the longest string that is complete with this byte.
    fn advance(&mut self, byte: u8) -> Option<usize> {
        let mut complete = None;
        for (pattern, matched) in self.strings.0.iter().zip(&mut self.matched) {
            *matched = pattern.advance(&pattern.borders, *matched, byte);
            if *matched == pattern.bytes.len() {
                complete = complete.max(Some(*matched));
            }
        }
        complete
    }

    fn release(&mut self, piece: &str, out: &mut String) {
        self.held.push_str(piece);
        let keep = self.matched.iter().copied().max().unwrap_or(0);
        out.extend(self.held.drain(..self.held.len().saturating_sub(keep)));
    }

    fn cut(&mut self, piece: &str, end: usize, length: usize, out: &mut String) {
        self.held.push_str(piece);
        let start = self.held.len() - piece.len() + end - length;
        out.push_str(self.held.get(..start).unwrap_or_default());
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(pieces: &[&str], stops: &[&str], mode: StopText) -> (String, bool) {
        let mut matcher = StopMatcher::new(StopStrings::new(stops.iter().copied()), mode);
        let mut out = String::new();
        for piece in pieces {
            if matcher.push(piece, &mut out) {
                return (out, true);
            }
        }
        matcher.finish(&mut out);
        (out, false)
    }

    /// The rule, written the slow way.
    fn oracle(text: &str, stops: &[&str], mode: StopText) -> (String, bool) {
        let ends = |stop: &&str| text.find(stop).map(|start| (start + stop.len(), start));
        match stops.iter().filter_map(ends).min() {
            None => (text.to_owned(), false),
            Some((end, _)) if mode == StopText::Keep => (text[..end].to_owned(), true),
            Some((_, start)) => (text[..start].to_owned(), true),
        }
    }

    #[test]
    fn a_stop_string_across_pieces_is_found() {
        assert_eq!(
            run(&["one E", "N", "D two"], &["END"], StopText::Drop),
            ("one ".into(), true)
        );
        assert_eq!(
            run(&["one E", "N", "D two"], &["END"], StopText::Keep),
            ("one END".into(), true)
        );
    }

    #[test]
    fn held_back_text_comes_out_when_the_match_fails() {
        let mut matcher = StopMatcher::new(StopStrings::new(["END"]), StopText::Drop);
        let mut out = String::new();
        assert!(!matcher.push("a EN", &mut out));
        assert_eq!(out, "a ");
        assert!(!matcher.push("ough", &mut out));
        assert_eq!(out, "a ENough");
        matcher.push(" EN", &mut out);
        matcher.finish(&mut out);
        assert_eq!(out, "a ENough EN");
    }

    #[test]
    fn the_first_to_be_complete_wins_then_the_longest() {
        assert_eq!(
            run(&["xaby"], &["xaby", "ab"], StopText::Drop),
            ("x".into(), true)
        );
        assert_eq!(
            run(&["xab"], &["b", "ab"], StopText::Drop),
            ("x".into(), true)
        );
    }

    proptest! {
        #[test]
        fn any_cutting_gives_the_same(
            pieces in prop::collection::vec("[aaabé€]{0,4}", 0..12),
            stops in prop::collection::vec("[aabé€]{1,4}", 0..4),
            keep in any::<bool>(),
        ) {
            let mode = if keep { StopText::Keep } else { StopText::Drop };
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            prop_assert_eq!(run(&pieces, &stops, mode), oracle(&pieces.concat(), &stops, mode));
        }
    }
}
