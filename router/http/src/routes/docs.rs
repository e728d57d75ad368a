//! `/docs`: Swagger's pages, built in; `/api-doc/openapi.json`: the document they show.

use axum::Router;
use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::SwaggerUi;

use crate::state::AppState;

pub(super) fn routes(document: OpenApi) -> Router<AppState> {
    SwaggerUi::new("/docs")
        .url("/api-doc/openapi.json", document)
        .into()
}
