//! Which computed tokens lie in which storage: a radix tree over token ids whose nodes are storages. Knows tokens and storage
//! numbers; not pages, not slots.
//!
//! A node's label is what its storage holds from where it diverges from its parent; children hang at any token of a label, so
//! no edge is ever split. A storage that repeats what another one holds already has no node until it diverges: its
//! [`Writer`] follows the tree meanwhile.

mod domain;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use ribbon_core::Storage;

pub(crate) use self::domain::Domain;
use crate::history::History;

/// Tokens up to `end` that lie in `storage`, from the end of the span before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) storage: Storage,
    pub(crate) end: u32,
}

/// Children by the token index they hang at and their own first token.
type Children = BTreeMap<(u32, u32), Storage>;

#[derive(Debug)]
struct Node {
    domain: Domain,
    /// `None`: it hangs on the root of its domain.
    parent: Option<Storage>,
    /// Token index at which it hangs, and its label begins.
    from: u32,
    /// Never empty.
    label: Vec<u32>,
    children: Children,
    /// A child's first token is also the label's there: the way on is not unique.
    has_shadows: bool,
    /// Changes when the storage is cut or used anew: places in it from before mean nothing.
    stamp: u64,
}

impl Node {
    fn end(&self) -> u32 {
        self.from + self.label.len() as u32
    }

    fn label_from(&self, at: u32) -> &[u32] {
        let skipped = at.saturating_sub(self.from) as usize;
        self.label.get(skipped..).unwrap_or_default()
    }
}

/// A token index on a way through the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Storage and stamp; `None`: the root.
    node: Option<(Storage, u64)>,
    end: u32,
}

/// How far what a slot computes is in the tree.
#[derive(Debug)]
pub(crate) struct Writer {
    domain: Domain,
    storage: Storage,
    /// First token of the storage.
    start: u32,
    /// Tokens of its history that the tree has, wherever.
    end: u32,
    /// Where, while the storage has no node of its own.
    follows: Option<Place>,
}

impl Writer {
    /// Whether its storage holds something that no other does.
    pub(crate) fn has_node(&self) -> bool {
        self.follows.is_none()
    }
}

/// The longest known prefix of a history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hit {
    /// Oldest first; each storage holds the tokens of its span.
    pub(crate) spans: Vec<Span>,
}

impl Hit {
    /// Tokens it covers.
    pub(crate) fn end(&self) -> u32 {
        self.spans.last().map_or(0, |span| span.end)
    }
}

/// All domains of one generation of shards.
#[derive(Debug, Default)]
pub(crate) struct PrefixTree {
    /// By storage number.
    nodes: Vec<Option<Node>>,
    roots: HashMap<Domain, Children>,
    stamps: u64,
}

impl PrefixTree {
    fn node(&self, storage: Storage) -> Option<&Node> {
        self.nodes.get(storage.0 as usize)?.as_ref()
    }

    fn node_mut(&mut self, storage: Storage) -> Option<&mut Node> {
        self.nodes.get_mut(storage.0 as usize)?.as_mut()
    }

    /// The longest prefix of at most `most` tokens. Costs a comparison of the tokens and a step for each storage.
    pub(crate) fn look_up(&self, domain: &Domain, history: History<'_>, most: u32) -> Hit {
        let mut search = Search {
            tree: self,
            history,
            most,
            way: Vec::new(),
            best: Hit::default(),
        };
        if let Some(children) = self.roots.get(domain) {
            search.enter_at(children, 0);
        }
        search.best
    }

    /// A writer for a slot that shows `hit` and writes the rest to `storage`, from token `start` on.
    pub(crate) fn writer(
        &self,
        domain: &Domain,
        hit: &Hit,
        storage: Storage,
        start: u32,
    ) -> Writer {
        let owns = hit.spans.last().is_some_and(|span| span.storage == storage);
        let place = Place {
            node: hit.spans.last().and_then(|span| self.stamped(span.storage)),
            end: hit.end(),
        };
        Writer {
            domain: domain.clone(),
            storage,
            start,
            end: hit.end(),
            follows: (!owns).then_some(place),
        }
    }

