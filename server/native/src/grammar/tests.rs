use std::fs;

use super::*;
use ribbon_grammar::Written;

const VOCAB: usize = 258;
const END: u32 = 256;
const THINK: u32 = 257;

/// Grammars over the bytes and two special tokens.
fn grammars(name: &str) -> Grammars {
    let folder =
        std::env::temp_dir().join(format!("ribbon-grammars-{}-{name}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let tokenizer_json = folder.join("tokenizer.json");
    fs::write(&tokenizer_json, tokenizer()).unwrap();
    let settings = Settings {
        tokenizer_json,
        vocab_size: VOCAB,
        end_tokens: vec![END],
        num_slots: 4,
    };
    Grammars::new(settings).unwrap()
}

/// Byte fallback tokens by their names.
fn tokenizer() -> String {
    let vocab: Vec<String> = (0..256)
        .map(|byte| format!("\"<0x{byte:02X}>\": {byte}"))
        .collect();
    let added = "{\"id\": 256, \"content\": \"<end>\", \"special\": true}, {\"id\": 257, \"content\": \"<think>\", \"special\": true}";
    format!(
        "{{\"decoder\": {{\"type\": \"Sequence\", \"decoders\": [{{\"type\": \"ByteFallback\"}}]}}, \"added_tokens\": [{added}], \
          \"model\": {{\"vocab\": {{{}}}}}}}",
        vocab.join(", ")
    )
}

fn regex(source: &str) -> Grammar {
    Written::Regex(source.to_owned()).normalised().unwrap()
}

/// Histories of 4 slots with room for 16 tokens, all with this text behind a prompt of one token.
fn history(text: &[u32]) -> (Vec<i32>, i64) {
    let mut tokens = vec![0; 4 * 16];
    for slot in 0..4 {
        for (place, token) in text.iter().enumerate() {
            tokens[slot * 16 + 1 + place] = *token as i32;
        }
    }
    (tokens, 1 + text.len() as i64)
}

/// The tokens that slot 1 allows behind `text`.
fn allowed(grammars: &Grammars, text: &[u32]) -> Vec<u32> {
    let (tokens, known) = history(text);
    let histories = Histories {
        tokens: &tokens,
        width: 16,
    };
    grammars.begin(&[1], &[1], &[known], histories).unwrap();
    grammars.finish();
    let mut logits = vec![0.0; VOCAB];
    grammars.apply(&[1], &mut logits).unwrap();
    let mut mask = vec![0; grammars.mask_words()];
    grammars.masks(&[1], &mut mask).unwrap();
    let bit = |token: usize| mask[token / WORD_BITS] >> (token % WORD_BITS) & 1 == 1;
    assert!((0..VOCAB).all(|token| bit(token) == (logits[token] == 0.0)));
    (0..VOCAB as u32)
        .filter(|token| bit(*token as usize))
        .collect()
}

fn bytes(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

#[test]
fn a_row_follows_its_history_however_much_of_it_is_new() {
    let grammars = grammars("history");
    grammars.expect(regex("ab*c"));
    grammars.open(1, regex("ab*c"), vec![END]).unwrap();
    assert_eq!(allowed(&grammars, &[]), bytes("a"));
    assert_eq!(allowed(&grammars, &bytes("a")), bytes("bc"));
    assert_eq!(
        allowed(&grammars, &bytes("a")),
        bytes("bc"),
        "a step that failed changed nothing"
    );
    assert_eq!(allowed(&grammars, &bytes("abbc")), [END]);
    assert!(grammars.only_stops(1).unwrap() && !grammars.only_stops(2).unwrap());
    grammars.open(1, regex("ab*c"), vec![END]).unwrap();
    assert_eq!(
        allowed(&grammars, &bytes("ab")),
        bytes("bc"),
        "replayed as after a restart"
    );
}

#[test]
fn only_stops_counts_the_sequences_own_stop_tokens() {
    let grammars = grammars("stops");
    grammars
        .open(1, regex("ac?"), vec![END, u32::from(b'a')])
        .unwrap();
    allowed(&grammars, &[]);
    assert!(grammars.only_stops(1).unwrap());
    allowed(&grammars, &bytes("a"));
    assert!(!grammars.only_stops(1).unwrap(), "c may come, too");
}

#[test]
fn a_grammar_that_starts_later_allows_everything_before_but_the_end() {
    let grammars = grammars("later");
    let later = Grammar {
        start_after: Some(THINK),
        ..regex("ok")
    };
    grammars.open(1, later, vec![END]).unwrap();
    let before: Vec<u32> = (0..VOCAB as u32).filter(|token| *token != END).collect();
    assert_eq!(allowed(&grammars, &bytes("hm")), before);
    let begun = [bytes("hmm"), vec![THINK]].concat();
    assert_eq!(allowed(&grammars, &begun), bytes("o"));
    assert_eq!(
        allowed(&grammars, &[begun, bytes("o")].concat()),
        bytes("k")
    );
}

#[test]
fn a_grammar_may_wait_for_what_the_first_token_opens() {
    let grammars = grammars("opened");
    let (hash, ok) = (u32::from(b'#'), bytes("o"));
    let opened = || Grammar {
        start_after: Some(THINK),
        opened_by: Some(hash),
        ..regex("ok")
    };
    grammars.open(1, opened(), vec![END]).unwrap();
    let first = allowed(&grammars, &[]);
    assert_eq!(first, [vec![hash], ok.clone()].concat());
    assert_eq!(allowed(&grammars, &bytes("o")), bytes("k"), "not opened");
    grammars.open(1, opened(), vec![END]).unwrap();
    allowed(&grammars, &[]);
    assert_eq!(allowed(&grammars, &[hash]).len(), VOCAB - 1);
    assert_eq!(allowed(&grammars, &bytes("#hm#")).len(), VOCAB - 1);
    assert_eq!(
        allowed(&grammars, &[bytes("#hm#"), vec![THINK]].concat()),
        ok
    );
    grammars.open(1, opened(), vec![END]).unwrap();
    let replayed = [vec![hash, THINK], bytes("ok")].concat();
    assert_eq!(allowed(&grammars, &replayed), [END]);
}

#[test]
fn a_fault_is_of_its_row_alone_and_ends_with_its_sequence() {
    let grammars = grammars("fault");
    grammars.open(1, regex("a("), vec![END]).unwrap();
    grammars.open(2, regex("b"), vec![END]).unwrap();
    assert!(allowed(&grammars, &[]).is_empty());
    assert!(grammars.fault(1).unwrap().is_some() && grammars.fault(2).unwrap().is_none());
    grammars.open(1, regex("b"), vec![END]).unwrap();
    assert!(
        allowed(&grammars, &bytes("x")).is_empty(),
        "a history that does not follow it"
    );
    assert!(
        grammars
            .fault(1)
            .unwrap()
            .unwrap()
            .contains("do not follow")
    );
    grammars.close(&[1, 2]).unwrap();
    assert!(grammars.fault(1).unwrap().is_none());
    assert!(grammars.apply(&[1], &mut vec![0.0; VOCAB]).is_err());
}

#[test]
fn what_cannot_be_is_refused_and_nothing_begins() {
    let grammars = grammars("refused");
    assert!(grammars.open(4, regex("a"), Vec::new()).is_err());
    grammars.open(1, regex("a"), vec![END]).unwrap();
    let (tokens, _) = history(&[]);
    let histories = Histories {
        tokens: &tokens,
        width: 16,
    };
    assert!(grammars.begin(&[1], &[1], &[17], histories).is_err());
    assert!(grammars.begin(&[1], &[3], &[2], histories).is_err());
    assert_eq!(allowed(&grammars, &[]), bytes("a"));
    assert!(grammars.apply(&[1], &mut [0.0; 3]).is_err());
}

#[test]
fn a_missing_tokenizer_is_the_fault_of_constrained_rows() {
    let settings = Settings {
        tokenizer_json: "/nowhere/tokenizer.json".into(),
        vocab_size: VOCAB,
        end_tokens: vec![END],
        num_slots: 4,
    };
    let grammars = Grammars::new(settings).unwrap();
    grammars.open(1, regex("a"), vec![END]).unwrap();
    assert!(allowed(&grammars, &[]).is_empty());
    assert!(grammars.fault(1).unwrap().unwrap().contains("/nowhere"));
}

#[test]
fn many_grammars_come_and_go_and_one_in_use_stays() {
    let grammars = grammars("many");
    grammars.open(1, regex("keep"), vec![END]).unwrap();
    for number in 0..200 {
        grammars
            .open(2, regex(&format!("x{number}")), vec![END])
            .unwrap();
    }
    assert!(grammars.library.len() <= library::MAX_GRAMMARS);
    assert_eq!(allowed(&grammars, &bytes("ke")), bytes("e"));
}
