//! A second encoder, ten times as fast, for the tokenizers that it can read. Knows no files; what it may answer, the first one decides.
//!
//! The crate remembers words by thread, up to some 100 MB each, and gives them back when the thread ends: who encodes many texts does
//! so on threads that end.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::SpecialTokens;

/// From so many bytes on the crate reads a text on threads of its own, which never end.
const TOO_LONG: usize = 64 << 10;

/// What both encoders read at the start, between the texts of added tokens.
const PROBES: [&str; 12] = [
    "The quick brown fox, it's said, won't jump over 12345.678 lazy dogs!",
    "  two  spaces   three\ttab\n\n  lines \r\n end  ",
    "def f(x):\n\treturn {'a': [1, 2], \"b\": x**2}  # €5 & <tag/>",
    "Ärger über Größe; l’été à Noël, İstanbul, ẞtraße, ſ",
    "日本語の文章と、한국어 문장 그리고中文句子。",
    "Привет, мир! שלום עולם مرحبا بالعالم नमस्ते दुनिया ไทย",
    "👍🏽👩\u{200d}👩\u{200d}👧 😀 e\u{301}e\u{301} \u{fb01} ½ ² Ⅷ \u{2028}\u{a0}\u{3000}x",
    "\u{0}\u{1}\u{7f}\u{feff}\u{fffd}\u{10ffff}",
    "I'LL YOU'VE he'd we're 'twas 'S 't  'm",
    "CamelCaseHTTPServer2000px snake_case --flag=-1e-9 ...!!??",
    "▁already▁joined <0x0A> Ġx",
    " ",
];
/// Added tokens that are probed; some vocabularies have thousands.
const PROBED_TOKENS: usize = 64;

/// Agrees with the tokenizer it was made for.
pub(crate) struct QuickEncoder(fastokens::Tokenizer);

impl QuickEncoder {
    /// The encoder for the text of a `tokenizer.json`, where the crate can read it and answers the probes as `reference` does.
    pub(crate) fn agreeing(json: &[u8], reference: &tokenizers::Tokenizer) -> Option<Self> {
        let json = serde_json::from_slice(json).ok()?;
        let read = catch_unwind(|| fastokens::Tokenizer::from_json(json));
        let mut inner = read.ok()?.ok()?;
        inner.set_truncation(None);
        inner.set_padding(None);
        let quick = Self(inner);
        let agrees = |text: &str| {
            [SpecialTokens::Add, SpecialTokens::Skip]
                .into_iter()
                .all(|special| {
                    let expected = reference.encode_fast(text, special == SpecialTokens::Add);
                    expected.is_ok_and(|ids| {
                        quick.encode(text, special).as_deref() == Some(ids.get_ids())
                    })
                })
        };
        probes(reference)
            .iter()
            .all(|text| agrees(text))
            .then_some(quick)
    }

    /// Token ids of a text; none where it has to be asked of the other encoder, which no fault of this one may keep from answering.
    pub(crate) fn encode(&self, text: &str, special: SpecialTokens) -> Option<Vec<u32>> {
        if text.len() >= TOO_LONG {
            return None;
        }
        let with_special = special == SpecialTokens::Add;
        let read = || self.0.encode_with_special_tokens(text, with_special);
        catch_unwind(AssertUnwindSafe(read)).ok()?.ok()
    }
}

impl fmt::Debug for QuickEncoder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("QuickEncoder")
            .finish_non_exhaustive()
    }
}

/// The texts, alone and around each added token.
fn probes(reference: &tokenizers::Tokenizer) -> Vec<String> {
    let mut added: Vec<_> = reference.get_added_tokens_decoder().into_iter().collect();
    added.sort_by_key(|(id, _)| *id);
    let around = added
        .into_iter()
        .take(PROBED_TOKENS)
        .flat_map(|(_, added)| {
            let token = added.content;
            [token.clone(), format!("a{token}b {token} {token}\n{token}")]
        });
    let plain = PROBES.iter().map(|&text| text.to_owned());
    plain.chain([PROBES.concat()]).chain(around).collect()
}

#[cfg(test)]
#[path = "quick_encoder/tests.rs"]
mod tests;
