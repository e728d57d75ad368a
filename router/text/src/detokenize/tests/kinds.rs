//! Every kind of tokenizer that models come with, in small: what streams is what the whole text is, and no character breaks.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A tokenizer, and groups of its tokens that each are whole characters.
struct Kind {
    name: &'static str,
    tokenizer: Arc<Tokenizer>,
    units: Vec<Vec<u32>>,
}

const SENTENCE_PIECES: [&str; 7] = ["▁", "▁the", "cat", "▁is", "s", "▁日本", "."];
const WORD_PIECES: [&str; 8] = ["the", "cat", "##s", "##ing", ".", "n't", "日", "##本"];
const END_OF_WORD: [&str; 6] = ["the</w>", "ca", "t</w>", "日本</w>", ".</w>", "é"];
const WORDS: [&str; 5] = ["the", "cat", "日本", "é", "."];
/// Characters of two, three and four bytes, and one of several characters.
const CHARACTERS: [&str; 4] = ["é", "€", "😀", "👍🏽"];

fn tokenizer(decoder: &Value, vocab: &[String]) -> Arc<Tokenizer> {
    let ids = vocab.iter().zip(0_u32..);
    let vocab: serde_json::Map<String, Value> =
        ids.map(|(token, id)| (token.clone(), json!(id))).collect();
    let file = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
        "decoder": decoder, "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "?"},
    });
    Arc::new(Tokenizer::from_json(&file.to_string()).unwrap())
}

/// A kind whose tokens are words; each is a unit.
fn of_words(name: &'static str, decoder: &Value, words: &[&str]) -> Kind {
    let vocab: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    Kind {
        name,
        tokenizer: tokenizer(decoder, &vocab),
        units: (0..words.len() as u32).map(|id| vec![id]).collect(),
    }
}

/// The same with a token for each byte, for characters that have no token.
fn with_bytes(name: &'static str, decoder: &Value, words: &[&str]) -> Kind {
    let mut vocab: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    vocab.extend((0..=255_u8).map(|byte| format!("<0x{byte:02X}>")));
    let first = words.len() as u32;
    let mut kind = of_words(name, decoder, words);
    kind.tokenizer = tokenizer(decoder, &vocab);
    let bytes = |text: &&str| text.bytes().map(|byte| first + u32::from(byte)).collect();
    kind.units.extend(CHARACTERS.iter().map(bytes));
    kind
}

/// Tokens are bytes, written in printable characters.
fn of_bytes(name: &'static str, decoder: &Value) -> Kind {
    let written: HashMap<u8, char> = byte_alphabet()
        .into_iter()
        .map(|(character, byte)| (byte, character))
        .collect();
    let vocab: Vec<String> = (0..=255_u8)
        .map(|byte| written[&byte].to_string())
        .collect();
    let texts = CHARACTERS.iter().chain(&["a", " ", "\n", "▁"]);
    Kind {
        name,
        tokenizer: tokenizer(decoder, &vocab),
        units: texts
            .map(|text| text.bytes().map(u32::from).collect())
            .collect(),
    }
}

fn sequence(decoders: &[Value]) -> Value {
    json!({"type": "Sequence", "decoders": decoders})
}

fn metaspace(prepend: &str) -> Value {
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": prepend, "split": true})
}

fn sentence_kinds() -> Vec<Kind> {
    let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    let (bytes, fuse) = (json!({"type": "ByteFallback"}), json!({"type": "Fuse"}));
    let llama = sequence(&[replace.clone(), bytes.clone(), fuse.clone(), strip.clone()]);
    let gemma = sequence(&[replace.clone(), bytes.clone(), fuse.clone()]);
    let plain = sequence(&[replace, fuse, strip]);
    let unigram = sequence(&[bytes, metaspace("always")]);
    vec![
        with_bytes("SentencePiece BPE, as Llama 2", &llama, &SENTENCE_PIECES),
        with_bytes(
            "SentencePiece that keeps the first space, as Gemma",
            &gemma,
            &SENTENCE_PIECES,
        ),
        of_words("SentencePiece without bytes", &plain, &SENTENCE_PIECES),
        with_bytes("Unigram with bytes", &unigram, &SENTENCE_PIECES),
        of_words("Metaspace, as T5", &metaspace("always"), &SENTENCE_PIECES),
        of_words(
            "Metaspace that prepends nothing",
            &metaspace("never"),
            &SENTENCE_PIECES,
        ),
        of_words(
            "Metaspace before the first word",
            &metaspace("first"),
            &SENTENCE_PIECES,
        ),
    ]
}

fn other_kinds() -> Vec<Kind> {
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let prefixed = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let pieces = |cleanup| json!({"type": "WordPiece", "prefix": "##", "cleanup": cleanup});
    let suffix = json!({"type": "BPEDecoder", "suffix": "</w>"});
    vec![
        of_bytes("byte-level, as GPT-2", &byte_level),
        of_bytes("byte-level with a first space, as RoBERTa", &prefixed),
        of_words("WordPiece, as BERT", &pieces(true), &WORD_PIECES),
        of_words("WordPiece without clean-up", &pieces(false), &WORD_PIECES),
        of_words("BPE with ends of words, as CLIP", &suffix, &END_OF_WORD),
        of_words("words without a decoder", &Value::Null, &WORDS),
    ]
}

static KINDS: LazyLock<Vec<Kind>> =
    LazyLock::new(|| sentence_kinds().into_iter().chain(other_kinds()).collect());

fn flat(kind: &Kind, choices: &[usize]) -> Vec<u32> {
    let unit = |choice: &usize| kind.units[choice % kind.units.len()].clone();
    choices.iter().flat_map(unit).collect()
}

proptest! {
    #[test]
    fn what_streams_is_the_whole_text(choices in prop::collection::vec(0_usize..100, 0..40)) {
        for kind in KINDS.iter() {
            let ids = flat(kind, &choices);
            let pieces = pieces(&kind.tokenizer, &ids);
            prop_assert_eq!(pieces.concat(), kind.tokenizer.decode(&ids), "{}: {:?}", kind.name, ids);
            prop_assert!(!pieces.concat().contains(REPLACEMENT), "{}: {:?}", kind.name, pieces);
        }
    }

    #[test]
    fn after_a_prompt_it_is_the_rest(
        prompt in prop::collection::vec(0_usize..100, 1..20),
        choices in prop::collection::vec(0_usize..100, 0..20),
    ) {
        for kind in KINDS.iter() {
            let (prompt, ids) = (flat(kind, &prompt), flat(kind, &choices));
            let mut detokenizer = Detokenizer::new(kind.tokenizer.clone(), &prompt);
            let mut text = kind.tokenizer.decode(&prompt);
            for id in &ids {
                detokenizer.push(*id, &mut text);
            }
            detokenizer.finish(&mut text);
            let whole = kind.tokenizer.decode(&[prompt, ids].concat());
            prop_assert_eq!(text, whole, "{}", kind.name);
        }
    }
}

#[test]
fn there_are_more_than_ten_kinds_and_each_says_something() {
    assert!(KINDS.len() > 10);
    for kind in KINDS.iter() {
        let ids: Vec<u32> = kind.units.iter().flatten().copied().collect();
        assert!(kind.tokenizer.decode(&ids).len() > 5, "{}", kind.name);
    }
}
