//! Which vector instructions the kernels may use. Knows the processor; not the kernels.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// Instruction sets in ascending order; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// What every x86-64 or other processor has.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, VL and DQ.
    Avx512,
    /// AVX-512 with bfloat16 dot products.
    Avx512Bf16,
    /// The same with AMX tiles of bfloat16.
    Amx,
}

static LIMIT: AtomicU8 = AtomicU8::new(Level::Amx as u8);

fn detect() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq");
        return match (avx2, avx512, is_x86_feature_detected!("avx512bf16")) {
            (true, true, true) if crate::amx::available() => Level::Amx,
            (true, true, true) => Level::Avx512Bf16,
            (true, true, false) => Level::Avx512,
            (true, false, _) => Level::Avx2,
            _ => Level::Portable,
        };
    }
    #[allow(unreachable_code)]
    Level::Portable
}

fn detected() -> Level {
    static DETECTED: OnceLock<Level> = OnceLock::new();
    *DETECTED.get_or_init(detect)
}

/// The best level that the processor has and the limit allows.
pub fn level() -> Level {
    let limit = LIMIT.load(Ordering::Relaxed);
    let allowed = [
        Level::Portable,
        Level::Avx2,
        Level::Avx512,
        Level::Avx512Bf16,
        Level::Amx,
    ];
    let limit = allowed
        .into_iter()
        .find(|level| *level as u8 == limit)
        .unwrap_or(Level::Portable);
    detected().min(limit)
}

/// Lowers the level, for tests. False if the name is unknown.
pub fn set_limit(name: &str) -> bool {
    let limit = match name {
        "portable" => Level::Portable,
        "avx2" => Level::Avx2,
        "avx512" => Level::Avx512,
        "avx512bf16" => Level::Avx512Bf16,
        "best" => Level::Amx,
        _ => return false,
    };
    LIMIT.store(limit as u8, Ordering::Relaxed);
    true
}

/// Names of the instruction sets in use.
pub fn names() -> Vec<&'static str> {
    let all = [
        (Level::Avx2, "avx2"),
        (Level::Avx512, "avx512f"),
        (Level::Avx512Bf16, "avx512bf16"),
        (Level::Amx, "amx_bf16"),
    ];
    all.into_iter()
        .filter(|(needed, _)| *needed <= level())
        .map(|(_, name)| name)
        .collect()
}
