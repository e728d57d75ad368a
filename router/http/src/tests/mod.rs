//! In-process tests through the built router.
