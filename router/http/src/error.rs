//! The one table of errors: cause to status, error type, metric label and retry hint. Handlers use `?`; the two shapes
//! (native and OpenAI) and the events of streams all come from here, and so does `docs/reference/errors.md`.

use std::{borrow::Cow, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use ribbon_core::{Refusal, StreamError};
use ribbon_text::{EncodeError, TemplateError};
use serde_json::{Value, json};

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The body is not declared as JSON.
    MediaType,
    /// The body is larger than it may be.
    PayloadTooLarge,
    /// The body is not JSON.
    Syntax,
    /// The JSON does not have the request's shape.
    Shape,
    /// A value is out of its range, or a parameter is not supported.
    Validation,
    /// The chat template is missing or refused the messages.
    Template,
    /// Too many requests.
    Overloaded,
    /// No shard has been live yet.
    NotReady,
    /// The server stops.
    ShuttingDown,
    /// The model could not compute the request.
    Generation,
    /// The shards did not come back in time.
    RecoveryTimeout,
    /// The tokens ended without a last one.
    Incomplete,
    /// The same, streaming.
    IncompleteStream,
    /// The health check failed.
    Unhealthy,
    /// No such route.
    NotFound,
    /// The route has other methods.
    MethodNotAllowed,
    /// A fault of the server.
    Internal,
}

/// One line of the table.
#[derive(Debug)]
pub struct Row {
    /// Why.
    pub cause: Cause,
    /// Status on native routes.
    pub native: StatusCode,
    /// `error_type` of native bodies and events; `None` is plain text.
    pub error_type: Option<&'static str>,
    /// Status on `/v1` routes.
    pub openai: StatusCode,
    /// `error.type` of OpenAI bodies.
    pub openai_type: &'static str,
    /// `error.code` of OpenAI bodies.
    pub openai_code: Option<&'static str>,
    /// `err` label of `tgi_request_failure`.
    pub label: &'static str,
    /// Seconds for `Retry-After` where the engine gave none.
    pub retry_after: Option<u64>,
    /// How messages begin.
    pub prefix: &'static str,
}

