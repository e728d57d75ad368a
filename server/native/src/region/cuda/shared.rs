//! The table and its editor under one lock: what the steps' thread and the mapping thread share.

use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use super::driver::{Answer, Entered};
use super::editor::Editor;
use super::pages::Spot;
use super::table::{Claim, Edit, Place, SetId, Source, Table};
use crate::region::Access;

/// Page tables and who knows them.
pub struct Shared {
    table: Mutex<Table>,
    /// Changes the page tables.
    pub editor: Editor,
}

fn wanted(claims: &[Claim]) -> Vec<Edit> {
    let edit = |claim: &Claim| Edit {
        place: claim.place,
        set: claim.set,
        access: Access::ReadWrite,
    };
    claims.iter().map(edit).collect()
}

impl Shared {
    /// Both together.
    pub fn new(table: Table, editor: Editor) -> Self {
        Self {
            table: Mutex::new(table),
            editor,
        }
    }

    /// The table, held still.
    pub fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows memory at these places of an open slot's own. Counts a late wait if it was not there already.
    pub fn grow(&self, places: Range<Place>) -> io::Result<()> {
        let started = Instant::now();
        let (mut table, contended) = match self.table.try_lock() {
            Ok(table) => (table, false),
            Err(TryLockError::WouldBlock) => (self.lock(), true),
            Err(TryLockError::Poisoned(poisoned)) => (poisoned.into_inner(), false),
        };
        let claims = self.claim(&mut table, &places)?;
        let shown = self.show_live(&mut table, &wanted(&claims));
        let edited = shown.inspect_err(|_| table.unclaim(&claims))?;
        table.settle(&claims);
        self.count(&claims);
        if edited || contended {
            self.editor.statistics.late.add(started);
        }
        Ok(())
    }

    /// Takes a set for each place; shared pages that were copied give way if nothing is idle.
    fn claim(&self, table: &mut Table, places: &Range<Place>) -> io::Result<Vec<Claim>> {
        if let Some(claims) = table.claim(places.clone()) {
            return Ok(claims);
        }
        let missing = (places.end - places.start).saturating_sub(table.num_idle());
        let originals = table.reclaimable(missing as usize);
        let copies: Vec<Option<SetId>> = originals
            .iter()
            .map(|edit| table.shown(edit.place).map(|shown| shown.set))
            .collect();
        self.editor.commit(table, &originals)?;
        for (edit, copy) in originals.into_iter().zip(copies) {
            if let Some(copy) = copy {
                table.note_reclaimed(edit, copy);
            }
        }
        table.claim(places.clone()).ok_or_else(|| {
            let (wanted, idle) = (places.end - places.start, table.num_idle());
            let message = format!("{wanted} pages wanted, {idle} are idle");
            io::Error::new(io::ErrorKind::OutOfMemory, message)
        })
    }

    fn count(&self, claims: &[Claim]) {
        let count = |source| claims.iter().filter(|claim| claim.source == source).count() as u64;
        let statistics = &self.editor.statistics;
        statistics.inherited_pages.add(count(Source::Inherited));
        statistics.stolen_pages.add(count(Source::Stolen));
        statistics.fresh_pages.add(count(Source::Fresh));
    }

    /// Shows sets at places of an open slot, and its tail behind them. Returns whether anything had to change.
    pub fn show_live(&self, table: &mut Table, edits: &[Edit]) -> Answer<bool> {
        let Some(end) = edits.last().map(|edit| edit.place + 1) else {
            return Ok(false);
        };
        // First, so that a set taken from there leaves a zero page.
        table.enter_tail(end);
        let all = [edits.to_vec(), table.tail(end)].concat();
        self.show(table, &all)
    }

    /// Shows sets at places of an open slot.
    pub fn show(&self, table: &mut Table, edits: &[Edit]) -> Answer<bool> {
        let edited = self.editor.commit(table, edits)?;
        for edit in edits {
            table.make_live(edit.place);
        }
        Ok(edited)
    }

    /// Shows private copies of the originals at these places.
    pub fn show_copies(&self, places: Range<Place>, originals: &[SetId]) -> io::Result<()> {
        let mut table = self.lock();
        let claims = self.claim(&mut table, &places)?;
        let shown = self.editor.commit(&mut table, &wanted(&claims));
        let copied = shown.and_then(|_| {
            let mut pairs = claims.iter().zip(originals);
            pairs.try_for_each(|(claim, original)| self.copy_page(*original, claim.set))
        });
        if let Err(error) = copied {
            table.unclaim(&claims);
            return Err(error.into());
        }
        table.settle_copies(&claims, originals);
        self.editor.statistics.copied_pages.add(claims.len() as u64);
        Ok(())
    }

    /// Copies bytes of one physical page to another, each given as (page, byte); the target gets memory if it has none.
    pub fn copy_bytes(&self, from: (u64, u64), to: (u64, u64), bytes: u64) -> io::Result<()> {
        let missing = |what: &str| {
            let message = format!("{what} of a copied page has no memory");
            io::Error::new(io::ErrorKind::InvalidInput, message)
        };
        let (source, target, home) = {
            let table = self.lock();
            (table.behind(from.0), table.behind(to.0), table.home(to.0))
        };
        if target.is_none() {
            let home = home.ok_or_else(|| missing("the writer"))?;
            self.grow(home..home + 1)?;
        }
        let target = self
            .lock()
            .behind(to.0)
            .ok_or_else(|| missing("the target"))?;
        let source = source.ok_or_else(|| missing("the source"))?;
        let (from, to) = (
            Spot {
                set: source,
                byte: from.1,
            },
            Spot {
                set: target,
                byte: to.1,
            },
        );
        let stream = self.editor.fences.stream();
        Ok(self.editor.pages.copy(from, to, bytes, stream)?)
    }

    fn copy_page(&self, from: SetId, to: SetId) -> Answer<()> {
        let (from, to) = (Spot { set: from, byte: 0 }, Spot { set: to, byte: 0 });
        let (bytes, stream) = (self.editor.geometry.page_bytes, self.editor.fences.stream());
        self.editor.pages.copy(from, to, bytes, stream)
    }

    /// Waits for all steps and unmaps everything.
    pub fn close(&self) -> Answer<()> {
        let _context = Entered::new(&*self.editor.driver)?;
        self.editor.fences.finish(&*self.editor.driver)?;
        let mut table = self.lock();
        for place in table.mapped() {
            self.editor.clear(&mut table, place)?;
        }
        Ok(())
    }
}
