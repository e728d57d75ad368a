//! Fixed strings in a text that is still arriving: what begins with one, and what may yet become one.

/// A fixed string that a model writes around parts of its answer.
pub(crate) type Marker = &'static str;

/// What a text begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Space or a marker of so many bytes, whatever follows.
    Whole(usize),
    /// Perhaps a marker; more text will tell.
    Undecided,
    /// None of them.
    Other,
}

/// What a text begins with: space, or the longest of the markers. `is_last` says that no more text comes.
pub(crate) fn begin_of(text: &str, markers: &[Marker], is_last: bool) -> Begin {
    let space = text.len() - text.trim_start().len();
    let may_grow = |marker: &&&str| marker.len() > text.len() && marker.starts_with(text);
    let found = markers.iter().filter(|marker| text.starts_with(**marker));
    match found.map(|marker| marker.len()).max() {
        _ if text.is_empty() => Begin::Undecided,
        _ if space > 0 => Begin::Whole(space),
        _ if !is_last && markers.iter().any(|marker| may_grow(&marker)) => Begin::Undecided,
        Some(length) => Begin::Whole(length),
        None => Begin::Other,
    }
}

/// The first marker in a text, and where it begins.
pub(crate) fn first_of(text: &str, markers: &[Marker]) -> Option<(usize, Marker)> {
    let found = markers.iter();
    let found = found.filter_map(|&marker| Some((text.find(marker)?, marker)));
    found.min_by_key(|(at, _)| *at)
}

/// Bytes at the end of a text that may be the beginning of a marker, with the space before them.
pub(crate) fn held_back(text: &str, markers: &[Marker]) -> usize {
    let begun = markers.iter().map(|marker| begun(text, marker)).max();
    let shown = text.len() - begun.unwrap_or(0);
    text.len() - text.get(..shown).unwrap_or_default().trim_end().len()
}

/// Bytes of the marker that the text ends with.
fn begun(text: &str, marker: Marker) -> usize {
    let lengths = (1..marker.len()).rev();
    let ends_with = |&length: &usize| {
        marker
            .get(..length)
            .is_some_and(|head| text.ends_with(head))
    };
    lengths.into_iter().find(ends_with).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_marker_counts_and_a_beginning_of_one_waits() {
        let markers = ["[", "[[A]]", "x"];
        assert_eq!(begin_of("[b", &markers, false), Begin::Whole(1));
        assert_eq!(begin_of("[[A]]b", &markers, false), Begin::Whole(5));
        assert_eq!(begin_of("[[A", &markers, false), Begin::Undecided);
        assert_eq!(begin_of("[[A", &markers, true), Begin::Whole(1));
        assert_eq!(begin_of(" \n[", &markers, false), Begin::Whole(2));
        assert_eq!(begin_of("y", &markers, false), Begin::Other);
        assert_eq!(begin_of("", &markers, true), Begin::Undecided);
    }

    #[test]
    fn space_before_a_possible_marker_is_held_too() {
        assert_eq!(held_back("é \n<to", &["<tool>"]), 5);
        assert_eq!(held_back("é <b", &["<tool>"]), 0);
        assert_eq!(held_back("a ", &["<tool>"]), 1);
        assert_eq!(held_back("<<", &["<tool>", "<<<"]), 2);
    }
}
