//! Who may come in: one layer over the whole tree, closed but for one list. Knows keys; not what lies behind.

use std::fmt;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, header},
    middleware::Next,
    response::Response,
};
use subtle::{Choice, ConstantTimeEq};

use crate::{error::Cause, refusal::refuse, state::AppState};

/// A key that clients send as `Authorization: Bearer …`. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// `None` where clients could not send it: empty, or with anything but visible ASCII.
    pub fn new(key: impl Into<String>) -> Option<Self> {
        let key = key.into();
        let can_be_sent = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
        can_be_sent.then_some(Self(key))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ApiKey")
    }
}

/// Paths without a key, as with TGI. A route that is not here is closed; so is a path that does not exist.
const PUBLIC: &[&str] = &[
    "/health",
    "/live",
    "/ready",
    "/ping",
    "/info",
    "/metrics",
    "/chat_tokenize",
    "/v1/models",
    "/api-doc/openapi.json",
    "/docs",
];
/// The pages of `/docs`.
const PUBLIC_TREE: &str = "/docs/";

/// Whether anybody may ask this. `/` is public as a probe and closed as a generation route.
pub(crate) fn is_public(method: &Method, path: &str) -> bool {
    let is_probe = path == "/" && (method == Method::GET || method == Method::HEAD);
    is_probe || PUBLIC.contains(&path) || path.starts_with(PUBLIC_TREE)
}

/// Lets requests pass that are public or bear a key; all of them where there are no keys.
pub(crate) async fn guard(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let keys = &state.settings.api_keys;
    let may_pass = keys.is_empty()
        || is_public(request.method(), request.uri().path())
        || bears_one_of(keys, request.headers());
    if may_pass {
        return next.run(request).await;
    }
    let mut response = refuse(&request, Cause::Unauthorized);
    let scheme = HeaderValue::from_static("Bearer");
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, scheme);
    response
}

/// Takes the same time whichever key matches, and wherever one differs.
fn bears_one_of(keys: &[ApiKey], headers: &HeaderMap) -> bool {
    let sent = bearer(headers).unwrap_or_default();
    let found = keys
        .iter()
        .map(|key| key.0.as_bytes().ct_eq(sent))
        .fold(Choice::from(0), |found, is_equal| found | is_equal);
    found.into()
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key)
}
