//! Placeholder until the property tests of the region.
