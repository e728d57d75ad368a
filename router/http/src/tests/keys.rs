//! Who may come in: every route that is not on the public list is closed, and nothing else opens it than a key.

use axum::http::{HeaderName, Method, StatusCode};
use serde_json::{Value, json};

use super::*;
use crate::ApiKey;

fn guarded(keys: &[&str]) -> Server {
    let mut settings = HttpSettings::new("demo");
    settings.debug_routes = true;
    settings.api_keys = keys.iter().map(|key| ApiKey::new(*key).unwrap()).collect();
    Server::with(FakeEngine::new(ended("a")), settings)
}

async fn asked(server: &Server, method: &str, path: &str, key: Option<&str>) -> Answer {
    let mut request = Request::builder()
        .method(method.to_uppercase().as_str())
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(key) = key {
        request = request.header(header::AUTHORIZATION, key);
    }
    Answer::read(server.call(request.body(Body::from("{}")).unwrap()).await).await
}

/// Every route of the document, and those that it leaves out.
async fn routes(server: &Server) -> Vec<(String, String)> {
    let document = server.get("/api-doc/openapi.json").await.json();
    let mut routes: Vec<(String, String)> = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let methods = operations.as_object().unwrap().keys();
        routes.extend(methods.map(|method| (method.clone(), path.clone())));
    }
    for path in [
        "/debug/ribbons",
        "/docs/",
        "/nowhere",
        "/v1/nowhere",
        "/v1",
        "/docsy",
        "//generate",
    ] {
        routes.push(("get".to_owned(), path.to_owned()));
    }
    routes
}

/// TGI's open routes, and the probes.
const OPEN: [(&str, &str); 12] = [
    ("get", "/"),
    ("get", "/health"),
    ("get", "/live"),
    ("get", "/ready"),
    ("get", "/ping"),
    ("get", "/info"),
    ("get", "/metrics"),
    ("get", "/v1/models"),
    ("get", "/docs/"),
    ("get", "/api-doc/openapi.json"),
    ("post", "/chat_tokenize"),
    ("get", "/docs"),
];

