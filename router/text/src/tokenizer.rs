//! Text to token ids. Knows the model's tokenizer files; not requests, not threads.

use std::{collections::HashSet, path::Path};

use thiserror::Error;
use tokenizers::{
    DecoderWrapper, Model, NormalizedString, Normalizer, OffsetType, PreTokenizedString,
    PreTokenizer,
};

use crate::{
    detokenize::ByteTable,
    model_files::{LoadError, read_json, token_text},
    quick_encoder::QuickEncoder,
};

/// Words whose pieces each validation thread remembers. The crate's own 10,000 took tens of thousands of requests to fill up, and
/// the router's memory grew all the while (benchmarks/LOG.md, 2026-11-21).
const CACHED_WORDS: usize = 512;

/// A text of fewer bytes is encoded in microseconds, and nothing of it is remembered that the next could not push out: it may be
/// encoded on any thread, and not on one of those that end (see [`crate::quick_encoder`]).
pub const SHORT_BYTES: usize = 256;

/// Whether the tokenizer adds what the model expects around a text (a begin token, say).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialTokens {
    /// Plain prompts.
    Add,
    /// Rendered chat templates, which write them themselves.
    Skip,
}

/// A text could not be tokenized.
#[derive(Debug, Error)]
#[error("the tokenizer could not read the text: {0}")]
pub struct EncodeError(String);

/// One token of a text and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSpan {
    /// The id.
    pub id: u32,
    /// First byte in the text.
    pub start: usize,
    /// One past the last byte.
    pub stop: usize,
}

/// A model's tokenizer. Encoding is a pure function of the text; it may be shared between threads.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    quick: Option<QuickEncoder>,
    bytes: Option<ByteTable>,
    special: HashSet<u32>,
    named: Vec<(&'static str, String)>,
}

/// Special tokens that have a name, which chat templates may write.
const NAMED: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

impl Tokenizer {
    /// Reads `tokenizer.json`, and the names of the special tokens from its neighbours.
    ///
    /// # Errors
    /// A file is missing, unreadable, or not a tokenizer.
    pub fn load(model_path: &Path) -> Result<Self, LoadError> {
        let encoders = read_encoders(&model_path.join("tokenizer.json"))?;
        let config = read_json(&model_path.join("tokenizer_config.json"))?;
        let map = read_json(&model_path.join("special_tokens_map.json"))?;
        let named =
            |name| token_text(config.as_ref(), name).or_else(|| token_text(map.as_ref(), name));
        let named = NAMED
            .iter()
            .filter_map(|name| Some((*name, named(name)?)))
            .collect();
        Ok(Self::new(encoders, named))
    }

