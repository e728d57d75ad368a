//! The page about flags, made from the flags themselves. Knows no process.

use std::io::Write;

use clap::{Arg, builder::StyledStr};

use crate::{
    args,
    tgi_flags::{UNBUILT, UnbuiltFlag},
};

/// First argument of a launcher that only prints the page.
pub(crate) const SUBCOMMAND: &str = "print-flags";

const HEAD: &str = "<!-- Made by `ribbon-launcher print-flags` (`make docs`): edit launcher/src/args.rs instead. -->
# Flags and environment variables

Every flag of `ribbon-launcher` has an environment variable; the command line wins over it. Switches take no value on the
command line; their variables are `true` or `false`. A variable that is set but empty is an error, and so is an unknown flag.
Mistakes end the launcher with exit code 2.

| Flag | Variable | Default | Meaning |
| --- | --- | --- | --- |
";

const REFUSED: &str = "
## Flags of TGI that are not built yet

They are refused by name, on the command line and as variables, unless their value asks for nothing.

";

/// Prints the page. A closed stdout is nobody's loss.
pub(crate) fn print() {
    let _ = std::io::stdout().lock().write_all(page().as_bytes());
}

fn page() -> String {
    let rows: String = args::command()
        .get_arguments()
        .filter(|arg| !arg.is_hide_set())
        .filter_map(row)
        .collect();
    let refused: Vec<String> = UNBUILT.iter().map(refused).collect();
    format!("{HEAD}{rows}{REFUSED}{}\n", refused.join(", "))
}

fn row(arg: &Arg) -> Option<String> {
    let long = arg
        .get_long()
        .filter(|long| !["help", "version"].contains(long))?;
    let short = arg
        .get_short()
        .map(|short| format!(", `-{short}`"))
        .unwrap_or_default();
    let variable = arg
        .get_env()
        .map_or_else(dash, |name| format!("`{}`", name.to_string_lossy()));
    let default = arg
        .get_default_values()
        .first()
        .map_or_else(dash, |value| format!("`{}`", value.to_string_lossy()));
    let values: Vec<String> = arg
        .get_possible_values()
        .iter()
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    let values = if values.is_empty() || !arg.get_action().takes_values() {
        String::new()
    } else {
        format!(" One of {}.", values.join(", "))
    };
    let help = arg.get_help().map(StyledStr::to_string).unwrap_or_default();
    Some(format!(
        "| `--{long}`{short} | {variable} | {default} | {help}.{values} |\n"
    ))
}

/// Nothing there.
fn dash() -> String {
    "–".to_owned()
}

fn refused(flag: &UnbuiltFlag) -> String {
    format!("`--{}`", flag.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_the_repository_is_current() {
        let written = include_str!("../../docs/reference/flags.md");
        assert!(
            written == page(),
            "docs/reference/flags.md is out of date: run `make docs`"
        );
    }

    #[test]
    fn every_flag_has_a_row_with_its_meaning() {
        for line in page().lines().filter(|line| line.starts_with("| `--")) {
            assert!(!line.contains("| . |"), "{line}");
        }
    }
}
