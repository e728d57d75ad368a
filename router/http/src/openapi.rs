//! The OpenAPI document beyond its routes: errors from the one table, keys from the one list of public paths.

use std::collections::BTreeMap;

use axum::http::{Method, StatusCode};
use utoipa::{
    IntoResponses, OpenApi, PartialSchema, ToSchema,
    openapi::{
        self, Content, ObjectBuilder, PathItem, Ref, RefOr, Response, ResponseBuilder, Type,
        header::Header,
        path::Operation,
        schema::{AllOfBuilder, Schema},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

use crate::{
    auth,
    error::{Cause, NativeErrorBody, OpenAiErrorBody, Row, rows},
    schema::{
        native_answer::StreamEvent, openai::OpenAiRequest, openai_answer::Object as OpenAiAnswer,
    },
};

const KEY: &str = "key";

/// What the document begins with.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Ribbon",
        description = "Text generation by large language models, for clients of TGI and of OpenAI."
    ),
    components(schemas(
        NativeErrorBody,
        OpenAiErrorBody,
        OpenAiRequest,
        StreamEvent,
        OpenAiAnswer
    ))
)]
struct Beginning;

/// A document without routes.
pub(crate) fn beginning() -> openapi::OpenApi {
    let mut document = Beginning::openapi();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    if let Some(components) = &mut document.components {
        components.add_security_scheme(KEY, SecurityScheme::Http(bearer));
    }
    document.security = Some(vec![SecurityRequirement::new(KEY, Vec::<String>::new())]);
    document
}

/// The document with its routes: public ones need no key, the others answer 401 without.
pub(crate) fn completed(mut document: openapi::OpenApi) -> openapi::OpenApi {
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            if auth::is_public(&method, path) {
                operation.security = Some(Vec::new());
            } else {
                let answers = &mut operation.responses.responses;
                answers.extend(documented(
                    |cause| cause == Cause::Unauthorized,
                    &face(path),
                ));
            }
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    let get = item
        .get
        .iter_mut()
        .map(|operation| (Method::GET, operation));
    get.chain(
        item.post
            .iter_mut()
            .map(|operation| (Method::POST, operation)),
    )
}

fn face(path: &str) -> Face {
    if path.starts_with("/v1/") {
        OPENAI
    } else {
        NATIVE
    }
}

/// How a route shows errors.
struct Face {
    status: fn(&Row) -> StatusCode,
    /// `None` is plain text.
    name: fn(&Row) -> Option<&'static str>,
    body: fn() -> Ref,
}

const NATIVE: Face = Face {
    status: |row| row.native,
    name: |row| row.error_type,
    body: || Ref::from_schema_name(NativeErrorBody::name()),
};
const OPENAI: Face = Face {
    status: |row| row.openai,
    name: |row| row.openai_code,
    body: || Ref::from_schema_name(OpenAiErrorBody::name()),
};

type Documented = BTreeMap<String, RefOr<Response>>;

/// The answers to requests that fail by these causes, one for each status.
fn documented(applies: impl Fn(Cause) -> bool, face: &Face) -> Documented {
    let mut by_status = BTreeMap::<u16, Vec<&Row>>::new();
    for row in rows().filter(|row| applies(row.cause)) {
        let status = (face.status)(row).as_u16();
        by_status.entry(status).or_default().push(row);
    }
    let answer =
        |(status, rows): (u16, Vec<&Row>)| (status.to_string(), RefOr::T(failure(&rows, face)));
    by_status.into_iter().map(answer).collect()
}