#[tokio::test]
async fn every_route_but_the_public_ones_is_closed_without_a_key() {
    let server = guarded(&["secret"]);
    let routes = routes(&server).await;
    assert!(routes.len() >= 23, "{routes:?}");
    for (method, path) in routes {
        let answer = asked(&server, &method, &path, None).await;
        let is_open = OPEN.contains(&(method.as_str(), path.as_str()));
        assert_eq!(
            answer.status != StatusCode::UNAUTHORIZED,
            is_open,
            "{method} {path}"
        );
        let with_key = asked(&server, &method, &path, Some("Bearer secret")).await;
        assert_ne!(with_key.status, StatusCode::UNAUTHORIZED, "{method} {path}");
    }
    assert!(server.engine.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn only_a_whole_key_opens() {
    let server = guarded(&["secret", "other-key"]);
    let body = json!({"inputs": "Hi"});
    for (sent, opens) in [
        ("Bearer secret", true),
        ("bearer secret", true),
        ("Bearer other-key", true),
        ("Bearer SECRET", false),
        ("Bearer secre", false),
        ("Bearer secrets", false),
        ("Bearer  secret", false),
        ("Bearer ", false),
        ("Bearer", false),
        ("secret", false),
        ("Basic secret", false),
        ("", false),
    ] {
        let mut request = post("/generate", body.to_string());
        let headers = request.headers_mut();
        headers.insert(header::AUTHORIZATION, sent.parse().unwrap());
        let status = server.call(request).await.status();
        assert_eq!(status == StatusCode::OK, opens, "{sent}: {status}");
    }
}

#[tokio::test]
async fn the_refusal_names_the_scheme_and_is_an_object_under_v1() {
    let server = guarded(&["secret"]);
    let native = asked(&server, "post", "/generate", None).await;
    assert_eq!((native.status.as_u16(), native.text.as_str()), (401, ""));
    assert_eq!(native.header("www-authenticate"), "Bearer");
    let openai = asked(&server, "post", "/v1/chat/completions", None).await;
    assert_eq!(openai.json()["error"]["code"], "invalid_api_key");
    assert_eq!(
        openai.header("access-control-allow-origin"),
        "*",
        "a page can read it"
    );
}

#[tokio::test]
async fn a_page_may_ask_whether_it_may_ask() {
    let server = guarded(&["secret"]);
    let preflight = Request::options("/generate")
        .header("origin", "http://page.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization");
    let answer = server.call(preflight.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_document_says_which_routes_need_a_key() {
    let server = guarded(&["secret"]);
    let document = server.get("/api-doc/openapi.json").await.json();
    for (method, path) in routes(&server).await {
        let Some(operation) = document["paths"][&path].get(&method) else {
            continue;
        };
        let is_open = OPEN.contains(&(method.as_str(), path.as_str()));
        assert_eq!(
            operation["security"] == json!([]),
            is_open,
            "{method} {path}"
        );
        assert_eq!(
            operation["responses"].get("401").is_none(),
            is_open,
            "{method} {path}"
        );
    }
}

#[test]
fn a_key_that_cannot_be_sent_is_none() {
    for bad in ["", "with space", "tab\t", "ümlaut", "new\nline"] {
        assert!(ApiKey::new(bad).is_none(), "{bad:?}");
    }
    assert!(!format!("{:?}", ApiKey::new("secret")).contains("secret"));
}

async fn origins(allowed: &[&str], origin: &str) -> Option<String> {
    let mut settings = HttpSettings::new("demo");
    settings.allowed_origins = allowed
        .iter()
        .map(|origin| origin.parse().unwrap())
        .collect();
    let server = Server::with(FakeEngine::new(ended("a")), settings);
    let request = Request::get("/health").header("origin", origin);
    let answer = server.call(request.body(Body::empty()).unwrap()).await;
    let allowed = answer.headers().get("access-control-allow-origin");
    allowed.map(|origin| origin.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn the_operator_may_name_the_origins() {
    let mine = "https://mine.example";
    assert_eq!(
        origins(&[], "https://any.example").await.as_deref(),
        Some("*")
    );
    assert_eq!(origins(&[mine], mine).await.as_deref(), Some(mine));
    assert_eq!(origins(&[mine], "https://any.example").await, None);
    assert_eq!(
        origins(&["https://a.example", mine], mine).await.as_deref(),
        Some(mine)
    );
}

#[tokio::test]
async fn a_request_has_a_name() {
    let server = Server::saying(ended("a"));
    let id = HeaderName::from_static("x-request-id");
    for (path, method) in [("/generate", Method::POST), ("/nowhere", Method::GET)] {
        let mut request = post(path, json!({"inputs": "Hi"}).to_string());
        *request.method_mut() = method;
        request.headers_mut().insert(&id, "mine-7".parse().unwrap());
        assert_eq!(server.call(request).await.headers()[&id], "mine-7");
    }
    let names = [server.get("/health").await, server.get("/health").await];
    let [first, second] = names.map(|answer| answer.header("x-request-id").to_owned());
    assert!(first.len() >= 32 && first != second);
}

#[tokio::test]
async fn an_id_that_is_empty_or_endless_is_replaced() {
    let server = Server::saying(ended("a"));
    let id = HeaderName::from_static("x-request-id");
    for (length, is_kept) in [(0, false), (1, true), (256, true), (257, false)] {
        let mine = "x".repeat(length);
        let mut request = post("/generate", json!({"inputs": "Hi"}).to_string());
        request.headers_mut().insert(&id, mine.parse().unwrap());
        let answer = server.call(request).await;
        let shown = answer.headers()[&id].to_str().unwrap();
        assert_eq!(shown == mine, is_kept, "{length}: {shown}");
        assert!((1..=256).contains(&shown.len()), "{length}: {shown}");
    }
}

async fn coded(server: &Server, path: &str, body: &Value) -> Answer {
    let mut request = post(path, body.to_string());
    let headers = request.headers_mut();
    headers.insert(header::ACCEPT_ENCODING, "gzip".parse().unwrap());
    let response = server.call(request).await;
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Answer {
        status: parts.status,
        headers: parts.headers,
        text: bytes.iter().map(|&byte| char::from(byte)).collect(),
    }
}

#[tokio::test]
async fn whole_answers_are_compressed_for_those_who_ask_and_streams_never() {
    let server = Server::saying(ended(&"long ".repeat(40)));
    let body = json!({"inputs": "Hi", "parameters": {"details": true}});
    let whole = coded(&server, "/generate", &body).await;
    assert_eq!(whole.header("content-encoding"), "gzip");
    assert!(whole.text.starts_with("\u{1f}\u{8b}"), "gzip begins so");
    let plain = server.post("/generate", &body).await;
    assert!(whole.text.len() < plain.text.len() / 2);
    assert!(plain.headers.get("content-encoding").is_none());
    let stream = coded(&server, "/generate_stream", &body).await;
    assert!(stream.headers.get("content-encoding").is_none());
    assert!(stream.text.starts_with("data: "));
}
