//! Tiles: the matrix registers of AMX. Knows the instructions and when they may be used; not what is multiplied.
//! Standard Rust has no intrinsics for them yet, so the instructions are written out.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

/// Rows of a full tile, and dwords of its row.
pub const TILE: usize = 16;

const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
const XFEATURE_TILE_DATA: libc::c_long = 18;
/// Bits of CPUID leaf 7 in edx: AMX-BF16 and AMX-TILE.
const AMX_BITS: u32 = 1 << 22 | 1 << 24;

/// Whether this processor has tiles and the kernel lets this process use them.
pub fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        if __cpuid(0).eax < 7 || __cpuid_count(7, 0).edx & AMX_BITS != AMX_BITS {
            return false;
        }
        // SAFETY: asks for a permission; fails where the kernel or the machine does not know it.
        unsafe {
            libc::syscall(
                libc::SYS_arch_prctl,
                ARCH_REQ_XCOMP_PERM,
                XFEATURE_TILE_DATA,
            ) == 0
        }
    })
}

#[repr(C, align(64))]
struct Config([u8; 64]);

/// A thread's tile registers, configured; what was configured before comes back at the end.
pub struct Tiles {
    before: Config,
}

impl Tiles {
    /// Tiles 0–3 and 7 get `rows` rows, 4–6 sixteen; all have 64 bytes a row.
    ///
    /// # Safety
    /// `available()` said yes.
    pub unsafe fn configure(rows: usize) -> Self {
        let mut config = Config([0; 64]);
        config.0[0] = 1;
        for tile in 0..8 {
            config.0[16 + 2 * tile] = 64;
            config.0[48 + tile] = if matches!(tile, 4..=6) {
                TILE as u8
            } else {
                rows as u8
            };
        }
        let mut before = Config([0; 64]);
        // SAFETY: tiles exist (the caller's promise); both places hold 64 bytes.
        unsafe {
            asm!("sttilecfg [{}]", in(reg) &raw mut before, options(nostack, preserves_flags));
            asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, preserves_flags));
        }
        Self { before }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: tiles exist, or `configure` would not have run.
        unsafe {
            match self.before.0[0] {
                0 => asm!("tilerelease", options(nostack, preserves_flags)),
                _ => {
                    asm!("ldtilecfg [{}]", in(reg) &raw const self.before, options(nostack, preserves_flags));
                }
            }
        }
    }
}

/// Loads a tile: number, address of its first row, bytes from one row to the next.
macro_rules! tile_load {
    ($tile:literal, $from:expr, $stride:expr) => {
        core::arch::asm!(concat!("tileloadd tmm", $tile, ", [{0} + {1}*1]"),
            in(reg) $from, in(reg) $stride, options(nostack, preserves_flags, readonly))
    };
}
/// Stores a tile.
macro_rules! tile_store {
    ($tile:literal, $to:expr, $stride:expr) => {
        core::arch::asm!(concat!("tilestored [{0} + {1}*1], tmm", $tile),
            in(reg) $to, in(reg) $stride, options(nostack, preserves_flags))
    };
}
/// Clears a tile.
macro_rules! tile_zero {
    ($tile:literal) => {
        core::arch::asm!(
            concat!("tilezero tmm", $tile),
            options(nostack, preserves_flags, nomem)
        )
    };
}
/// Clears the four tiles of sums, 0–3.
macro_rules! clear_sums {
    () => {
        $crate::amx::tile_zero!(0);
        $crate::amx::tile_zero!(1);
        $crate::amx::tile_zero!(2);
        $crate::amx::tile_zero!(3);
    };
}
/// sum [m, n] += left [m, pairs] · right [pairs, n], pairs of bfloat16 summed in float32.
macro_rules! tile_multiply {
    ($sum:literal, $left:literal, $right:literal) => {
        core::arch::asm!(
            concat!("tdpbf16ps tmm", $sum, ", tmm", $left, ", tmm", $right),
            options(nostack, preserves_flags, nomem)
        )
    };
}
pub(crate) use {clear_sums, tile_load, tile_multiply, tile_store, tile_zero};
