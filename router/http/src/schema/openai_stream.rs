//! Events of the OpenAI routes.

use std::collections::BTreeSet;

use bytes::{BufMut, BytesMut};

use crate::{
    error::ApiError,
    running::{Running, Step},
    schema::{
        openai::UsageReport,
        openai_answer::{
            Choice, Head, Kind, Logprobs, Message, Object, Said, TokenLogprob, Usage, spelled,
        },
    },
    sse::{EventWriter, event},
};

/// Writes an OpenAI stream.
pub(crate) struct OpenAiWriter {
    head: Head,
    kind: Kind,
    usage: UsageReport,
    with_logprobs: bool,
    /// Choices that have begun.
    begun: BTreeSet<usize>,
}

impl OpenAiWriter {
    pub(crate) fn new(head: Head, kind: Kind, usage: UsageReport, with_logprobs: bool) -> Self {
        Self {
            head,
            kind,
            usage,
            with_logprobs,
            begun: BTreeSet::new(),
        }
    }

    fn said<'a>(&self, index: usize, text: &'a str) -> Said<'a> {
        match self.kind {
            Kind::Chat => Said::Delta(Message {
                role: (!self.begun.contains(&index)).then_some("assistant"),
                content: text,
            }),
            Kind::Completion => Said::Text(text),
        }
    }

    fn usage(&self, sequence: &Running, is_last: bool) -> Option<Usage> {
        let shown = match self.usage {
            UsageReport::Always => true,
            UsageReport::Default => is_last && self.kind == Kind::Completion,
            UsageReport::AtEnd => false,
        };
        shown.then(|| Usage::of([sequence]))
    }
}

impl EventWriter for OpenAiWriter {
    fn step(&mut self, index: usize, sequence: &Running, step: &Step, out: &mut BytesMut) {
        let says_something =
            !sequence.piece().is_empty() || step.finish.is_some() || self.with_logprobs;
        if self.begun.contains(&index) && !says_something {
            return;
        }
        let logprob = || Logprobs {
            content: vec![TokenLogprob::new(&sequence.tokenizer, &step.token)],
        };
        let choice = Choice {
            index,
            said: self.said(index, sequence.piece()),
            logprobs: self.with_logprobs.then(logprob),
            finish_reason: step.finish.map(spelled),
        };
        let usage = self.usage(sequence, step.finish.is_some());
        event(
            out,
            &Object {
                head: &self.head,
                choices: &[choice],
                usage,
            },
        );
        self.begun.insert(index);
    }

    fn end(&mut self, sequences: &[Running], out: &mut BytesMut) {
        if self.usage != UsageReport::Default {
            event(
                out,
                &Object {
                    head: &self.head,
                    choices: &[],
                    usage: Some(Usage::of(sequences)),
                },
            );
        }
        out.put_slice(b"data: [DONE]\n\n");
    }

    fn error(&mut self, error: &ApiError, out: &mut BytesMut) {
        event(out, &error.openai_body());
        out.put_slice(b"data: [DONE]\n\n");
    }
}
