//! Where a model directory keeps its chat templates, and under which names.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::model_files::{LoadError, read_json, read_text};

/// The template of most conversations.
pub(super) const DEFAULT: &str = "default";
/// The one for conversations with tools, where a model has it.
pub(super) const TOOL_USE: &str = "tool_use";

/// Templates by name, and the file that they are from.
pub(super) struct Sources {
    pub(super) path: PathBuf,
    pub(super) named: Vec<(String, String)>,
}

/// The templates of a model directory: `chat_template.jinja` with what stands in `additional_chat_templates/`, else
/// `chat_template.json`, else `tokenizer_config.json`. `None` if there is no default one.
///
/// # Errors
/// A file is unreadable.
pub(super) fn find(model_path: &Path) -> Result<Option<Sources>, LoadError> {
    let path = model_path.join("chat_template.jinja");
    if let Some(default) = read_text(&path)? {
        let mut named = vec![(DEFAULT.to_owned(), default)];
        let additional = model_path.join("additional_chat_templates");
        let tool_use = read_text(&additional.join(format!("{TOOL_USE}.jinja")))?;
        named.extend(tool_use.map(|source| (TOOL_USE.to_owned(), source)));
        return Ok(Some(Sources { path, named }));
    }
    for name in ["chat_template.json", "tokenizer_config.json"] {
        let path = model_path.join(name);
        let named = read_json(&path)?.as_ref().and_then(named_templates);
        if let Some(named) = named {
            return Ok(Some(Sources { path, named }));
        }
    }
    Ok(None)
}

/// A template written as a string, or as a list of named ones with a default.
fn named_templates(config: &Value) -> Option<Vec<(String, String)>> {
    let template = config.get("chat_template")?;
    if let Some(source) = template.as_str() {
        return Some(vec![(DEFAULT.to_owned(), source.to_owned())]);
    }
    let text = |entry: &Value, key| Some(entry.get(key)?.as_str()?.to_owned());
    let named = |entry| Some((text(entry, "name")?, text(entry, "template")?));
    let list: Vec<_> = template.as_array()?.iter().filter_map(named).collect();
    let has_default = list.iter().any(|(name, _)| name == DEFAULT);
    has_default.then_some(list)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_of_its_own_comes_first_then_the_json_then_the_tokenizers_settings() {
        let place = format!("ribbon-templates-{}", std::process::id());
        let directory = std::env::temp_dir().join(place);
        std::fs::create_dir_all(&directory).unwrap();
        let files = [
            (
                "tokenizer_config.json",
                r#"{"chat_template": "settings"}"#,
                "settings",
            ),
            ("chat_template.json", r#"{"chat_template": "json"}"#, "json"),
            ("chat_template.jinja", "jinja", "jinja"),
        ];
        for (name, content, expected) in files {
            std::fs::write(directory.join(name), content).unwrap();
            let found = find(&directory).unwrap().unwrap();
            assert_eq!(found.named, [(DEFAULT.to_owned(), expected.to_owned())]);
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn named_templates_need_a_default() {
        let both =
            json!([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]);
        let expected =
            [("tool_use", "t"), ("default", "d")].map(|(n, t)| (n.to_owned(), t.to_owned()));
        let found = named_templates(&json!({"chat_template": both}));
        assert_eq!(found.as_deref(), Some(&expected[..]));
        assert_eq!(
            named_templates(&json!({"chat_template": "s"})),
            Some(vec![("default".to_owned(), "s".to_owned())])
        );
        assert_eq!(named_templates(&json!({})), None);
        let without = json!({"chat_template": [{"name": "tool_use", "template": "t"}]});
        assert_eq!(named_templates(&without), None);
    }
}