const fn status(code: u16) -> StatusCode {
    match StatusCode::from_u16(code) {
        Ok(status) => status,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

const fn row(cause: Cause, native: (u16, Option<&'static str>), openai: (u16, &'static str, Option<&'static str>), label: &'static str, prefix: &'static str) -> Row {
    Row {
        cause,
        native: status(native.0),
        error_type: native.1,
        openai: status(openai.0),
        openai_type: openai.1,
        openai_code: openai.2,
        label,
        retry_after: None,
        prefix,
    }
}

impl Row {
    const fn retry(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";

/// Every cause, once.
#[rustfmt::skip]
pub const TABLE: &[Row] = &[
    row(Cause::MediaType, (415, None), (415, INVALID, Some("unsupported_media_type")), "validation", ""),
    row(Cause::PayloadTooLarge, (413, None), (413, INVALID, Some("payload_too_large")), "validation", ""),
    row(Cause::Syntax, (400, None), (400, INVALID, Some("invalid_json")), "validation", ""),
    row(Cause::Shape, (422, None), (400, INVALID, Some("invalid_body")), "validation", ""),
    row(Cause::Validation, (422, Some("validation")), (400, INVALID, Some("invalid_value")), "validation", "Input validation error: "),
    row(Cause::Template, (422, Some("template_error")), (400, INVALID, Some("template_error")), "template", "Template error: "),
    row(Cause::Overloaded, (429, Some("overloaded")), (429, "rate_limit_error", Some("overloaded")), "overloaded", "Model is overloaded: ").retry(1),
    row(Cause::NotReady, (503, Some("not_ready")), (503, SERVER, Some("not_ready")), "not_ready", "").retry(5),
    row(Cause::ShuttingDown, (503, Some("shutting_down")), (503, SERVER, Some("shutting_down")), "shutting_down", "").retry(5),
    row(Cause::Generation, (424, Some("generation")), (500, SERVER, Some("generation")), "generation", "Request failed during generation: "),
    row(Cause::RecoveryTimeout, (424, Some("generation")), (500, SERVER, Some("recovery_timeout")), "generation", "Request failed during generation: ").retry(10),
    row(Cause::Incomplete, (500, Some("incomplete_generation")), (500, SERVER, Some("incomplete_generation")), "incomplete", "Incomplete generation: "),
    row(Cause::IncompleteStream, (500, Some("incomplete_generation_stream")), (500, SERVER, Some("incomplete_generation_stream")), "incomplete", "Incomplete generation stream: "),
    row(Cause::Unhealthy, (503, Some("healthcheck")), (503, SERVER, Some("healthcheck")), "healthcheck", ""),
    row(Cause::NotFound, (404, None), (404, INVALID, Some("not_found")), "not_found", ""),
    row(Cause::MethodNotAllowed, (405, None), (405, INVALID, Some("method_not_allowed")), "method_not_allowed", ""),
    row(Cause::Internal, (500, Some("internal")), (500, SERVER, Some("internal")), "internal", "Internal error: "),
];

impl Cause {
    /// Its line of the table.
    pub fn row(self) -> &'static Row {
        let found = TABLE.iter().find(|row| row.cause == self);
        // A test walks all causes; the last line is the answer to a fault of ours.
        found.unwrap_or(const { &TABLE[TABLE.len() - 1] })
    }
}

/// A failed request, before it has taken a shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// Why.
    pub cause: Cause,
    /// What, value, limit, what to do; without the table's prefix.
    pub message: String,
    /// The parameter at fault.
    pub param: Option<Cow<'static, str>>,
    retry_after: Option<Duration>,
}

impl ApiError {
    /// An error of this cause.
    pub fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into(), param: None, retry_after: None }
    }

    /// A parameter with a value it may not have.
    pub fn invalid(param: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(Cause::Validation, message) }
    }

    /// A body without the request's shape; `path` is where.
    pub(crate) fn shape(path: Option<String>, message: String) -> Self {
        Self { param: path.map(Cow::Owned), ..Self::new(Cause::Shape, message) }
    }

    pub(crate) fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    fn text(&self) -> String {
        format!("{}{}", self.cause.row().prefix, self.message)
    }

    /// The native object, for bodies and events.
    pub fn native_body(&self) -> Value {
        json!({"error": self.text(), "error_type": self.cause.row().error_type.unwrap_or("validation")})
    }

    /// OpenAI's object, for bodies and events.
    pub fn openai_body(&self) -> Value {
        let row = self.cause.row();
        json!({"error": {"message": self.text(), "type": row.openai_type, "param": self.param, "code": row.openai_code}})
    }

    fn native_response(&self) -> Response<Body> {
        let row = self.cause.row();
        match row.error_type {
            Some(_) => self.respond(row.native, "application/json", self.native_body().to_string()),
            None => self.respond(row.native, "text/plain; charset=utf-8", self.text()),
        }
    }

    fn openai_response(&self) -> Response<Body> {
        self.respond(self.cause.row().openai, "application/json", self.openai_body().to_string())
    }

    fn respond(&self, status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
        let mut response = (status, [(header::CONTENT_TYPE, content_type)], body).into_response();
        if let Some(seconds) = self.retry_seconds() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self.clone());
        response
    }

    /// Whole seconds, at least 1.
    fn retry_seconds(&self) -> Option<u64> {
        let hint = self.cause.row().retry_after?;
        Some(self.retry_after.map_or(hint, |after| after.as_secs_f64().ceil().max(1.0) as u64))
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let (cause, retry_after) = match &refusal {
            Refusal::Overloaded { retry_after, .. } => (Cause::Overloaded, Some(*retry_after)),
            Refusal::NotReady { retry_after } => (Cause::NotReady, Some(*retry_after)),
            Refusal::NeverFits { .. } => (Cause::Validation, None),
            Refusal::ShuttingDown => (Cause::ShuttingDown, None),
        };
        Self { retry_after, ..Self::new(cause, refusal.to_string()) }
    }
}

impl From<StreamError> for ApiError {
    fn from(error: StreamError) -> Self {
        let cause = match &error {
            StreamError::Generation(_) => Cause::Generation,
            StreamError::RecoveryTimeout(_) => Cause::RecoveryTimeout,
            StreamError::ShuttingDown => Cause::ShuttingDown,
        };
        Self::new(cause, error.to_string())
    }
}

impl From<TemplateError> for ApiError {
    fn from(error: TemplateError) -> Self {
        Self::new(Cause::Template, error.to_string())
    }
}

impl From<EncodeError> for ApiError {
    fn from(error: EncodeError) -> Self {
        Self::new(Cause::Validation, error.to_string())
    }
}

/// An error on a native route: plain text, or `{error, error_type}`.
#[derive(Debug)]
pub struct NativeError(pub ApiError);

/// An error on an OpenAI route: `{"error": {message, type, param, code}}`.
#[derive(Debug)]
pub struct OpenAiError(pub ApiError);

impl<E: Into<ApiError>> From<E> for NativeError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl<E: Into<ApiError>> From<E> for OpenAiError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for NativeError {
    fn into_response(self) -> Response<Body> {
        self.0.native_response()
    }
}

impl IntoResponse for OpenAiError {
    fn into_response(self) -> Response<Body> {
        self.0.openai_response()
    }
}
