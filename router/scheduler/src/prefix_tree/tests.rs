//! The tree against a plain list of histories.

use std::collections::HashMap;

use proptest::prelude::*;
use ribbon_core::Storage;

use super::*;

fn salt(name: Option<&str>) -> Domain {
    Domain::Salt(name.map(Into::into))
}

/// A tree, and the truth about it.
struct Both {
    tree: PrefixTree,
    /// What each storage really holds: the index of its first token, the whole history it belongs to, and how much of that is
    /// computed.
    written: HashMap<Storage, (u32, Vec<u32>, u32)>,
    writers: HashMap<Storage, (Domain, Writer)>,
    /// Histories that the tree should find, by storage.
    findable: HashMap<Storage, (Domain, Vec<u32>)>,
    next: u32,
}

impl Both {
    fn new() -> Self {
        Self {
            tree: PrefixTree::default(),
            written: HashMap::new(),
            writers: HashMap::new(),
            findable: HashMap::new(),
            next: 1,
        }
    }

    /// A new writer for a history, behind what is known of it.
    fn open(&mut self, domain: &Domain, tokens: &[u32]) -> Storage {
        let storage = Storage(self.next);
        self.next += 1;
        let hit = self.check_look_up(domain, tokens);
        let writer = self.tree.writer(domain, &hit, storage, hit.end());
        self.written
            .insert(storage, (hit.end(), tokens.to_vec(), hit.end()));
        self.writers.insert(storage, (domain.clone(), writer));
        storage
    }

    /// `count` more tokens of a storage are computed.
    fn compute(&mut self, storage: Storage, count: u32) {
        let (domain, writer) = self.writers.get_mut(&storage).unwrap();
        let (_, tokens, fed) = self.written.get_mut(&storage).unwrap();
        *fed = (*fed + count).min(tokens.len() as u32);
        let split = tokens.len() / 2;
        let history = History::new(&tokens[..split], &tokens[split..]);
        let claims = self.tree.extend(writer, history, *fed);
        for pair in claims.windows(2) {
            assert!(pair[0].end > pair[1].end, "nearest first");
        }
        self.findable
            .insert(storage, (domain.clone(), tokens[..*fed as usize].to_vec()));
    }

    /// Gives up what hangs loose of a storage, if anything.
    fn evict(&mut self, storage: Storage, wish: u32) {
        let Some((from, end)) = self.tree.extent(storage) else {
            return;
        };
        if wish >= end {
            return;
        }
        let least = self.tree.children_end(storage);
        let end = wish.max(least);
        self.tree.cut(storage, end);
        let is_gone = end <= from;
        assert_eq!(self.tree.extent(storage).is_none(), is_gone);
        self.writers.remove(&storage);
        if is_gone {
            self.written.remove(&storage);
            self.findable.remove(&storage);
        } else {
            self.findable
                .get_mut(&storage)
                .unwrap()
                .1
                .truncate(end as usize);
            self.written.get_mut(&storage).unwrap().2 = end;
        }
    }

    /// The tree finds the longest prefix there is, and every span names a storage that holds just these tokens.
    fn check_look_up(&self, domain: &Domain, tokens: &[u32]) -> Hit {
        let most = tokens.len() as u32 - 1;
        let hit = self.tree.look_up(domain, History::new(tokens, &[]), most);
        let known = self
            .findable
            .iter()
            .filter(|(storage, (other, _))| other == domain && self.has_node(**storage));
        let same = known.map(|(_, (_, known))| {
            tokens
                .iter()
                .zip(known)
                .take_while(|(one, other)| one == other)
                .count()
        });
        let longest = same.max().unwrap_or(0).min(most as usize);
        assert_eq!(hit.end() as usize, longest, "{:?}", hit.spans);
        let mut begin = 0;
        for span in &hit.spans {
            let (start, held, fed) = &self.written[&span.storage];
            assert!(
                *start <= begin && begin < span.end && span.end <= *fed,
                "{span:?} of {start}..{fed}"
            );
            assert_eq!(
                held[begin as usize..span.end as usize],
                tokens[begin as usize..span.end as usize]
            );
            begin = span.end;
        }
        hit
    }

    fn has_node(&self, storage: Storage) -> bool {
        self.tree.extent(storage).is_some()
    }
}

#[test]
fn a_running_prompt_can_be_hit_as_far_as_it_is_computed_and_never_wholly() {
    let mut both = Both::new();
    let first = both.open(&salt(None), &[1, 2, 3, 4, 5, 6]);
    both.compute(first, 4);
    let hit = |both: &Both, tokens: &[u32]| both.check_look_up(&salt(None), tokens).end();
    assert_eq!(hit(&both, &[1, 2, 3, 4, 5, 6]), 4);
    assert_eq!(hit(&both, &[1, 2, 3, 9]), 3);
    assert_eq!(
        hit(&both, &[1, 2, 3]),
        2,
        "its last token has to be computed"
    );
    assert_eq!(hit(&both, &[2, 3, 4]), 0);
    assert_eq!(
        both.check_look_up(&salt(Some("other")), &[1, 2, 3]).end(),
        0
    );
}

