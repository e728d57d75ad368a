//! Whatever the text, both encoders read the same tokens, for the kinds of tokenizers that models mostly come with.

use std::{path::PathBuf, sync::LazyLock};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK_V3: [&str; 3] = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
];

/// The bundled model's file.
fn bundled() -> Value {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../demo-model/weights/tokenizer.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn split(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

/// The bundled vocabulary behind another way of cutting a text into words.
fn cut_by(pre_tokenizer: Value) -> Value {
    let mut file = bundled();
    file["pre_tokenizer"] = pre_tokenizer;
    file
}

fn cut_by_pattern(pattern: &str) -> Value {
    cut_by_all(vec![split(pattern)], byte_level(false))
}

/// Qwen 2 composes characters first.
fn composing(mut file: Value) -> Value {
    file["normalizer"] = json!({"type": "NFC"});
    file
}

fn cut_by_all(first: Vec<Value>, last: Value) -> Value {
    let parts: Vec<Value> = first.into_iter().chain([last]).collect();
    cut_by(json!({"type": "Sequence", "pretokenizers": parts}))
}

/// As Llama 2 has it: word joiners for spaces, and bytes for what is none of `letters` nor has another token.
fn sentence_pieces(letters: &str) -> Value {
    let bytes = (0..=255_u8).map(|byte| format!("<0x{byte:02X}>"));
    let letters = letters.chars().map(String::from);
    let words = ["▁", "▁t", "he", "▁the", "in", "an", "▁c", "▁ca", "日", "é"].map(str::to_owned);
    let special = ["<unk>", "<s>", "</s>"].map(str::to_owned);
    let entries = special.into_iter().chain(bytes).chain(letters).chain(words);
    let vocab: serde_json::Map<String, Value> = entries
        .zip(0_u32..)
        .map(|(token, id)| (token, json!(id)))
        .collect();
    let merges = ["▁ t", "h e", "▁t he", "i n", "a n", "▁ c", "▁c a"];
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                     {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab, "merges": merges},
    })
}

type Pair = (&'static str, tokenizers::Tokenizer, QuickEncoder);

static PAIRS: LazyLock<Vec<Pair>> = LazyLock::new(|| {
    let ascii: String = ('!'..='~').collect();
    let digits = json!({"type": "Digits", "individual_digits": true});
    let kinds = [
        ("the bundled one", bundled()),
        ("GPT-2", cut_by(byte_level(true))),
        ("GPT-2's pattern", cut_by_pattern(GPT_2)),
        ("Llama 3", cut_by_pattern(LLAMA_3)),
        ("Qwen 2", composing(cut_by_pattern(QWEN_2))),
        (
            "DeepSeek V3",
            cut_by_all(DEEPSEEK_V3.map(split).into(), byte_level(false)),
        ),
        ("digits", cut_by_all(vec![digits], byte_level(true))),
        ("gpt-oss", cut_by_pattern(O200K)),
        ("SentencePiece BPE, as Llama 2", sentence_pieces(&ascii)),
    ];
    let pair = |(name, file): (&'static str, Value)| {
        let json = file.to_string();
        let reference = tokenizers::Tokenizer::from_bytes(&json).unwrap();
        let quick = QuickEncoder::agreeing(json.as_bytes(), &reference);
        (
            name,
            reference,
            quick.unwrap_or_else(|| panic!("{name} has none")),
        )
    };
    kinds.map(pair).into()
});

/// Words, spaces of many kinds, special tokens whole and broken, and any characters.
fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[a-zA-Z']{0,12}",
        "[ \\t\\r\\n\u{a0}\u{3000}]{1,5}",
        "[0-9]{1,8}",
        "\\PC{0,8}",
        any::<String>(),
        "(<s>|</s>|<unk>|<\\|begin\\|>|<\\|end\\|>|<\\|begin|\\|>|<0x0A>|▁)",
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn both_read_the_same_tokens(text in text(), add in any::<bool>()) {
        let special = if add { SpecialTokens::Add } else { SpecialTokens::Skip };
        for (name, reference, quick) in PAIRS.iter() {
            let expected = reference.encode_fast(text.as_str(), add).unwrap();
            let found = quick.encode(&text, special);
            prop_assert_eq!(found.as_deref(), Some(expected.get_ids()), "{}", name);
        }
    }
}

#[test]
fn a_text_of_many_words_reads_the_same_again_and_a_long_one_is_left_to_the_reference() {
    let text = "The 12 cats' café,\n\n  it's 日本語… <|begin|>no".repeat(1_000);
    let (name, reference, quick) = &PAIRS[0];
    let expected = reference.encode_fast(text.as_str(), true).unwrap();
    for _ in 0..3 {
        let found = quick.encode(&text, SpecialTokens::Add);
        assert!(found.as_deref() == Some(expected.get_ids()), "{name}");
    }
    assert_eq!(quick.encode(&text.repeat(2), SpecialTokens::Add), None);
}

#[test]
fn one_that_disagrees_is_not_taken() {
    // Without tokens for `<` and `0`, the crate takes a written `<0x0A>` for the token of a byte.
    let file = sentence_pieces("abcdefghijklmnopqrstuvwxyz").to_string();
    let reference = tokenizers::Tokenizer::from_bytes(&file).unwrap();
    assert!(QuickEncoder::agreeing(file.as_bytes(), &reference).is_none());
}

#[test]
fn one_that_the_crate_cannot_read_is_left_to_the_reference() {
    let file = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"the": 0, "?": 1}, "unk_token": "?"},
    });
    let file = file.to_string();
    let reference = tokenizers::Tokenizer::from_bytes(&file).unwrap();
    assert!(QuickEncoder::agreeing(file.as_bytes(), &reference).is_none());
    let tokenizer = crate::Tokenizer::from_json(&file).unwrap();
    let ids = tokenizer.encode("the cat", SpecialTokens::Skip).unwrap();
    assert_eq!(ids, [0, 1]);
}
