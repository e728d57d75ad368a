//! The native module: KV region, attention and the few kernels where torch is slower on a CPU. Knows addresses, shapes and
//! pages; not requests, models or text.

#[cfg(target_arch = "x86_64")]
pub mod amx;
pub mod attention;
mod bindings;
pub mod element;
pub mod elementwise;
pub mod error;
pub mod features;
pub mod grammar;
pub mod lanes;
pub mod linear;
pub mod region;
pub mod rope;
pub mod runs;
pub mod sampling;
pub mod scratch;
mod team;
pub mod tensor;
pub mod threads;