#[test]
fn a_chain_names_the_oldest_owner_first() {
    let mut both = Both::new();
    let first = both.open(&salt(None), &[1, 2, 3, 4]);
    both.compute(first, 9);
    let second = both.open(&salt(None), &[1, 2, 7, 8, 9]);
    both.compute(second, 9);
    let hit = both.check_look_up(&salt(None), &[1, 2, 7, 8, 9, 10]);
    let spans = [
        Span {
            storage: first,
            end: 2,
        },
        Span {
            storage: second,
            end: 5,
        },
    ];
    assert_eq!(hit.spans, spans);
    assert_eq!(both.tree.way_to(second, 1), [spans[0]]);
    assert_eq!(both.tree.way_to(second, 2), []);
}

#[test]
fn what_another_has_computed_meanwhile_gets_no_node_until_it_differs() {
    let mut both = Both::new();
    let (first, second) = (
        both.open(&salt(None), &[1, 2, 3, 4]),
        both.open(&salt(None), &[1, 2, 3, 5]),
    );
    both.compute(first, 3);
    both.compute(second, 3);
    assert!(!both.has_node(second));
    both.compute(second, 1);
    assert_eq!(
        both.tree.extent(second),
        Some((3, 4)),
        "though its storage begins at 0"
    );
    assert_eq!(
        both.tree.way_to(second, 0),
        [Span {
            storage: first,
            end: 3
        }]
    );
}

#[test]
fn a_follower_survives_the_eviction_of_what_it_followed() {
    let mut both = Both::new();
    let (first, second) = (
        both.open(&salt(None), &[1, 2, 3, 4]),
        both.open(&salt(None), &[1, 2, 3, 5]),
    );
    both.compute(first, 3);
    both.compute(second, 2);
    both.evict(first, 0);
    both.compute(second, 1);
    assert_eq!(both.tree.extent(second), Some((0, 3)));
}

#[test]
fn a_domain_is_listed_leaves_first() {
    let mut both = Both::new();
    let first = both.open(&salt(None), &[1, 2, 3]);
    both.compute(first, 3);
    let second = both.open(&salt(None), &[1, 2, 3, 4, 5]);
    both.compute(second, 9);
    let other = both.open(&salt(Some("b")), &[1]);
    both.compute(other, 1);
    assert_eq!(both.tree.storages_of(&salt(None)), [second, first]);
    assert_eq!(both.tree.len(), 3);
}

#[derive(Clone, Debug)]
enum Act {
    Open { history: Vec<u32>, salted: bool },
    Compute { which: usize, count: u32 },
    Evict { which: usize, end: u32 },
    LookUp { history: Vec<u32>, salted: bool },
}

fn history() -> impl Strategy<Value = Vec<u32>> {
    // Two token values make long common prefixes, shadows and duplicates likely.
    prop::collection::vec(0u32..2, 1..12)
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => (history(), prop::bool::weighted(0.2)).prop_map(|(history, salted)| Act::Open { history, salted }),
        6 => (any::<usize>(), 1u32..5).prop_map(|(which, count)| Act::Compute { which, count }),
        2 => (any::<usize>(), 0u32..12).prop_map(|(which, end)| Act::Evict { which, end }),
        2 => (history(), prop::bool::weighted(0.2)).prop_map(|(history, salted)| Act::LookUp { history, salted }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_tree_finds_what_a_list_finds(acts in prop::collection::vec(act(), 1..60)) {
        let mut both = Both::new();
        let domain = |salted: bool| salt(salted.then_some("s"));
        for act in acts {
            let mut open: Vec<Storage> = both.writers.keys().copied().collect();
            open.sort();
            let mut all: Vec<Storage> = both.written.keys().copied().collect();
            all.sort();
            match act {
                Act::Open { history, salted } => drop(both.open(&domain(salted), &history)),
                Act::LookUp { history, salted } => drop(both.check_look_up(&domain(salted), &history)),
                Act::Compute { which, count } if !open.is_empty() => both.compute(open[which % open.len()], count),
                Act::Evict { which, end } if !all.is_empty() => {
                    // What a running sequence shows is never evicted: its own storage begins where that ends.
                    let storage = all[which % all.len()];
                    let needed = |(other, (_, writer)): (&Storage, &(Domain, Writer))| {
                        let (start, tokens, _) = &both.written[other];
                        let way = both.tree.look_up(&writer.domain, History::new(tokens, &[]), *start);
                        way.spans.iter().find(|span| span.storage == storage).map(|span| span.end)
                    };
                    let shown = both.writers.iter().filter_map(needed).max().unwrap_or(0);
                    both.evict(storage, end.max(shown));
                }
                Act::Compute { .. } | Act::Evict { .. } => {}
            }
        }
    }
}
