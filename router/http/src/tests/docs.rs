//! The table of errors and its page say the same.

use std::fmt::Write as _;

use crate::error::rows;

fn page() -> String {
    let path =
        std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/errors.md");
    std::fs::read_to_string(path).unwrap()
}

fn table() -> String {
    let mut lines = String::new();
    for row in rows() {
        let error_type = row
            .error_type
            .map_or("plain text".to_owned(), |name| format!("`{name}`"));
        let code = row
            .openai_code
            .map_or("null".to_owned(), |code| format!("`{code}`"));
        let retry = row
            .retry_after
            .map_or("–".to_owned(), |seconds| format!("{seconds} s"));
        let (native, openai) = (row.native.as_u16(), row.openai.as_u16());
        writeln!(
            lines,
            "| {:?} | {native} | {error_type} | {openai} | `{}` | {code} | `{}` | {retry} |",
            row.cause, row.openai_type, row.label
        )
        .unwrap();
    }
    lines
}

#[test]
fn the_page_has_the_table() {
    assert!(
        page().contains(&table()),
        "docs/reference/errors.md must contain:\n{}",
        table()
    );
}

#[test]
fn every_cause_has_exactly_one_row() {
    for row in rows() {
        assert_eq!(rows().filter(|other| other.cause == row.cause).count(), 1);
        assert!(std::ptr::eq(row.cause.row(), row));
    }
}
