//! Lines of any length from a pipe, in bounded memory. Knows not what they say.

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, BufReader};

/// Bytes of a line that are kept; the rest of a longer one is read and dropped.
const MAX_LINE_BYTES: usize = 1 << 20;

/// Reads lines from a pipe.
#[derive(Debug)]
pub(crate) struct Lines<R>(BufReader<R>);

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Takes over the reading end.
    pub(crate) fn new(pipe: R) -> Self {
        Self(BufReader::new(pipe))
    }

    /// The next line without its end, `None` when the writer is gone. Bytes that are no UTF-8 become replacement characters.
    pub(crate) async fn next(&mut self) -> Option<String> {
        let mut line = Vec::new();
        let mut cut = false;
        loop {
            let (used, complete) = take_part(&mut self.0, &mut line, &mut cut).await?;
            self.0.consume(used);
            if complete {
                return Some(text(&line, cut));
            }
        }
    }
}

/// Copies what is buffered, up to the line's end. `None` at the end of input with nothing kept.
async fn take_part<R: AsyncBufRead + Unpin>(
    reader: &mut R,
    line: &mut Vec<u8>,
    cut: &mut bool,
) -> Option<(usize, bool)> {
    let buffered = reader.fill_buf().await.unwrap_or_default();
    if buffered.is_empty() {
        return (!line.is_empty()).then_some((0, true));
    }
    let end = buffered.iter().position(|byte| *byte == b'\n');
    let part = buffered.split_at(end.unwrap_or(buffered.len())).0;
    let room = MAX_LINE_BYTES - line.len();
    *cut |= part.len() > room;
    line.extend(part.iter().take(room));
    Some((part.len() + usize::from(end.is_some()), end.is_some()))
}

fn text(line: &[u8], cut: bool) -> String {
    let mut text = String::from_utf8_lossy(line)
        .trim_end_matches('\r')
        .to_owned();
    if cut {
        text.push_str(" … (cut)");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(input: &[u8]) -> Vec<String> {
        let mut lines = Lines(BufReader::with_capacity(7, input));
        let mut found = Vec::new();
        while let Some(line) = lines.next().await {
            found.push(line);
        }
        found
    }

    #[tokio::test]
    async fn lines_longer_than_the_buffer_arrive_whole() {
        let long = "x".repeat(100_000);
        assert_eq!(
            all(format!("a\n\n{long}\r\nlast").as_bytes()).await,
            ["a", "", long.as_str(), "last"]
        );
    }

    #[tokio::test]
    async fn a_line_over_the_limit_is_cut_and_the_next_one_is_whole() {
        let input = [vec![b'x'; MAX_LINE_BYTES + 10], b"\nnext\n".to_vec()].concat();
        let found = all(&input).await;
        assert!(found[0].ends_with("(cut)") && found[0].len() < MAX_LINE_BYTES + 20);
        assert_eq!(found[1], "next");
    }

    #[tokio::test]
    async fn bytes_that_are_no_text_do_not_end_the_reading() {
        assert_eq!(all(b"\xff\xfe\nb\n").await, ["\u{fffd}\u{fffd}", "b"]);
    }
}
