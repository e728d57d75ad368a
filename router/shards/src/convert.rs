//! Between the router's words and the columnar wire. Little-endian columns, one row an element. Checks everything that
//! comes from the shard; knows no connection.

mod column;
mod describe;
mod outcome;
mod plan;
#[cfg(test)]
mod tests;

pub(crate) use describe::{check, description, together};
pub(crate) use outcome::outcome;
pub(crate) use plan::plan;
#[cfg(test)]
pub(crate) use tests::warm as tests_warm;
