//! How `--kv-memory` may be spelled. The shard reads it; `kv_memory_spellings.json` binds both programs to one grammar.

const UNITS: [&str; 7] = ["", "KiB", "MiB", "GiB", "KB", "MB", "GB"];

/// Says what is wrong with a spelling.
pub(crate) fn check(text: &str) -> Result<(), &'static str> {
    let text = text.trim();
    let digits = text
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let value = number_of(number).filter(|_| UNITS.contains(&unit.trim_start()));
    match value {
        None => Err("give bytes (268435456), a size (256MiB, 4GiB) or a fraction (0.4)"),
        Some(value) if unit.is_empty() && number.contains('.') => {
            if value > 0.0 && value <= 1.0 {
                Ok(())
            } else {
                Err("a fraction lies above 0 and is at most 1.0")
            }
        }
        Some(0.0) => Err("a shard needs KV memory, leave the flag out for the default"),
        Some(_) => Ok(()),
    }
}

/// Digits, and after a point more of them.
fn number_of(text: &str) -> Option<f64> {
    let is_whole = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts_are_whole = text.splitn(2, '.').all(is_whole);
    parts_are_whole.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_are_judged_as_the_shard_judges_them() {
        let table = include_str!("../kv_memory_spellings.json");
        let table: serde_json::Value = serde_json::from_str(table).expect("JSON");
        for (verdict, is_good) in [("good", true), ("bad", false)] {
            for spelling in table[verdict].as_array().expect("a list") {
                let text = spelling.as_str().expect("text");
                assert_eq!(check(text).is_ok(), is_good, "{text:?}");
            }
        }
    }
}
