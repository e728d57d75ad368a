//! One column of a hot-path message: an array of little-endian values in bytes.

use crate::ShardError;

/// Lays values out one after the other.
pub(super) fn u32s(values: impl ExactSizeIterator<Item = u32>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() * 4);
    for value in values {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// The same for floats.
pub(super) fn f32s(values: impl ExactSizeIterator<Item = f32>) -> Vec<u8> {
    u32s(values.map(f32::to_bits))
}

/// Reads a column of exactly `rows` values.
pub(super) fn read_u32s<'a>(
    name: &str,
    bytes: &'a [u8],
    rows: usize,
) -> Result<impl Iterator<Item = u32> + use<'a>, ShardError> {
    let (values, rest) = bytes.as_chunks::<4>();
    if values.len() != rows || !rest.is_empty() {
        let reason = format!(
            "`{name}` has {} bytes, {} rows need {}",
            bytes.len(),
            rows,
            rows * 4
        );
        return Err(ShardError::malformed("outcome", reason));
    }
    Ok(values.iter().map(|value| u32::from_le_bytes(*value)))
}

/// Reads a column of exactly `rows` floats.
pub(super) fn read_f32s<'a>(
    name: &str,
    bytes: &'a [u8],
    rows: usize,
) -> Result<impl Iterator<Item = f32> + use<'a>, ShardError> {
    Ok(read_u32s(name, bytes, rows)?.map(f32::from_bits))
}

/// Reads a column of exactly `rows` bytes.
pub(super) fn read_u8s<'a>(
    name: &str,
    bytes: &'a [u8],
    rows: usize,
) -> Result<&'a [u8], ShardError> {
    if bytes.len() == rows {
        return Ok(bytes);
    }
    let reason = format!(
        "`{name}` has {} bytes, {rows} rows need {rows}",
        bytes.len()
    );
    Err(ShardError::malformed("outcome", reason))
}
