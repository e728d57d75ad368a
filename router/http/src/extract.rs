//! Bodies to typed requests. Every way a body can be wrong has its cause; a wrong shape names its path.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    http::{Extensions, HeaderMap, header, request::Parts},
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout};

use crate::{
    caller::Caller,
    error::{ApiError, Cause, NativeError, OpenAiError},
    instruments::Tally,
    state::AppState,
};

/// A JSON body of a native route.
pub(crate) struct NativeJson<T>(pub(crate) T);

/// A JSON body of an OpenAI route.
pub(crate) struct OpenAiJson<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<AppState> for NativeJson<T> {
    type Rejection = NativeError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, NativeError> {
        Ok(Self(read(request, state).await?))
    }
}

impl<T: DeserializeOwned> FromRequest<AppState> for OpenAiJson<T> {
    type Rejection = OpenAiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, OpenAiError> {
        Ok(Self(read(request, state).await?))
    }
}

/// A JSON body whose route is not known yet.
pub(crate) struct RawJson(Bytes);

impl RawJson {
    /// What a route reads in it.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        parse(&self.0)
    }
}

/// A body that did not come over the wire.
#[cfg(test)]
pub(crate) fn raw(bytes: Vec<u8>) -> RawJson {
    RawJson(bytes.into())
}

impl FromRequest<AppState> for RawJson {
    type Rejection = NativeError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, NativeError> {
        Ok(Self(body(request, state).await?))
    }
}

async fn read<T: DeserializeOwned>(request: Request, state: &AppState) -> Result<T, ApiError> {
    parse(&body(request, state).await?)
}

async fn body(request: Request, state: &AppState) -> Result<Bytes, ApiError> {
    if !is_json(request.headers()) {
        return Err(ApiError::new(
            Cause::MediaType,
            "Expected request with `Content-Type: application/json`",
        ));
    }
    let caller = state.caller(request.headers(), arrived(request.extensions()))?;
    let limit = state.settings.body_timeout;
    let reading = timeout(limit, bytes(request, state.settings.payload_limit));
    let in_time = caller.in_time(reading).await;
    match in_time.map_err(ApiError::closing)? {
        Ok(body) => body,
        Err(_) => Err(slow(limit).closing()),
    }
}

/// Of a request that is counted, when it was; of another one, now.
fn arrived(extensions: &Extensions) -> Instant {
    let tally = extensions.get::<Arc<Tally>>();
    tally.map_or_else(Instant::now, |tally| tally.arrived)
}

/// Before the body is read, whose time counts.
impl FromRequestParts<AppState> for Caller {
    type Rejection = NativeError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, NativeError> {
        Ok(state.caller(&parts.headers, arrived(&parts.extensions))?)
    }
}

fn slow(limit: Duration) -> ApiError {
    let message = format!("the body was not complete after {} s", limit.as_secs_f64());
    ApiError::new(Cause::SlowBody, message)
}

/// `application/json` or `application/*+json`, with any parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = media_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    essence
        .strip_prefix("application/")
        .is_some_and(|subtype| subtype == "json" || subtype.ends_with("+json"))
}

async fn bytes(request: Request, limit: usize) -> Result<Bytes, ApiError> {
    let too_large = || {
        ApiError::new(
            Cause::PayloadTooLarge,
            format!("the body is larger than {limit} bytes (`--payload-limit`)"),
        )
    };
    let declared = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    match Limited::new(request.into_body(), limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(ApiError::new(
            Cause::Syntax,
            "the body ended before its declared length",
        )),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value =
        serde_path_to_error::deserialize(&mut reader).map_err(|error| unreadable(&error))?;
    reader.end().map_err(|error| {
        ApiError::new(
            Cause::Syntax,
            format!("Failed to parse the request body as JSON: {error}"),
        )
    })?;
    Ok(value)
}

/// Reads an object inside a body; `at` is its path.
pub(crate) fn from_object<T: DeserializeOwned>(
    object: Map<String, Value>,
    at: &str,
) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(Value::Object(object)).map_err(|error| {
        let path = match error.path().to_string().as_str() {
            "." => at.to_owned(),
            inner => format!("{at}.{inner}"),
        };
        misshapen(Some(path), error.inner())
    })
}

fn misshapen(path: Option<String>, error: &serde_json::Error) -> ApiError {
    let at = path
        .as_deref()
        .map_or(String::new(), |path| format!("{path}: "));
    let message = format!("Failed to deserialize the JSON body into the target type: {at}{error}");
    ApiError::shape(path, message)
}

fn unreadable(error: &serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let path = error.path().to_string();
    if !error.inner().is_data() {
        return ApiError::new(
            Cause::Syntax,
            format!(
                "Failed to parse the request body as JSON: {}",
                error.inner()
            ),
        );
    }
    misshapen((path != ".").then_some(path), error.inner())
}