fn failure(rows: &[&Row], face: &Face) -> Response {
    // Without a name an error is its text alone; without a key there is none, as with TGI.
    let is_empty = |row: &Row| row.cause == Cause::Unauthorized;
    let named = |row: &&Row| match (face.name)(row) {
        Some(name) => format!("{:?} (`{name}`)", row.cause),
        None if is_empty(row) => format!("{:?} (empty)", row.cause),
        None => format!("{:?} (plain text)", row.cause),
    };
    let is_text = |row: &&Row| (face.name)(row).is_none() && !is_empty(row);
    let words: Vec<String> = rows.iter().map(named).collect();
    let mut answer = ResponseBuilder::new().description(words.join(", "));
    if rows.iter().any(is_text) {
        answer = answer.content("text/plain", Content::new(Some(String::schema())));
    }
    if rows.iter().any(|row| (face.name)(row).is_some()) {
        answer = answer.content("application/json", Content::new(Some((face.body)())));
    }
    if rows.iter().any(|row| row.retry_after.is_some()) {
        answer = answer.header("Retry-After", Header::new(u64::schema()));
    }
    answer.build()
}

/// Causes that a request with a body can fail by.
fn with_body(cause: Cause) -> bool {
    let of_other_routes = [
        Cause::Unauthorized,
        Cause::Unhealthy,
        Cause::NotFound,
        Cause::MethodNotAllowed,
    ];
    !of_other_routes.contains(&cause)
}

/// Causes that need no engine.
fn with_text(cause: Cause) -> bool {
    let of_the_engine = [
        Cause::NoInstances,
        Cause::TooLong,
        Cause::NotReady,
        Cause::ShuttingDown,
        Cause::Generation,
        Cause::RecoveryTimeout,
        Cause::Incomplete,
        Cause::IncompleteStream,
    ];
    with_body(cause) && !of_the_engine.contains(&cause)
}

/// Errors of native generation routes.
pub(crate) struct NativeErrors;

impl IntoResponses for NativeErrors {
    fn responses() -> Documented {
        documented(with_body, &NATIVE)
    }
}

/// Errors of routes that only tokenize.
pub(crate) struct TextErrors;

impl IntoResponses for TextErrors {
    fn responses() -> Documented {
        documented(with_text, &NATIVE)
    }
}

/// Errors of OpenAI's generation routes.
pub(crate) struct OpenAiErrors;

impl IntoResponses for OpenAiErrors {
    fn responses() -> Documented {
        documented(with_body, &OPENAI)
    }
}

/// The shared body of OpenAI's routes, with the field that this one cannot do without.
fn needs(field: &str) -> RefOr<Schema> {
    let needed = ObjectBuilder::new()
        .schema_type(Type::Object)
        .required(field);
    let body = AllOfBuilder::new()
        .item(Ref::from_schema_name(OpenAiRequest::name()))
        .item(needed);
    body.into()
}

/// Body of chat.
pub(crate) struct ChatBody;

impl PartialSchema for ChatBody {
    fn schema() -> RefOr<Schema> {
        needs("messages")
    }
}

impl ToSchema for ChatBody {}

/// Body of completions.
pub(crate) struct CompletionBody;

impl PartialSchema for CompletionBody {
    fn schema() -> RefOr<Schema> {
        needs("prompt")
    }
}

impl ToSchema for CompletionBody {}

/// A body of one of several routes.
pub(crate) struct AnyBody;

impl PartialSchema for AnyBody {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::Object).into()
    }
}

impl ToSchema for AnyBody {}

/// An event of a native stream: a token, or an error where one ends it.
pub(crate) struct NativeEvent;

impl PartialSchema for NativeEvent {
    fn schema() -> RefOr<Schema> {
        event("`StreamEvent`, or `NativeErrorBody` where an error ends the stream")
    }
}

impl ToSchema for NativeEvent {}

/// An event of a stream of OpenAI's routes.
pub(crate) struct OpenAiEvent;

impl PartialSchema for OpenAiEvent {
    fn schema() -> RefOr<Schema> {
        event("`OpenAiAnswer`, `OpenAiErrorBody` where an error ends the stream, or `[DONE]`")
    }
}

impl ToSchema for OpenAiEvent {}

/// A server-sent event, as OpenAPI describes the items of a stream: its data is a text, here JSON.
fn event(data: &str) -> RefOr<Schema> {
    let data = ObjectBuilder::new()
        .schema_type(Type::String)
        .content_media_type("application/json")
        .description(Some(data));
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("data", data)
        .into()
}
