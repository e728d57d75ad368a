//! What a token and a scrape cost. Run by hand: `cargo test -p ribbon-http speed -- --ignored --nocapture`.

use std::time::Instant;

use serde_json::{Value, json};

use super::*;

const REQUESTS: usize = 200;

async fn microseconds_per_token(server: &Server, path: &str, body: &Value) -> f64 {
    let start = Instant::now();
    let mut tokens = 0;
    for _ in 0..REQUESTS {
        tokens += server.post(path, body).await.events().len();
    }
    start.elapsed().as_secs_f64() * 1e6 / tokens as f64
}

#[tokio::test]
#[ignore = "a measurement"]
async fn a_token_and_a_scrape() {
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(8);
    let server = Server::saying(tokens(&text));
    let native = json!({"inputs": "Hi", "parameters": {"max_new_tokens": 80}});
    let chat = json!({"messages": [{"role": "user", "content": "Hi"}], "stream": true, "max_tokens": 80, "stop": ["nothing"]});
    for (path, body) in [("/generate_stream", native), ("/v1/chat/completions", chat)] {
        let cost = microseconds_per_token(&server, path, &body).await;
        eprintln!("{path}: {cost:.2} us a token, requests included");
    }
    server.metrics.run_upkeep();
    let start = Instant::now();
    let length = server.metrics.render().len();
    let cost = start.elapsed().as_secs_f64() * 1e6;
    eprintln!("scrape: {cost:.0} us, {length} bytes");
}