    fn stamped(&self, storage: Storage) -> Option<(Storage, u64)> {
        Some((storage, self.node(storage)?.stamp))
    }

    /// Tokens of the writer's history up to `fed` are computed. Returns the spans that its new node, if it got one now,
    /// relies on beside those that its slot shows. Amortised O(1) for each token.
    pub(crate) fn extend(
        &mut self,
        writer: &mut Writer,
        history: History<'_>,
        fed: u32,
    ) -> Vec<Span> {
        if writer.end >= fed {
            return Vec::new();
        }
        let Some(place) = writer.follows else {
            self.append(writer.storage, history, fed);
            writer.end = fed;
            return Vec::new();
        };
        let place = if self.is_valid(place) {
            place
        } else {
            self.find(&writer.domain, history, writer.end)
        };
        let place = self.follow(&writer.domain, place, history, fed);
        writer.follows = Some(place);
        writer.end = fed;
        if place.end == fed || place.end < writer.start {
            return Vec::new();
        }
        self.hang(writer, place, history, fed);
        writer.follows = None;
        self.way_to(writer.storage, writer.start)
    }

    /// Spans up to `storage`'s node that lie behind token `start`, the nearest first.
    pub(crate) fn way_to(&self, storage: Storage, start: u32) -> Vec<Span> {
        let mut spans = Vec::new();
        let mut node = self.node(storage);
        while let Some((parent, end)) = node.and_then(|node| Some((node.parent?, node.from))) {
            if end <= start {
                break;
            }
            spans.push(Span {
                storage: parent,
                end,
            });
            node = self.node(parent);
        }
        spans
    }

    fn append(&mut self, storage: Storage, history: History<'_>, fed: u32) {
        let Some(node) = self.node_mut(storage) else {
            return;
        };
        let end = node.end();
        let next = history.get(end).unwrap_or_default();
        node.has_shadows |= node.children.contains_key(&(end, next));
        history.copy(end, fed, &mut node.label);
    }

    fn is_valid(&self, place: Place) -> bool {
        place.node.is_none_or(|(storage, stamp)| {
            self.node(storage)
                .is_some_and(|node| node.stamp == stamp && place.end <= node.end())
        })
    }

    /// Where the tree has as many of the first `most` tokens as it can.
    fn find(&self, domain: &Domain, history: History<'_>, most: u32) -> Place {
        let hit = self.look_up(domain, history, most);
        Place {
            node: hit.spans.last().and_then(|span| self.stamped(span.storage)),
            end: hit.end(),
        }
    }

    /// Goes on from `place` as far as the tree has tokens up to `fed`.
    fn follow(&self, domain: &Domain, mut place: Place, history: History<'_>, fed: u32) -> Place {
        while place.end < fed {
            if let Some((storage, _)) = place.node {
                let label = self.node(storage).map(|node| node.label_from(place.end));
                let label = label.unwrap_or_default();
                place.end += history.in_common(place.end, label).min(fed - place.end);
            }
            let next = history.get(place.end).filter(|_| place.end < fed);
            let children = match place.node {
                Some((storage, _)) => self.node(storage).map(|node| &node.children),
                None => self.roots.get(domain),
            };
            let child = next.and_then(|token| children?.get(&(place.end, token)).copied());
            match child.and_then(|child| self.stamped(child)) {
                Some(child) => place.node = Some(child),
                None => break,
            }
        }
        place
    }

    /// The writer's storage gets a node for tokens [place.end, fed).
    fn hang(&mut self, writer: &Writer, place: Place, history: History<'_>, fed: u32) {
        let mut label = Vec::new();
        history.copy(place.end, fed, &mut label);
        let key = (place.end, label.first().copied().unwrap_or_default());
        let parent = place.node.map(|(storage, _)| storage);
        let siblings = match parent {
            Some(parent) => self.node_mut(parent).map(|node| &mut node.children),
            None => Some(self.roots.entry(writer.domain.clone()).or_default()),
        };
        if let Some(siblings) = siblings {
            siblings.insert(key, writer.storage);
        }
        self.stamps += 1;
        let node = Node {
            domain: writer.domain.clone(),
            parent,
            from: place.end,
            label,
            children: Children::new(),
            has_shadows: false,
            stamp: self.stamps,
        };
        let index = writer.storage.0 as usize;
        if self.nodes.len() <= index {
            self.nodes.resize_with(index + 1, || None);
        }
        if let Some(seat) = self.nodes.get_mut(index) {
            *seat = Some(node);
        }
    }

