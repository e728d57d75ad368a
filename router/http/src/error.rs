//! The one table of errors: cause to status, error type, metric label and retry hint. Handlers use `?`; the two shapes
//! (native and OpenAI) and the events of streams all come from here, and so does `docs/reference/errors.md`.

use axum::http::StatusCode;

pub use crate::api_error::{ApiError, NativeError, NativeErrorBody, OpenAiError, OpenAiErrorBody};

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No key, or one that is not known.
    Unauthorized,
    /// The body is not declared as JSON.
    MediaType,
    /// The body is larger than it may be.
    PayloadTooLarge,
    /// The body takes too long to arrive.
    SlowBody,
    /// The body is not JSON.
    Syntax,
    /// The JSON does not have the request's shape.
    Shape,
    /// A value is out of its range, or a parameter is not supported.
    Validation,
    /// A text to be filled in.
    Suffix,
    /// More prompts than one call may have.
    BatchSize,
    /// A Vertex request asks for nothing.
    NoInstances,
    /// Prompt, or prompt and generation, are longer than the model or its memory allows.
    TooLong,
    /// The chat template is missing or refused the messages.
    Template,
    /// The tools cannot be used as asked.
    Tool,
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
    /// The request's deadline has passed.
    Timeout,
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

const fn row(
    cause: Cause,
    native: (u16, Option<&'static str>),
    openai: (u16, &'static str, Option<&'static str>),
    label: &'static str,
    prefix: &'static str,
) -> Row {
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

/// Every cause but the last, once.
#[rustfmt::skip]
static TABLE: &[Row] = &[
    row(Cause::Unauthorized, (401, None), (401, INVALID, Some("invalid_api_key")), "unauthorized", ""),
    row(Cause::MediaType, (415, None), (415, INVALID, Some("unsupported_media_type")), "validation", ""),
    row(Cause::PayloadTooLarge, (413, None), (413, INVALID, Some("payload_too_large")), "validation", ""),
    row(Cause::SlowBody, (408, Some("request_timeout")), (408, INVALID, Some("request_timeout")), "validation", ""),
    row(Cause::Syntax, (400, None), (400, INVALID, Some("invalid_json")), "validation", ""),
    row(Cause::Shape, (422, None), (422, INVALID, Some("invalid_body")), "validation", ""),
    row(Cause::Validation, (422, Some("validation")), (422, INVALID, Some("invalid_value")), "validation", "Input validation error: "),
    row(Cause::Suffix, (422, Some("suffix not supported")), (422, INVALID, Some("suffix_not_supported")), "validation", "Input validation error: "),
    row(Cause::BatchSize, (422, Some("batch size exceeded")), (422, INVALID, Some("batch_size_exceeded")), "validation", "Input validation error: "),
    row(Cause::NoInstances, (422, Some("Input validation error")), (422, INVALID, Some("invalid_value")), "validation", "Input validation error: "),
    row(Cause::TooLong, (422, Some("validation")), (422, INVALID, Some("context_length_exceeded")), "validation", "Input validation error: "),
    row(Cause::Template, (422, Some("template_error")), (422, INVALID, Some("template_error")), "template", "Template error: "),
    row(Cause::Tool, (422, Some("tool_error")), (422, INVALID, Some("tool_error")), "tool", "Tool error: "),
    row(Cause::Overloaded, (429, Some("overloaded")), (429, "rate_limit_error", Some("overloaded")), "overloaded", "Model is overloaded: ").retry(1),
    row(Cause::NotReady, (503, Some("not_ready")), (503, SERVER, Some("not_ready")), "not_ready", "").retry(5),
    row(Cause::ShuttingDown, (503, Some("shutting_down")), (503, SERVER, Some("shutting_down")), "shutting_down", "").retry(5),
    row(Cause::Generation, (424, Some("generation")), (500, SERVER, Some("generation")), "generation", "Request failed during generation: "),
    row(Cause::RecoveryTimeout, (424, Some("generation")), (500, SERVER, Some("recovery_timeout")), "generation", "Request failed during generation: ").retry(10),
    row(Cause::Timeout, (504, Some("timeout")), (504, "timeout_error", Some("timeout")), "timeout", "Request timed out: "),
    row(Cause::Incomplete, (500, Some("incomplete_generation")), (500, SERVER, Some("incomplete_generation")), "incomplete", "Incomplete generation: "),
    row(Cause::IncompleteStream, (500, Some("incomplete_generation_stream")), (500, SERVER, Some("incomplete_generation_stream")), "incomplete", "Incomplete generation stream: "),
    row(Cause::Unhealthy, (503, Some("healthcheck")), (503, SERVER, Some("healthcheck")), "healthcheck", ""),
    row(Cause::NotFound, (404, None), (404, INVALID, Some("not_found")), "not_found", ""),
    row(Cause::MethodNotAllowed, (405, None), (405, INVALID, Some("method_not_allowed")), "method_not_allowed", ""),
];

/// The answer to a fault of ours.
static INTERNAL: Row = row(
    Cause::Internal,
    (500, Some("internal")),
    (500, SERVER, Some("internal")),
    "internal",
    "Internal error: ",
);

/// Every row, the last one included.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    TABLE.iter().chain([&INTERNAL])
}

impl Cause {
    /// Its line of the table.
    pub fn row(self) -> &'static Row {
        let found = TABLE.iter().find(|row| row.cause == self);
        found.unwrap_or(&INTERNAL)
    }
}
