//! In-process tests through the built router, with a scripted engine and the bundled model's tokenizer.

mod bad_input;
mod beams;
mod callers;
mod choices;
mod details;
mod docs;
mod embeddings;
mod fake_engine;
mod fields;
mod fuzz;
mod grammar;
mod keys;
mod lifecycle;
mod native;
mod openai;
mod plumbing;
mod providers;
mod reading;
mod required_calls;
mod same_text;
mod speed;
mod streams;
mod tools;

use std::{
    path::PathBuf,
    sync::{Arc, LazyLock},
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode, header},
    response::Response,
};
use fake_engine::{FakeEngine, Item};
use http_body_util::BodyExt;
use metrics_exporter_prometheus::PrometheusHandle;
use ribbon_text::{ChatTemplate, GrammarCheck, SpecialTokens, Tokenizer};
use serde_json::Value;
use tower::ServiceExt;

use crate::{AppState, Engines, HttpSettings, ModelText};

pub(super) const EOS: u32 = 2;

/// The bundled model's directory.
pub(super) fn model_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../demo-model/weights")
}

/// The bundled model's tokenizer.
pub(super) fn tokenizer() -> Arc<Tokenizer> {
    static TOKENIZER: LazyLock<Arc<Tokenizer>> =
        LazyLock::new(|| Arc::new(Tokenizer::load(&model_path()).unwrap()));
    TOKENIZER.clone()
}

/// The tokens of a text, one item each.
pub(super) fn tokens(text: &str) -> Vec<Item> {
    tokenizer()
        .encode(text, SpecialTokens::Skip)
        .unwrap()
        .into_iter()
        .map(Item::Token)
        .collect()
}

/// A text, then the end token.
pub(super) fn ended(text: &str) -> Vec<Item> {
    let mut items = tokens(text);
    items.push(Item::Token(EOS));
    items
}

/// A server whose model says what the script says.
pub(super) struct Server {
    pub(super) engine: Arc<FakeEngine>,
    pub(super) router: Router,
    pub(super) metrics: PrometheusHandle,
    pub(super) state: AppState,
}

impl Server {
    pub(super) fn saying(script: Vec<Item>) -> Self {
        Self::with(FakeEngine::new(script), HttpSettings::new("demo"))
    }

    pub(super) fn with(engine: FakeEngine, settings: HttpSettings) -> Self {
        let template = ChatTemplate::load(&model_path(), &tokenizer()).unwrap();
        Self::with_template(engine, settings, template)
    }

    pub(super) fn with_template(
        engine: FakeEngine,
        settings: HttpSettings,
        template: Option<ChatTemplate>,
    ) -> Self {
        Self::with_text(engine, settings, (tokenizer(), template))
    }

    pub(super) fn with_text(
        engine: FakeEngine,
        settings: HttpSettings,
        (tokenizer, template): (Arc<Tokenizer>, Option<ChatTemplate>),
    ) -> Self {
        let engine = Arc::new(engine);
        let recorder = crate::metrics::builder(&[]).unwrap().build_recorder();
        let metrics = recorder.handle();
        let text = ModelText {
            tokenizer,
            template,
            grammars: GrammarCheck::new(&model_path()),
        };
        let engines = Engines::single("demo", engine.clone());
        let state = metrics::with_local_recorder(&recorder, || {
            crate::metrics::describe();
            AppState::new(settings, engines, text, metrics.clone()).unwrap()
        });
        Self {
            engine,
            router: crate::router(state.clone()),
            metrics,
            state,
        }
    }

    pub(super) async fn call(&self, request: Request<Body>) -> Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::read(self.call(post(path, body.to_string())).await).await
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        Answer::read(
            self.call(Request::get(path).body(Body::empty()).unwrap())
                .await,
        )
        .await
    }

    /// Value of a sample, with its labels; 0 if it is not there.
    pub(super) fn sample(&self, name: &str) -> u64 {
        let text = self.metrics.render();
        let line = text.lines().find(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(' '))
        });
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }
}

/// A JSON POST.
pub(super) fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(body.into())
        .unwrap()
}

/// A read response.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Answer {
    pub(super) async fn read(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Self {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("no {name}"))
            .to_str()
            .unwrap()
    }

    /// Data of all events; comments are left out.
    pub(super) fn events(&self) -> Vec<&str> {
        self.text
            .split("\n\n")
            .filter_map(|event| event.strip_prefix("data: "))
            .collect()
    }

    /// Data of all events but `[DONE]`.
    pub(super) fn json_events(&self) -> Vec<Value> {
        let events = self.events();
        events
            .iter()
            .filter(|data| **data != "[DONE]")
            .map(|data| serde_json::from_str(data).unwrap())
            .collect()
    }
}

/// JSON with what differs from run to run replaced.
pub(super) fn stable(text: &str) -> String {
    let mut text = text.to_owned();
    for (from, to) in [
        ("\"id\":\"chatcmpl-", "chatcmpl-ID"),
        ("\"id\":\"cmpl-", "cmpl-ID"),
    ] {
        text = replace_until(&text, from, '"', &format!("\"id\":\"{to}"));
    }
    replace_until(&text, "\"created\":", ',', "\"created\":0")
}

fn replace_until(text: &str, from: &str, end: char, to: &str) -> String {
    let mut parts = text.split(from);
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |out, part| {
        out + to + &part[part.find(end).unwrap()..]
    })
}