    /// Tokens [from, end) of the storage's own, if it has a node.
    pub(crate) fn extent(&self, storage: Storage) -> Option<(u32, u32)> {
        let node = self.node(storage)?;
        Some((node.from, node.end()))
    }

    /// The last token index at which another storage hangs on this one; 0 if none does.
    pub(crate) fn children_end(&self, storage: Storage) -> u32 {
        let last = self
            .node(storage)
            .and_then(|node| node.children.last_key_value());
        last.map_or(0, |((at, _), _)| *at)
    }

    /// Cuts a storage's tokens behind `end`; nothing may hang there. At the beginning of its label the node goes.
    pub(crate) fn cut(&mut self, storage: Storage, end: u32) {
        self.stamps += 1;
        let stamp = self.stamps;
        let Some(node) = self.node_mut(storage) else {
            return;
        };
        if end <= node.from {
            self.remove(storage);
            return;
        }
        let left = (end - node.from) as usize;
        node.label.truncate(left);
        node.stamp = stamp;
    }

    fn remove(&mut self, storage: Storage) {
        let Some(node) = self
            .nodes
            .get_mut(storage.0 as usize)
            .and_then(Option::take)
        else {
            return;
        };
        let key = (node.from, node.label.first().copied().unwrap_or_default());
        if let Some(parent) = node.parent {
            if let Some(parent) = self.node_mut(parent) {
                parent.children.remove(&key);
            }
        } else if let Some(children) = self.roots.get_mut(&node.domain) {
            children.remove(&key);
            if children.is_empty() {
                self.roots.remove(&node.domain);
            }
        }
    }

    /// Storages of a domain, each before those it hangs on.
    pub(crate) fn storages_of(&self, domain: &Domain) -> Vec<Storage> {
        let mut found: Vec<Storage> = Vec::new();
        let mut next: Vec<Storage> = self
            .roots
            .get(domain)
            .into_iter()
            .flat_map(BTreeMap::values)
            .copied()
            .collect();
        while let Some(storage) = next.pop() {
            found.push(storage);
            next.extend(
                self.node(storage)
                    .into_iter()
                    .flat_map(|node| node.children.values()),
            );
        }
        found.reverse();
        found
    }

    /// Storages with a node.
    pub(crate) fn len(&self) -> usize {
        self.nodes.iter().flatten().count()
    }
}

/// A look-up on its way down.
struct Search<'a> {
    tree: &'a PrefixTree,
    history: History<'a>,
    most: u32,
    way: Vec<Span>,
    best: Hit,
}

impl Search<'_> {
    /// Goes into the child that goes on at `at`, if there is one.
    fn enter_at(&mut self, children: &Children, at: u32) {
        if at >= self.most {
            return;
        }
        let token = self.history.get(at);
        if let Some(child) = token.and_then(|token| children.get(&(at, token))) {
            self.enter(*child);
        }
    }

    fn enter(&mut self, storage: Storage) {
        let Some(node) = self.tree.node(storage) else {
            return;
        };
        let matched = self.history.in_common(node.from, &node.label);
        let end = (node.from + matched).min(self.most);
        self.way.push(Span { storage, end });
        self.enter_at(&node.children, end);
        if node.has_shadows {
            self.enter_shadows(&node.children, end);
        }
        if end > self.best.end() {
            self.best.spans.clone_from(&self.way);
        }
        self.way.pop();
    }

    /// Children that hang before `end`.
    fn enter_shadows(&mut self, children: &Children, end: u32) {
        for ((at, token), child) in children.range(..(end, 0)) {
            if self.history.get(*at) == Some(*token) {
                if let Some(span) = self.way.last_mut() {
                    span.end = *at;
                }
                self.enter(*child);
            }
        }
        if let Some(span) = self.way.last_mut() {
            span.end = end;
        }
    }
}
