//! Events of the OpenAI routes.

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};

use crate::{
    error::ApiError,
    running::{Running, Step},
    schema::{
        chat_message::Message,
        completion_logprobs::CompletionLogprobs,
        openai::UsageReport,
        openai_answer::{
            Choice, Head, Kind, Logprobs, Look, Object, Said, TokenLogprob, Usage, behind, spelled,
        },
    },
    sse::{EventWriter, event},
};

/// Writes an OpenAI stream.
pub(crate) struct OpenAiWriter {
    head: Head,
    look: Look,
    usage: UsageReport,
    /// Sequences with one prompt.
    run: u32,
    /// Choices that have begun, and the characters of the prompt that each begins with.
    begun: BTreeMap<usize, usize>,
}

impl OpenAiWriter {
    pub(crate) fn new(head: Head, look: Look, usage: UsageReport, run: u32) -> Self {
        Self {
            head,
            look,
            usage,
            run,
            begun: BTreeMap::new(),
        }
    }

    fn said<'a>(&self, index: usize, echoed: &str, sequence: &'a Running) -> Said<'a> {
        match self.look.kind {
            Kind::Chat => Said::Delta(Message::delta(sequence, !self.begun.contains_key(&index))),
            Kind::Completion => Said::Text(behind(echoed, sequence.piece())),
        }
    }

    /// Of one token; `echoed` is the prompt, if the choice begins with it and now.
    fn logprobs(
        &self,
        index: usize,
        echoed: &str,
        (sequence, step): (&Running, &Step),
    ) -> Option<Logprobs> {
        let num_top = self.look.logprobs?;
        let tokenizer = &sequence.tokenizer;
        if self.look.kind == Kind::Chat {
            let tokens = step.token.iter();
            let content = tokens.map(|token| TokenLogprob::new(tokenizer, token, num_top));
            return Some(Logprobs::Chat {
                content: content.collect(),
            });
        }
        let mut lists = CompletionLogprobs::default();
        let begin = if let Some(characters) = self.begun.get(&index) {
            *characters
        } else {
            lists.push_prompt(sequence, num_top, echoed);
            echoed.chars().count()
        };
        if let Some(token) = &step.token {
            lists.push(tokenizer, token, num_top, begin + sequence.place());
        }
        Some(Logprobs::Completion(lists))
    }

    fn usage(&self, sequence: &Running, is_last: bool) -> Option<Usage> {
        let shown = match self.usage {
            UsageReport::Always => true,
            UsageReport::Default => is_last && self.look.kind == Kind::Completion,
            UsageReport::AtEnd => false,
        };
        shown.then(|| Usage::of_choice(sequence))
    }

    /// The usage of all choices, where it was asked for.
    fn total(&self, sequences: &[Running], out: &mut BytesMut) {
        if self.usage != UsageReport::Default {
            event(
                out,
                &Object {
                    head: &self.head,
                    choices: &[],
                    usage: Some(Usage::of(sequences)),
                    prompt_logprobs: None,
                },
            );
        }
    }
}

impl EventWriter for OpenAiWriter {
    fn step(&mut self, index: usize, sequence: &Running, step: &Step, out: &mut BytesMut) {
        let is_first = !self.begun.contains_key(&index);
        let says_something =
            sequence.says_something() || step.finish.is_some() || self.look.logprobs.is_some();
        if !is_first && !says_something {
            return;
        }
        let echoed = if is_first {
            self.look.echoed(index, self.run).to_owned()
        } else {
            String::new()
        };
        let choice = Choice {
            index,
            said: self.said(index, &echoed, sequence),
            logprobs: self.logprobs(index, &echoed, (sequence, step)),
            finish_reason: step.finish.map(|finish| spelled(finish, sequence)),
            prompt_logprobs: None,
        };
        let usage = self.usage(sequence, step.finish.is_some());
        event(
            out,
            &Object {
                head: &self.head,
                choices: &[choice],
                usage,
                prompt_logprobs: None,
            },
        );
        let begun = self.begun.entry(index);
        begun.or_insert_with(|| echoed.chars().count());
    }

    fn end(&mut self, sequences: &[Running], out: &mut BytesMut) {
        self.total(sequences, out);
        out.put_slice(b"data: [DONE]\n\n");
    }

    fn error(&mut self, error: &ApiError, sequences: &[Running], out: &mut BytesMut) {
        // Clients stop reading at an error, so the usage comes before it.
        self.total(sequences, out);
        event(out, &error.openai_body());
        out.put_slice(b"data: [DONE]\n\n");
    }
}
