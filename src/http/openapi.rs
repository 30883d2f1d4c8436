//! The problems of an operation, written into the OpenAPI document.
//!
//! OpenAPI has one response for a status, and we have many codes for one: so codes of a status
//! share a response, whose description lists them and which has an example of each.
//!
//! What it does not do: know which operation has which problems; that table is kept where the
//! routes are.

use std::collections::BTreeMap;

use lessor_protocol::{FieldError, ProblemCode};
use utoipa::openapi::content::{Content, ContentBuilder};
use utoipa::openapi::example::{Example, ExampleBuilder};
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{OpenApi, PathItem, Ref, RefOr, Response, ResponseBuilder};

use super::render::PROBLEM_JSON;
use crate::problem::Problem;

/// Adds the responses of these codes to an operation and says whether there is such an operation.
/// Responses of the same statuses that were described otherwise are replaced. The schema
/// `Problem` must be among the document's components.
pub fn add_problems(openapi: &mut OpenApi, operation_id: &str, codes: &[ProblemCode]) -> bool {
    let found = openapi
        .paths
        .paths
        .values_mut()
        .flat_map(operations)
        .find(|operation| operation.operation_id.as_deref() == Some(operation_id));
    let Some(operation) = found else { return false };
    let mut by_status: BTreeMap<u16, Vec<ProblemCode>> = BTreeMap::new();
    for code in codes {
        let same = by_status.entry(code.status()).or_default();
        if !same.contains(code) {
            same.push(*code);
        }
    }
    for (status, codes) in by_status {
        operation
            .responses
            .responses
            .insert(status.to_string(), RefOr::T(response(status, &codes)));
    }
    true
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.put,
        &mut item.post,
        &mut item.patch,
        &mut item.delete,
    ]
    .into_iter()
    .flatten()
}

fn response(status: u16, codes: &[ProblemCode]) -> Response {
    let lines: Vec<String> = codes
        .iter()
        .map(|code| format!("- `{code}`: {}", code.title()))
        .collect();
    let response = ResponseBuilder::new()
        .description(lines.join("\n"))
        .content(PROBLEM_JSON, content(codes))
        .build();
    with_header(response, status)
}

fn content(codes: &[ProblemCode]) -> Content {
    let examples = codes.iter().map(|code| (code.to_string(), example(*code)));
    ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .examples_from_iter(examples)
        .build()
}

fn example(code: ProblemCode) -> Example {
    let mut problem = Problem::new(code, code.title());
    if code == ProblemCode::ValidationFailed {
        problem.errors = vec![FieldError {
            pointer: "/capacity".to_owned(),
            message: "must be from 0 to 1000000".to_owned(),
        }];
    }
    let document = problem.document("01890a5d-ac96-774b-bcce-b302099a8057");
    ExampleBuilder::new()
        .summary(code.title())
        .value(serde_json::to_value(document).ok())
        .build()
}

/// The header that answers of this status always have.
fn with_header(mut response: Response, status: u16) -> Response {
    let (name, kind, description) = match status {
        401 => ("WWW-Authenticate", Type::String, "`Bearer`"),
        429 | 503 => (
            "Retry-After",
            Type::Integer,
            "After how many seconds to try again",
        ),
        _ => return response,
    };
    let schema = ObjectBuilder::new().schema_type(kind).build();
    let header = HeaderBuilder::new()
        .schema(Some(schema))
        .description(Some(description))
        .build();
    response.headers.insert(name.to_owned(), header.into());
    response
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use utoipa::OpenApi as _;

    use super::*;

    #[utoipa::path(get, path = "/v1/x", operation_id = "get_x", responses((status = 200, description = "It")))]
    #[allow(dead_code)]
    fn x() {}

    #[derive(utoipa::OpenApi)]
    #[openapi(paths(x), components(schemas(lessor_protocol::Problem)))]
    struct Api;

    #[test]
    fn codes_of_a_status_share_a_response() {
        let mut openapi = Api::openapi();
        let codes = [
            ProblemCode::PoolNotFound,
            ProblemCode::Stopping,
            ProblemCode::SessionNotFound,
            ProblemCode::PoolNotFound,
            ProblemCode::ValidationFailed,
        ];
        assert!(add_problems(&mut openapi, "get_x", &codes));
        assert!(!add_problems(&mut openapi, "get_y", &codes));
        let document = serde_json::to_value(&openapi).expect("JSON");
        let responses = &document["paths"]["/v1/x"]["get"]["responses"];
        assert_eq!(
            responses
                .as_object()
                .expect("an object")
                .keys()
                .collect::<Vec<_>>(),
            ["200", "404", "422", "503"]
        );
        let not_found = &responses["404"];
        assert_eq!(
            not_found["description"],
            "- `pool_not_found`: There is no such pool\n- `session_not_found`: There is no such session"
        );
        let content = &not_found["content"]["application/problem+json"];
        assert_eq!(
            content["schema"],
            json!({"$ref": "#/components/schemas/Problem"})
        );
        assert_eq!(content["examples"].as_object().expect("an object").len(), 2);
        assert_eq!(
            content["examples"]["pool_not_found"]["value"]["status"],
            404
        );
        assert_eq!(
            responses["503"]["headers"]["Retry-After"]["schema"]["type"],
            "integer"
        );
        assert!(
            responses
                .as_object()
                .expect("an object")
                .values()
                .all(|response| response["description"]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()))
        );
        assert!(document["components"]["schemas"]["Problem"].is_object());
    }
}
