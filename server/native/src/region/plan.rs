//! Applies the operations of a plan in order. One that is refused voids its slot; all others are done. Knows no memory.

use super::{Operation, Region, RegionError, kind_name};

/// One row of a plan's columns.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Position in the plan.
    pub index: usize,
    /// Kind on the wire.
    pub kind: u8,
    /// Slot, 0 where the kind has none.
    pub slot: u32,
    /// Storage, 0 where the kind has none.
    pub storage: u32,
    /// Token end.
    pub tokens: u32,
}

impl Row {
    /// Whether its kind knows no slot.
    pub fn names_a_storage_alone(&self) -> bool {
        matches!(kind_name(self.kind), "truncate" | "drop")
    }
}

impl Region {
    /// Applies rows in order, each wholly or not at all. A row that is refused or finds no pages voids its slot: until it is
    /// closed, operations on it are passed over, but for those that give memory up. So a refusal never spreads, and giving
    /// memory up always works; `after` hears of each row.
    ///
    /// # Errors
    /// The first row that was not done, once all others are. A failed memory call ends the list at once.
    pub fn apply_plan(
        &mut self,
        rows: impl Iterator<Item = Row>,
        mut after: impl FnMut(&Self, Row),
    ) -> Result<(), RegionError> {
        let mut first_refusal = Ok(());
        for row in rows {
            if let Err(source) = self.apply_row(row) {
                let is_fatal = source.is_fatal();
                let refusal = RegionError::Operation {
                    index: row.index,
                    kind: kind_name(row.kind),
                    source: Box::new(source),
                };
                if is_fatal {
                    return Err(refusal);
                }
                first_refusal = first_refusal.and(Err(refusal));
            }
            after(self, row);
        }
        first_refusal
    }

    fn apply_row(&mut self, row: Row) -> Result<(), RegionError> {
        let operation = Operation::parse(row.kind, row.slot, row.storage, row.tokens);
        let done = operation.and_then(|operation| match operation {
            Operation::Close { .. } => self.apply(operation),
            _ if operation.slot().is_some_and(|slot| self.book.is_void(slot)) => {
                self.apply_to_void(operation)
            }
            _ => self.apply(operation),
        });
        if done.is_err() {
            self.book.set_void(row.slot, true);
        }
        done
    }

    /// A front of tokens that are fed is there and goes. What a void slot lost cannot be asked for: nothing is refused again.
    fn apply_to_void(&mut self, operation: Operation) -> Result<(), RegionError> {
        match operation {
            Operation::TrimFront { .. } => match self.apply(operation) {
                Err(error) if error.is_fatal() => Err(error),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
