//! The launcher's own log, and the shards' JSON lines said again in it. Knows no process.

use serde_json::{Map, Value};
use tracing::{Level, debug, error, info, trace, warn};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::error::LaunchError;

/// Sets up logging to stdout and returns the level that shards should log at.
///
/// # Errors
/// [`LaunchError::Arguments`] when `level` is neither a level nor a filter.
pub(crate) fn start(level: &str, json: bool, colours: bool) -> Result<&'static str, LaunchError> {
    let filter = filter(level)?;
    let shard_level = shard_level(filter.max_level_hint());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours);
    if json {
        builder.json().init();
    } else {
        builder.compact().init();
    }
    Ok(shard_level)
}

fn filter(level: &str) -> Result<EnvFilter, LaunchError> {
    let directives = match level.to_lowercase().as_str() {
        plain @ ("error" | "warn" | "info" | "debug" | "trace" | "off") => {
            format!("warn,ribbon_launcher={plain},ribbon_shard={plain}")
        }
        _ => level.to_owned(),
    };
    EnvFilter::try_new(directives)
        .map_err(|error| LaunchError::Arguments(format!("the environment variable LOG_LEVEL is `{level}`: {error}; use error, warn, info, debug or trace")))
}

fn shard_level(level: Option<LevelFilter>) -> &'static str {
    match level.and_then(LevelFilter::into_level) {
        Some(Level::TRACE | Level::DEBUG) => "DEBUG",
        Some(Level::WARN) => "WARNING",
        Some(Level::ERROR) => "ERROR",
        _ => "INFO",
    }
}

/// A line that a shard or a download wrote on stderr.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    level: Level,
    /// What it says.
    pub(crate) message: String,
    fields: String,
}

impl Record {
    /// Reads a JSON log line; anything else is a message at debug level.
    pub(crate) fn parse(line: &str) -> Self {
        match serde_json::from_str(line) {
            Ok(Value::Object(record)) if record.contains_key("message") => Self::from_json(record),
            _ => Self {
                level: Level::DEBUG,
                message: line.to_owned(),
                fields: String::new(),
            },
        }
    }

    fn from_json(mut record: Map<String, Value>) -> Self {
        let level = level(&take_text(&mut record, "level"));
        let message = take_text(&mut record, "message");
        record.remove("timestamp");
        record.remove("target");
        let fields = if record.is_empty() {
            String::new()
        } else {
            Value::Object(record).to_string()
        };
        Self {
            level,
            message,
            fields,
        }
    }

    /// The record says why the process ends.
    pub(crate) fn is_error(&self) -> bool {
        self.level == Level::ERROR
    }

    /// Logs it as ours, with the rank it came from.
    pub(crate) fn log(&self, rank: u32) {
        let Self {
            level,
            message,
            fields,
        } = self;
        match *level {
            Level::TRACE => trace!(target: "ribbon_shard", rank, "{message} {fields}"),
            Level::DEBUG => debug!(target: "ribbon_shard", rank, "{message} {fields}"),
            Level::INFO => info!(target: "ribbon_shard", rank, "{message} {fields}"),
            Level::WARN => warn!(target: "ribbon_shard", rank, "{message} {fields}"),
            Level::ERROR => error!(target: "ribbon_shard", rank, "{message} {fields}"),
        }
    }
}

fn take_text(record: &mut Map<String, Value>, key: &str) -> String {
    match record.remove(key) {
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

fn level(name: &str) -> Level {
    match name.to_ascii_uppercase().as_str() {
        "TRACE" => Level::TRACE,
        "DEBUG" => Level::DEBUG,
        "WARNING" | "WARN" => Level::WARN,
        "ERROR" | "CRITICAL" => Level::ERROR,
        _ => Level::INFO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_python_are_mapped() {
        for (name, expected) in [
            ("TRACE", Level::TRACE),
            ("DEBUG", Level::DEBUG),
            ("INFO", Level::INFO),
            ("SUCCESS", Level::INFO),
            ("WARNING", Level::WARN),
            ("ERROR", Level::ERROR),
            ("CRITICAL", Level::ERROR),
        ] {
            let line = format!(r#"{{"level":"{name}","message":"x"}}"#);
            assert_eq!(Record::parse(&line).level, expected, "{name}");
        }
    }

    #[test]
    fn extra_fields_are_kept_and_the_clock_is_dropped() {
        let record = Record::parse(
            r#"{"timestamp":"t","level":"INFO","target":"m","message":"loaded","ms":12}"#,
        );
        assert_eq!(
            (record.message.as_str(), record.fields.as_str()),
            ("loaded", r#"{"ms":12}"#)
        );
    }

    #[test]
    fn what_is_no_record_is_a_message_at_debug_level() {
        for line in [
            "Traceback (most recent call last):",
            "[1]",
            r#"{"level":"ERROR"}"#,
            "",
        ] {
            let record = Record::parse(line);
            assert_eq!(
                (record.level, record.message.as_str()),
                (Level::DEBUG, line)
            );
        }
    }

    #[test]
    fn a_level_that_is_none_is_refused_by_name() {
        let message = filter("a=b=c").expect_err("no filter").to_string();
        assert!(
            message.contains("LOG_LEVEL") && message.contains("a=b=c"),
            "{message}"
        );
    }

    #[test]
    fn shards_log_at_the_level_of_the_filter() {
        for (level, expected) in [
            ("info", "INFO"),
            ("debug", "DEBUG"),
            ("trace", "DEBUG"),
            ("error", "WARNING"),
        ] {
            let hint = filter(level).expect("a filter").max_level_hint();
            assert_eq!(shard_level(hint), expected, "{level}");
        }
    }
}
