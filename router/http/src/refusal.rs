//! Answers to requests that no route takes: nothing but a status, or an object where clients of `/v1` expect one.

use axum::{
    extract::Request,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use crate::error::{ApiError, Cause, OpenAiError};

/// An object under `/v1`, nothing elsewhere.
pub(crate) fn refuse(request: &Request, cause: Cause) -> Response {
    let path = request.uri().path();
    let status: StatusCode = cause.row().native;
    if !path.starts_with("/v1/") && path != "/v1" {
        return status.into_response();
    }
    let shown: String = path.chars().take(128).collect();
    let reason = status.canonical_reason().unwrap_or_default();
    let message = format!("{reason}: {} {shown}", request.method());
    OpenAiError(ApiError::new(cause, message)).into_response()
}