    fn new((inner, quick): Encoders, named: Vec<(&'static str, String)>) -> Self {
        let added = inner.get_added_tokens_decoder();
        let special = added
            .iter()
            .filter(|(_, token)| token.special)
            .map(|(id, _)| *id)
            .collect();
        let is_byte_level = matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_)));
        let bytes = is_byte_level.then(|| ByteTable::new(&inner));
        Self {
            inner,
            quick,
            bytes,
            special,
            named,
        }
    }

    /// A tokenizer from the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// It is not one.
    pub fn from_json(json: &str) -> Result<Self, EncodeError> {
        parse(json.as_bytes())
            .map(|encoders| Self::new(encoders, Vec::new()))
            .map_err(EncodeError)
    }

    /// Token ids of a text.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>, EncodeError> {
        let quick = self.quick.as_ref().filter(|_| text.len() >= SHORT_BYTES);
        if let Some(ids) = quick.and_then(|quick| quick.encode(text, special)) {
            return Ok(ids);
        }
        let encoding = self
            .inner
            .encode_fast(text, special == SpecialTokens::Add)
            .map_err(|e| EncodeError(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Token ids of a text with their byte ranges. Added special tokens have the empty range.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn encode_spans(
        &self,
        text: &str,
        special: SpecialTokens,
    ) -> Result<Vec<TokenSpan>, EncodeError> {
        let encoding = self
            .inner
            .encode(text, special == SpecialTokens::Add)
            .map_err(|e| EncodeError(e.to_string()))?;
        let spans = encoding.get_ids().iter().zip(encoding.get_offsets());
        Ok(spans
            .map(|(&id, &(start, stop))| TokenSpan { id, start, stop })
            .collect())
    }

    /// Text of ids; special tokens are left out.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.decode_with(ids, true)
    }

    /// Text of one token by itself, special ones included. Incomplete characters show as U+FFFD.
    pub fn text_of(&self, id: u32) -> String {
        match self.bytes_of(id) {
            Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            None => self.decode_with(&[id], false),
        }
    }

    /// Bytes of one token, where the tokenizer is made of bytes.
    pub fn bytes_of(&self, id: u32) -> Option<&[u8]> {
        self.bytes.as_ref().map(|table| table.get(id))
    }

    /// Whether the token never shows in a text.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// Ids the tokenizer knows, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Text of the begin token.
    pub fn bos_token(&self) -> Option<&str> {
        self.named("bos_token")
    }

    /// Text of the end token.
    pub fn eos_token(&self) -> Option<&str> {
        self.named("eos_token")
    }

    fn named(&self, name: &str) -> Option<&str> {
        let mut named = self.named.iter();
        named.find_map(|(known, text)| (*known == name).then_some(text.as_str()))
    }

    /// Special tokens by the names that chat templates have for them.
    pub(crate) fn named_tokens(&self) -> &[(&'static str, String)] {
        &self.named
    }

    /// Id of a token, by its text as the vocabulary has it.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Texts of the special tokens.
    pub(crate) fn special_texts(&self) -> impl Iterator<Item = String> {
        self.special
            .iter()
            .filter_map(|&id| self.inner.id_to_token(id))
    }

    /// Token ids of a text that stands inside of another, so that no space is put before it. In a plain one no special
    /// token takes effect.
    pub(crate) fn encode_inside(
        &self,
        text: &str,
        is_plain: bool,
    ) -> Result<Vec<u32>, EncodeError> {
        let encode = |text: &str| {
            if is_plain {
                self.encode_plain(text)
            } else {
                self.encode(text, SpecialTokens::Skip)
            }
        };
        let before = encode("\n")?;
        let both = encode(&format!("\n{text}"))?;
        let ids = match both.strip_prefix(before.as_slice()) {
            Some(ids) => ids.to_vec(),
            None => encode(text)?,
        };
        let is_special = |id: &u32| is_plain && self.is_special(*id);
        match text.char_indices().nth(1) {
            // Some vocabularies have the special tokens among the words; in two pieces they are none.
            Some((first, _)) if ids.iter().any(is_special) => {
                let (head, tail) = text.split_at(first);
                Ok([
                    self.encode_inside(head, true)?,
                    self.encode_inside(tail, true)?,
                ]
                .concat())
            }
            _ => Ok(ids),
        }
    }

    /// Token ids of a text by normalizer, pre-tokenizer and model alone, without the added tokens.
    fn encode_plain(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        let refused = |error: tokenizers::Error| EncodeError(error.to_string());
        let mut normalized = NormalizedString::from(text);
        if let Some(normalizer) = self.inner.get_normalizer() {
            normalizer.normalize(&mut normalized).map_err(refused)?;
        }
        let mut words = PreTokenizedString::from(normalized);
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut words).map_err(refused)?;
        }
        let model = self.inner.get_model();
        words
            .tokenize(|word| model.tokenize(word.get()))
            .map_err(refused)?;
        let encoding = words.into_encoding(None, 0, OffsetType::Byte);
        Ok(encoding.map_err(refused)?.get_ids().to_vec())
    }

    /// Decoding only fails on a broken decoder, where no text is the best answer.
    pub(crate) fn decode_with(&self, ids: &[u32], skip_special: bool) -> String {
        // Some decoders look for the last token, and panic where there is none.
        if ids.iter().all(|&id| skip_special && self.is_special(id)) {
            return String::new();
        }
        self.inner.decode(ids, skip_special).unwrap_or_default()
    }
}

/// The reference, and what is faster and agrees with it.
type Encoders = (tokenizers::Tokenizer, Option<QuickEncoder>);

fn read_encoders(path: &Path) -> Result<Encoders, LoadError> {
    let json = std::fs::read(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => LoadError::Missing {
            path: path.to_owned(),
        },
        _ => LoadError::Unreadable {
            path: path.to_owned(),
            source,
        },
    })?;
    parse(&json).map_err(|reason| LoadError::Invalid {
        path: path.to_owned(),
        reason,
    })
}

/// Limits are the router's business, so the file's own truncation and padding are put out of force.
fn parse(json: &[u8]) -> Result<Encoders, String> {
    let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(|e| e.to_string())?;
    inner
        .with_padding(None)
        .with_truncation(None)
        .map_err(|e| e.to_string())?;
    let mut model = inner.get_model().clone();
    model.resize_cache(CACHED_WORDS);
    inner.with_model(model);
    let quick = QuickEncoder::agreeing(json, &inner);
    Ok((inner, quick))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detokenize::tests::bundled;

    #[test]
    fn special_tokens_are_added_only_when_asked() {
        let tokenizer = bundled();
        let plain = tokenizer.encode("hello", SpecialTokens::Skip).unwrap();
        let with = tokenizer.encode("hello", SpecialTokens::Add).unwrap();
        assert_eq!(with.len(), plain.len() + 1);
        assert!(tokenizer.is_special(with[0]) && !tokenizer.is_special(plain[0]));
        assert_eq!(tokenizer.text_of(with[0]), tokenizer.bos_token().unwrap());
        assert_eq!(tokenizer.decode(&with), "hello");
    }

    #[test]
    fn spans_are_bytes_of_the_text() {
        let text = "héllo wörld";
        let spans = bundled().encode_spans(text, SpecialTokens::Add).unwrap();
        assert_eq!((spans[0].start, spans[0].stop), (0, 0));
        assert_eq!(spans.last().unwrap().stop, text.len());
        assert!(
            spans
                .iter()
                .all(|span| text.get(span.start..span.stop).is_some())
        );
    }

    #[test]
    fn a_missing_or_broken_file_is_named() {
        let directory = std::env::temp_dir().join(format!("ribbon-text-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        assert!(
            matches!(Tokenizer::load(&directory), Err(LoadError::Missing { path }) if path.ends_with("tokenizer.json"))
        );
        std::fs::write(directory.join("tokenizer.json"), "{\"model\": 3}").unwrap();
        assert!(matches!(
            Tokenizer::load(&directory),
            Err(LoadError::Invalid { .. })
        ));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
