//! The description of the interface.

use crate::names::Names;

/// Stands for the list of names.
const NAMES: &str = "\"<names>\"";

/// The description in the form of `OpenAPI`, with the names of topics and streams that there are.
#[must_use]
pub fn description(names: &Names) -> String {
    let all: Vec<_> = names.all().collect();
    include_str!("openapi.json").replace(NAMES, &serde_json::json!(all).to_string())
}
