//! How models write tool calls: one row for each way. Knows strings; not how they are read.

use crate::markers::Marker;

/// What one call looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A JSON object with a name and arguments.
    Object,
    /// The name, one of these strings, then the arguments as a JSON object.
    Named(&'static [&'static str]),
    /// A call as Python writes it, with keyword arguments.
    Python,
}

impl Entry {
    /// Whether a text that is not empty may begin with one.
    pub(crate) fn may_begin(self, text: &str) -> bool {
        text.starts_with(|c: char| match self {
            Self::Object => c == '{',
            Self::Named(_) | Self::Python => is_name_char(c),
        })
    }
}

/// Characters that names of functions have.
pub(crate) fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// A way to write tool calls. No marker contains another of the same list.
#[derive(Debug, PartialEq, Eq)]
pub struct ToolFormat {
    /// What people call it.
    pub name: &'static str,
    /// A chat template of this format contains all of one of these lists.
    templates: &'static [&'static [&'static str]],
    /// What begins calls; if there are none, the whole answer is calls or none of it is.
    pub(crate) begins: &'static [Marker],
    /// What may stand around a call.
    pub(crate) glue: &'static [Marker],
    /// One call.
    pub entry: Entry,
}

impl ToolFormat {
    /// The format of the models that this template is for; absent where the template has no tools.
    pub(crate) fn of_template(source: &str, has_tools: bool) -> Option<&'static Self> {
        let fits = |format: &&Self| {
            let mut lists = format.templates.iter();
            lists.any(|words| words.iter().all(|word| source.contains(word)))
        };
        let found = FORMATS.iter().find(fits);
        has_tools.then(|| found.unwrap_or(&GENERIC))
    }

    /// Every marker, for those that are single tokens.
    pub(crate) fn markers(&self) -> impl Iterator<Item = Marker> {
        let separators: &[Marker] = match self.entry {
            Entry::Named(separators) => separators,
            Entry::Object | Entry::Python => &[],
        };
        let lists = [self.begins, self.glue, separators];
        lists.into_iter().flatten().copied()
    }
}

/// Calls as bare JSON objects, one or a list: what a model does that knows no other way.
pub static GENERIC: ToolFormat = ToolFormat {
    name: "json",
    templates: &[],
    begins: &[],
    glue: &["[", "]", ",", ";", "```json", "```"],
    entry: Entry::Object,
};

/// The first that fits a template counts.
pub(crate) static FORMATS: [ToolFormat; 10] = [
    ToolFormat {
        name: "deepseek",
        templates: &[&["<｜tool▁call▁begin｜>"]],
        begins: &["<｜tool▁calls▁begin｜>"],
        glue: &[
            "<｜tool▁call▁begin｜>",
            "function<｜tool▁sep｜>",
            "```",
            "<｜tool▁call▁end｜>",
            "<｜tool▁calls▁end｜>",
        ],
        entry: Entry::Named(&["\n```json\n", "<｜tool▁sep｜>"]),
    },
    // Since its tokenizer v11 the name stands before the arguments.
    ToolFormat {
        name: "mistral-named",
        templates: &[&["[TOOL_CALLS]", "[ARGS]"]],
        begins: &["[TOOL_CALLS]"],
        glue: &["[TOOL_CALLS]"],
        entry: Entry::Named(&["[ARGS]"]),
    },
    ToolFormat {
        name: "mistral",
        templates: &[&["[TOOL_CALLS]"]],
        begins: &["[TOOL_CALLS]"],
        glue: &["[", "]", ",", "[TOOL_CALLS]"],
        entry: Entry::Object,
    },
    ToolFormat {
        name: "granite",
        templates: &[&["<|tool_call|>"], &["<|tool|>", "<|/tool|>"]],
        begins: &["<|tool_call|>", "<tool_call>"],
        glue: &["[", "]", ",", "<|/tool_call|>", "</tool_call>"],
        entry: Entry::Object,
    },
    ToolFormat {
        name: "hermes",
        templates: &[&["<tool_call>"]],
        begins: &["<tool_call>"],
        glue: &["<tool_call>", "</tool_call>"],
        entry: Entry::Object,
    },
    ToolFormat {
        name: "internlm",
        templates: &[&["<|plugin|>"]],
        begins: &["<|action_start|>"],
        glue: &["<|action_start|>", "<|plugin|>", "<|action_end|>"],
        entry: Entry::Object,
    },
    ToolFormat {
        name: "command-r7b",
        templates: &[&["<|START_ACTION|>"]],
        begins: &["<|START_ACTION|>"],
        glue: &["[", "]", ",", "<|END_ACTION|>"],
        entry: Entry::Object,
    },
    ToolFormat {
        name: "command-r",
        templates: &[&["Action:", "```json", "tool_name"]],
        begins: &["Action:"],
        glue: &["```json", "```", "[", "]", ","],
        entry: Entry::Object,
    },
    ToolFormat {
        name: "pythonic",
        templates: &[&["func_name1("], &["<|python_start|>"]],
        begins: &[],
        glue: &["<|python_start|>", "<|python_end|>", "[", "]", ","],
        entry: Entry::Python,
    },
    ToolFormat {
        name: "llama",
        templates: &[
            &["<|python_tag|>"],
            &["\"name\": function name, \"parameters\": dictionary"],
        ],
        begins: &[],
        glue: &["<|python_tag|>", ";"],
        entry: Entry::Object,
    },
];
