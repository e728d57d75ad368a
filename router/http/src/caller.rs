//! Who asks, and how long they wait: what the headers of a request say. Knows no body and no engine.

use std::{
    future::Future,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use axum::http::{HeaderMap, header};
use ribbon_core::StreamError;
use tokio::time::{Instant, timeout_at};

use crate::{error::ApiError, headers::traceparent};

/// Seconds that a client waits for its answer.
pub(crate) const TIMEOUT_HEADER: &str = "x-request-timeout";
/// Longest time that can be asked for: eleven days.
const MAX_TIMEOUT_SECONDS: f64 = 1e6;

/// What the headers say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller {
    pub(crate) traceparent: Option<Arc<str>>,
    /// When nobody wants the answer any more.
    pub(crate) deadline: Option<Instant>,
    /// Stands for the API key, if one was sent.
    key: Option<u64>,
}

impl Caller {
    /// Reads the headers of a request that arrived at `arrived`; `patience` is for those that name no time.
    ///
    /// # Errors
    /// `X-Request-Timeout` is no time.
    pub(crate) fn read(
        headers: &HeaderMap,
        arrived: Instant,
        patience: Option<Duration>,
        names: &Names,
    ) -> Result<Self, ApiError> {
        let key = headers.get(header::AUTHORIZATION);
        Ok(Self {
            traceparent: traceparent(headers),
            deadline: timeout(headers)?.or(patience).map(|time| arrived + time),
            key: key.map(|key| names.0.hash_one(key.as_bytes())),
        })
    }

    /// Whom the queue is fair to: the API key and, under it, the `user`.
    pub(crate) fn tenant(&self, user: Option<&str>, names: &Names) -> Option<Arc<str>> {
        if self.key.is_none() && user.is_none() {
            return None;
        }
        Some(format!("{:016x}", names.0.hash_one((self.key, user))).into())
    }

    /// Waits for `work`, but not beyond the deadline.
    ///
    /// # Errors
    /// The time is over.
    pub(crate) async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, ApiError> {
        match self.deadline {
            None => Ok(work.await),
            Some(deadline) => {
                let in_time = timeout_at(deadline, work).await;
                in_time.map_err(|_| StreamError::Expired.into())
            }
        }
    }
}

/// Makes names of tenants that tell nothing of their keys. Differs from one router to the next.
#[derive(Debug, Default)]
pub(crate) struct Names(RandomState);

fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let mut values = headers.get_all(TIMEOUT_HEADER).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let shown = String::from_utf8_lossy(value.as_bytes());
    let shown: String = shown.chars().take(64).collect();
    let seconds = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let is_time = |seconds: &f64| *seconds > 0.0 && *seconds <= MAX_TIMEOUT_SECONDS;
    match (seconds.filter(is_time), values.next()) {
        (_, Some(_)) => Err(refused(
            "`X-Request-Timeout` is given twice; give one".to_owned(),
        )),
        (Some(seconds), None) => Ok(Some(Duration::from_secs_f64(seconds))),
        (None, None) => Err(refused(format!(
            "`X-Request-Timeout` is `{shown}`; it must be seconds, above 0 and at most {MAX_TIMEOUT_SECONDS}"
        ))),
    }
}

fn refused(message: String) -> ApiError {
    ApiError::invalid("X-Request-Timeout", message)
}
