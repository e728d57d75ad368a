//! The sizes of a region on a device. Pure arithmetic.

use std::io;

use super::table::SetId;

/// The sizes of a region on a device. A page set is one page in each band.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Slots, the reserved one included.
    pub num_slots: u64,
    /// Pages of one slot in one band.
    pub slot_pages: u64,
    /// Page sets that storages may own.
    pub num_pages: u64,
    /// Bytes of a page: a multiple of the device's granularity.
    pub page_bytes: u64,
    /// Bands, each with its own range of addresses.
    pub num_bands: u64,
    /// Pages behind a ribbon's end that may be read.
    pub tail_pages: u64,
    /// Shared spans of fewer pages are copied while pages are idle.
    pub copy_below_pages: u64,
    /// Pages that the thread maps behind each growth.
    pub ahead_pages: u64,
}

impl Geometry {
    /// Pages of one band's range.
    pub fn band_pages(&self) -> u64 {
        self.num_slots * self.slot_pages
    }

    /// The set that slot 0 shows.
    pub fn scratch_set(&self) -> SetId {
        self.num_pages as SetId
    }

    /// The set that is read behind a ribbon's end: one page for all bands.
    pub fn zero_set(&self) -> SetId {
        self.num_pages as SetId + 1
    }

    /// Sets, the two special ones included.
    pub fn num_sets(&self) -> u64 {
        self.num_pages + 2
    }

    /// Pages to create.
    pub fn num_handles(&self) -> u64 {
        (self.num_pages + 1) * self.num_bands + u64::from(self.tail_pages > 0)
    }

    /// Refuses what the device cannot do or no arithmetic can hold.
    ///
    /// # Errors
    /// `InvalidInput`, naming the size.
    pub fn check(&self, granularity: u64) -> io::Result<()> {
        let refuse = |message: String| Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        if self.num_bands == 0 || self.num_pages == 0 {
            return refuse("num_bands and num_pages must be at least 1".into());
        }
        if self.page_bytes == 0 || !self.page_bytes.is_multiple_of(granularity) {
            return refuse(format!(
                "page_bytes is {}; it must be a positive multiple of the device's granularity, {granularity} bytes",
                self.page_bytes
            ));
        }
        if !self.fits_addresses() || self.num_pages > u64::from(SetId::MAX) - 2 {
            return refuse(format!(
                "{} slots of {} pages in {} bands do not fit an address space",
                self.num_slots, self.slot_pages, self.num_bands
            ));
        }
        Ok(())
    }

    fn fits_addresses(&self) -> bool {
        let range = [
            self.num_slots,
            self.slot_pages,
            self.num_bands,
            self.page_bytes,
        ];
        let pool = [
            self.num_pages.saturating_add(2),
            self.num_bands,
            self.page_bytes,
        ];
        [&range[..], &pool[..]].into_iter().all(|sizes| {
            let product = sizes
                .iter()
                .try_fold(1_u64, |product, size| product.checked_mul(*size));
            product.is_some_and(|bytes| i64::try_from(bytes).is_ok())
        })
    }
}
