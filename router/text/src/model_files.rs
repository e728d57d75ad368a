//! Reads the small JSON files of a model directory. Knows which ones may be absent.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde_json::Value;
use thiserror::Error;

/// Why the text side of a model directory is not usable.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A file that must be there is not.
    #[error("{} is missing: the directory must hold a fast tokenizer (save it with `save_pretrained` of a fast tokenizer)", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file is there and cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} is not usable: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The file's text; `None` if it is not there.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>, LoadError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LoadError::Unreadable {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The file's JSON object; `None` if the file is not there.
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>, LoadError> {
    let Some(text) = read_text(path)? else {
        return Ok(None);
    };
    let value: Value = serde_json::from_str(&text).map_err(|error| LoadError::Invalid {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    if value.is_object() {
        return Ok(Some(value));
    }
    Err(LoadError::Invalid {
        path: path.to_owned(),
        reason: "not a JSON object".to_owned(),
    })
}

/// A special token's text, written as a string or as `{"content": …}`.
pub(crate) fn token_text(config: Option<&Value>, name: &str) -> Option<String> {
    let token = config?.get(name)?;
    let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
    Some(text.to_owned())
}
