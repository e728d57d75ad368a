//! The pieces of any ids put together are the text of all of them, with the bundled tokenizer and with a byte-fallback one.

#[path = "tests/kinds.rs"]
mod kinds;

use std::{path::PathBuf, sync::LazyLock};

use proptest::prelude::*;

use super::*;
use crate::SpecialTokens;

/// The bundled model's tokenizer.
pub(crate) fn bundled() -> Arc<Tokenizer> {
    static BUNDLED: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../demo-model/weights");
        Arc::new(Tokenizer::load(&path).unwrap())
    });
    BUNDLED.clone()
}

/// SentencePiece's shape: word joiners, and bytes for what has no token.
fn byte_fallback() -> Arc<Tokenizer> {
    let mut vocab: Vec<String> = (0..=255_u8)
        .map(|byte| format!("\"<0x{byte:02X}>\": {byte}"))
        .collect();
    vocab.extend(["\"▁\": 256", "\"▁a\": 257", "\"b\": 258", "\"▁cd\": 259"].map(str::to_owned));
    let json = format!(
        r#"{{"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
        "decoder": {{"type": "Sequence", "decoders": [
            {{"type": "Replace", "pattern": {{"String": "▁"}}, "content": " "}},
            {{"type": "ByteFallback"}}, {{"type": "Fuse"}}, {{"type": "Strip", "content": " ", "start": 1, "stop": 0}}]}},
        "model": {{"type": "BPE", "byte_fallback": true, "vocab": {{{}}}, "merges": []}}}}"#,
        vocab.join(", ")
    );
    Arc::new(Tokenizer::from_json(&json).unwrap())
}

fn pieces(tokenizer: &Arc<Tokenizer>, ids: &[u32]) -> Vec<String> {
    let mut detokenizer = Detokenizer::new(tokenizer.clone(), &[]);
    let mut pieces: Vec<String> = Vec::new();
    for &id in ids {
        let mut piece = String::new();
        detokenizer.push(id, &mut piece);
        pieces.push(piece);
    }
    let mut last = String::new();
    detokenizer.finish(&mut last);
    pieces.push(last);
    pieces
}

proptest! {
    #[test]
    fn any_ids_give_the_text_of_all(ids in prop::collection::vec(0_u32..2100, 0..60)) {
        let tokenizer = bundled();
        prop_assert_eq!(pieces(&tokenizer, &ids).concat(), tokenizer.decode(&ids));
    }

    #[test]
    fn a_text_comes_back_without_a_broken_character(text in "\\PC{0,40}") {
        let tokenizer = bundled();
        let ids = tokenizer.encode(&text, SpecialTokens::Skip).unwrap();
        let pieces = pieces(&tokenizer, &ids);
        prop_assert!(pieces.iter().all(|piece| !piece.contains(REPLACEMENT)) || text.contains(REPLACEMENT));
        prop_assert_eq!(pieces.concat(), text);
    }

    #[test]
    fn byte_fallback_gives_whole_characters(text in "[ab€😀éñ ]{0,30}") {
        let tokenizer = byte_fallback();
        let ids: Vec<u32> = text.replace(' ', "▁").bytes().map(u32::from).collect();
        let pieces = pieces(&tokenizer, &ids);
        prop_assert!(pieces.iter().all(|piece| !piece.contains(REPLACEMENT)));
        prop_assert_eq!(pieces.concat().replace('▁', " "), text);
    }
}

#[test]
fn words_keep_their_spaces_after_a_prompt() {
    let tokenizer = byte_fallback();
    let mut detokenizer = Detokenizer::new(tokenizer, &[257, 258]);
    let mut out = String::new();
    for id in [259, 258, 257] {
        detokenizer.push(id, &mut out);
    }
    assert_eq!(out, " cdb a");
}

#[test]
fn endless_broken_bytes_cost_no_more_each() {
    let tokenizer = byte_fallback();
    let mut detokenizer = Detokenizer::new(tokenizer, &[]);
    let mut out = String::new();
    for _ in 0..1000 {
        detokenizer.push(0xFF, &mut out);
        let State::Window(window) = &detokenizer.state else {
            panic!("not a window")
        };
        assert!(window.ids.len() <= 2 * MAX_PENDING_TOKENS);
    }
    assert!(out.chars().count() >= 990);
}

#[test]
fn special_tokens_add_nothing_even_inside_a_character() {
    let tokenizer = bundled();
    let euro = tokenizer.encode("€", SpecialTokens::Skip).unwrap();
    let mut ids = vec![2];
    for id in euro {
        ids.extend([id, 2]);
    }
    assert_eq!(pieces(&tokenizer, &ids).concat(), "€");
}
