//! The router's log on stdout: text with file and line, or flat JSON.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt};

use crate::{args::Args, error::RouterError};

/// Sets up logging.
///
/// # Errors
/// [`RouterError::Arguments`] when the level is neither a level nor a filter.
pub(crate) fn start(args: &Args) -> Result<(), RouterError> {
    let builder = fmt()
        .with_env_filter(filter(&args.log_level)?)
        .with_file(true)
        .with_line_number(true)
        .with_ansi(colours(&args.log_colorize));
    if args.json_output {
        builder.json().flatten_event(true).init();
    } else {
        builder.init();
    }
    Ok(())
}

fn filter(level: &str) -> Result<EnvFilter, RouterError> {
    let directives = match level.to_lowercase().as_str() {
        "" => "warn,ribbon=info".to_owned(),
        plain @ ("error" | "warn" | "info" | "debug" | "trace" | "off") => {
            format!("warn,ribbon={plain}")
        }
        _ => level.to_owned(),
    };
    EnvFilter::try_new(directives).map_err(|error| {
        RouterError::Arguments(format!(
            "LOG_LEVEL is `{level}`: {error}; use error, warn, info, debug or trace"
        ))
    })
}

fn colours(wish: &str) -> bool {
    match wish {
        "0" | "false" => false,
        "1" | "true" => true,
        _ => std::io::stdout().is_terminal(),
    }
}
