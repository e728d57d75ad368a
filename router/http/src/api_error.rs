//! A failed request: its cause, its words, and the two shapes it takes. What each cause means is in [`crate::error`].

use std::{borrow::Cow, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use ribbon_core::{Refusal, StreamError};
use ribbon_text::{EncodeError, TemplateError};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::Cause;

/// Gateways know a prompt that is too long by words of the message, and turn to a model with more room: LangChain by the
/// first half, LiteLLM by the second.
const NOT_CUT: &str =
    ". It exceeds the context window; requests that exceed context limits are not cut";

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
    closes_connection: bool,
}

impl ApiError {
    /// An error of this cause.
    pub fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self {
            cause,
            message: message.into(),
            param: None,
            retry_after: None,
            closes_connection: false,
        }
    }

    /// A parameter with a value it may not have.
    pub fn invalid(param: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            param: Some(param.into()),
            ..Self::new(Cause::Validation, message)
        }
    }

    /// The parameter at fault.
    pub(crate) fn at(mut self, param: &'static str) -> Self {
        self.param = Some(param.into());
        self
    }

    /// More tokens than fit; `param` asks for them.
    pub(crate) fn too_long(param: &'static str, message: String) -> Self {
        Self {
            param: Some(param.into()),
            ..Self::new(Cause::TooLong, message + NOT_CUT)
        }
    }

    /// Tools that cannot be used as `param` asks.
    pub(crate) fn tool(param: &'static str, message: String) -> Self {
        Self {
            param: Some(param.into()),
            ..Self::new(Cause::Tool, message)
        }
    }

    /// A body without the request's shape; `path` is where.
    pub(crate) fn shape(path: Option<String>, message: String) -> Self {
        Self {
            param: path.map(Cow::Owned),
            ..Self::new(Cause::Shape, message)
        }
    }

    pub(crate) fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The rest of the body may still come, and would be taken for the next request.
    pub(crate) fn closing(mut self) -> Self {
        self.closes_connection = true;
        self
    }

    fn text(&self) -> String {
        format!("{}{}", self.cause.row().prefix, self.message)
    }

    /// The native object, for bodies and events.
    pub fn native_body(&self) -> NativeErrorBody {
        NativeErrorBody {
            error: self.text(),
            error_type: self.cause.row().error_type.unwrap_or("validation"),
        }
    }

    /// OpenAI's object, for bodies and events.
    pub fn openai_body(&self) -> OpenAiErrorBody {
        let row = self.cause.row();
        OpenAiErrorBody {
            error: OpenAiErrorDetail {
                message: self.text(),
                kind: row.openai_type,
                param: self.param.clone(),
                code: row.openai_code,
            },
        }
    }

    fn native_response(&self) -> Response<Body> {
        let row = self.cause.row();
        match row.error_type {
            Some(_) => self.respond(row.native, "application/json", json(&self.native_body())),
            None => self.respond(row.native, "text/plain; charset=utf-8", self.text()),
        }
    }

    fn openai_response(&self) -> Response<Body> {
        self.respond(
            self.cause.row().openai,
            "application/json",
            json(&self.openai_body()),
        )
    }

    fn respond(
        &self,
        status: StatusCode,
        content_type: &'static str,
        body: String,
    ) -> Response<Body> {
        let mut response = (status, [(header::CONTENT_TYPE, content_type)], body).into_response();
        if let Some(seconds) = self.retry_seconds() {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.closes_connection {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response.extensions_mut().insert(self.clone());
        response
    }

    /// Whole seconds, at least 1.
    fn retry_seconds(&self) -> Option<u64> {
        let hint = self.cause.row().retry_after?;
        Some(
            self.retry_after
                .map_or(hint, |after| after.as_secs_f64().ceil().max(1.0) as u64),
        )
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let (cause, retry_after) = match &refusal {
            Refusal::Overloaded { retry_after, .. } | Refusal::QueueFull { retry_after, .. } => {
                (Cause::Overloaded, Some(*retry_after))
            }
            Refusal::NotReady { retry_after } => (Cause::NotReady, Some(*retry_after)),
            Refusal::NeverFits { .. } => (Cause::TooLong, None),
            Refusal::ShuttingDown => (Cause::ShuttingDown, None),
        };
        Self {
            retry_after,
            ..Self::new(cause, refusal.to_string())
        }
    }
}

impl From<StreamError> for ApiError {
    fn from(error: StreamError) -> Self {
        let cause = match &error {
            StreamError::FewSequences { .. } => {
                return Self::invalid("n", error.to_string());
            }
            StreamError::Generation(_) => Cause::Generation,
            StreamError::RecoveryTimeout(_) => Cause::RecoveryTimeout,
            StreamError::Expired => Cause::Timeout,
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

/// Writing strings to memory does not fail; an empty body would show it if it did.
fn json(body: &impl Serialize) -> String {
    serde_json::to_string(body).unwrap_or_default()
}

/// What a failed native request is answered with, where it is not plain text; also an event of its stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct NativeErrorBody {
    /// What, value, limit, what to do.
    error: String,
    /// Which kind.
    error_type: &'static str,
}

/// What a failed request under `/v1` is answered with; also an event of its stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenAiErrorBody {
    error: OpenAiErrorDetail,
}

#[derive(Debug, Serialize, ToSchema)]
struct OpenAiErrorDetail {
    /// What, value, limit, what to do.
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    /// The parameter at fault.
    #[schema(value_type = Option<String>, required)]
    param: Option<Cow<'static, str>>,
    #[schema(required)]
    code: Option<&'static str>,
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
