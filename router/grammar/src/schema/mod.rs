//! JSON schemas in the form that is compiled: every keyword that the schema reaches is enforced, or the schema is refused by
//! its name. Knows the drafts' keywords; compiles nothing.

mod exclusive;
mod keywords;
mod references;

use std::collections::{HashSet, VecDeque};

use serde_json::{Map, Value, json};

use crate::GrammarError;
use exclusive::{MAX_VALUES, exclusive};
use keywords::{Children, Verdict, children, verdict};
use references::Pointer;

/// Steps of a path from the whole schema to one inside. The compiler recurses over them.
const MAX_DEPTH: usize = 64;
/// Between two parts of a JSON text: nothing, a space, or a new line and its indent. Without a bound a model may write
/// spaces until its tokens are used up.
const WHITESPACE: &str = r"[ ]|\r?\n[ \t]{0,40}";

/// The text of the schema as it is compiled. `parts` are the places in it of schemas that were written as documents of their
/// own, none within another.
///
/// # Errors
/// It is no schema, nests too deeply, or uses a keyword that cannot be enforced.
pub(crate) fn normalised(schema: Value, parts: &[String]) -> Result<String, GrammarError> {
    let mut schema = match schema {
        Value::Object(schema) => schema,
        // It would lose its options below.
        Value::Bool(true) => Map::new(),
        Value::Bool(false) => return Err(GrammarError::Empty),
        _ => {
            let message = "a JSON schema is an object".to_owned();
            return Err(GrammarError::Invalid(message));
        }
    };
    schema.shift_remove(OPTIONS);
    let whole = Value::Object(schema);
    let edits = Walk::new(&whole, parts).run()?;
    let mut schema = whole;
    for (place, edit) in edits {
        if let Some(Value::Object(schema)) = place.resolve_mut(&mut schema) {
            edit.apply(schema);
        }
    }
    if let Value::Object(schema) = &mut schema {
        let options = json!({"whitespace_flexible": true, "whitespace_pattern": WHITESPACE});
        schema.insert(OPTIONS.to_owned(), options);
    }
    Ok(schema.to_string())
}

/// Where llguidance looks for its own options; a client's would switch checks off.
const OPTIONS: &str = "x-guidance";

/// A change that leaves the schema's meaning as it is.
enum Edit {
    /// The keyword says nothing.
    Drop(String),
    /// The branches of `oneOf` exclude each other: it is an `anyOf`.
    Exclusive,
    /// `$ref` leads here, as the whole document says it.
    Refer(String),
}

impl Edit {
    fn apply(self, schema: &mut Map<String, Value>) {
        match self {
            Self::Drop(keyword) => {
                schema.shift_remove(&keyword);
            }
            Self::Exclusive => {
                if let Some(branches) = schema.shift_remove("oneOf") {
                    add_any_of(schema, branches);
                }
            }
            Self::Refer(target) => {
                schema.insert("$ref".to_owned(), Value::String(target));
            }
        }
    }
}

fn add_any_of(schema: &mut Map<String, Value>, branches: Value) {
    if !schema.contains_key("anyOf") {
        schema.insert("anyOf".to_owned(), branches);
        return;
    }
    let all = schema
        .entry("allOf")
        .or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(all) = all {
        all.push(json!({"anyOf": branches}));
    }
}

/// A walk over the schemas that the whole one reaches. Keeps a list instead of recursing: references may go on and on.
struct Walk<'a> {
    whole: &'a Value,
    /// Places that `#` means to the schemas in them.
    documents: Vec<Pointer>,
    seen: HashSet<Pointer>,
    pending: VecDeque<Pointer>,
    edits: Vec<(Pointer, Edit)>,
    /// Values that may still be looked at.
    values: usize,
}

impl<'a> Walk<'a> {
    fn new(whole: &'a Value, parts: &[String]) -> Self {
        let parts = parts.iter().filter_map(|part| Pointer::parse(part));
        Self {
            whole,
            documents: parts.chain([Pointer::root()]).collect(),
            seen: HashSet::new(),
            pending: VecDeque::from([Pointer::root()]),
            edits: Vec::new(),
            values: MAX_VALUES,
        }
    }

    /// What to change, the innermost first.
    fn run(mut self) -> Result<Vec<(Pointer, Edit)>, GrammarError> {
        while let Some(place) = self.pending.pop_front() {
            if place.depth() > MAX_DEPTH {
                return Err(GrammarError::TooDeep {
                    place: place.to_string(),
                    limit: MAX_DEPTH,
                });
            }
            let schema = place.resolve(self.whole);
            if let (Some(Value::Object(schema)), true) = (schema, self.seen.insert(place.clone())) {
                schema.iter().try_for_each(|(keyword, value)| {
                    self.keyword(schema, keyword, value, &place)
                })?;
            }
        }
        self.edits
            .sort_by_key(|(place, _)| std::cmp::Reverse(place.depth()));
        Ok(self.edits)
    }

    fn keyword(
        &mut self,
        schema: &Map<String, Value>,
        keyword: &str,
        value: &Value,
        place: &Pointer,
    ) -> Result<(), GrammarError> {
        let refused = |advice| {
            Err(GrammarError::Unenforceable {
                keyword: keyword.to_owned(),
                place: place.to_string(),
                advice,
            })
        };
        match verdict(schema, keyword, value, self.documents.contains(place)) {
            Verdict::Refuse(advice) => return refused(advice),
            Verdict::Drop => self.edit(place, Edit::Drop(keyword.to_owned())),
            Verdict::Keep if keyword == "$ref" => self.reference(value, place).or_else(refused)?,
            Verdict::Keep => self.children(keyword, value, place),
        }
        if keyword == "oneOf" && self.is_exclusive(value, place) {
            self.edit(place, Edit::Exclusive);
        }
        Ok(())
    }

    fn is_exclusive(&mut self, branches: &Value, place: &Pointer) -> bool {
        let document = self.document(place).resolve(self.whole);
        document.is_some_and(|document| exclusive(branches, document, &mut self.values))
    }

    /// The document that a schema was written in.
    fn document(&self, place: &Pointer) -> Pointer {
        let mut documents = self.documents.iter();
        let found = documents.find(|document| place.is_in(document));
        found.cloned().unwrap_or_else(Pointer::root)
    }

    fn edit(&mut self, place: &Pointer, edit: Edit) {
        self.edits.push((place.clone(), edit));
    }

    fn children(&mut self, keyword: &str, value: &Value, place: &Pointer) {
        let place = place.child(keyword);
        match (children(keyword), value) {
            (Children::Listed, Value::Array(list)) => {
                let places = (0..list.len()).map(|index| place.child(&index.to_string()));
                self.pending.extend(places);
            }
            (Children::Named, Value::Object(map)) => {
                let places = map.keys().map(|name| place.child(name));
                self.pending.extend(places);
            }
            (Children::Listed, Value::Object(_)) => self.pending.push_back(place),
            _ => {}
        }
    }

    /// Says what to do instead where it cannot be followed.
    fn reference(&mut self, value: &Value, place: &Pointer) -> Result<(), &'static str> {
        let text = value.as_str().ok_or("it must be a string")?;
        let target = Pointer::parse(text).ok_or(
            "refer to a place in the schema itself, as in `#/$defs/name`, without escaped characters",
        )?;
        let target = target.below(&self.document(place));
        if target.resolve(self.whole).is_none() {
            return Err("there is nothing at the place that it refers to");
        }
        self.edit(place, Edit::Refer(target.to_string()));
        self.pending.push_back(target);
        Ok(())
    }
}
