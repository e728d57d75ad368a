//! Who may show each other's tokens.

use std::sync::Arc;

use crate::gate::GroupId;

/// Tokens are shared within one domain. Model, dtype and adapter are those of the shards' generation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Domain {
    /// All requests with this salt.
    Salt(Option<Arc<str>>),
    /// The sequences of one request.
    Group(GroupId),
}
