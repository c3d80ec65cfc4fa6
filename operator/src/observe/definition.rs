//! The served definitions of the resources, which may be older than this operator: a server-side
//! apply of a status field that it lacks is refused.

use http::Request;
use kube::Client;
use serde_json::Value;

/// Schema of the API version, which every account may read (`system:discovery`).
const SCHEMA: &str = "/openapi/v3/apis/pinpipe.dev/v1alpha1";

/// Problem of the served definition. None: it knows every field of the status, or can't be read.
pub async fn problem(client: &Client) -> Option<String> {
    let request = Request::get(SCHEMA).body(Vec::new()).ok()?;
    let served: Value = client
        .request(request)
        .await
        .inspect_err(|error| tracing::debug!(%error, "the served schema can't be read"))
        .ok()?;
    let own = [
        ("PinterestPipeline", pinpipe_crds::schema()),
        ("PinterestRun", pinpipe_crds::run_schema()),
    ];
    own.iter()
        .find_map(|(kind, own)| {
            let first = missing(kind, own, &served)?.into_iter().next()?;
            Some(format!(
                "the definition (CRD) of {kind}s is older than this operator, which can't write \
                 {first}: {}",
                remedy()
            ))
        })
        .or_else(|| {
            let absent = kind_of(&served, "PinterestPipeline").is_some()
                && kind_of(&served, "PinterestRun").is_none();
            absent.then(|| {
                format!(
                    "there is no definition (CRD) of PinterestRuns: {}",
                    remedy()
                )
            })
        })
}

/// What to do about a definition that is too old.
#[must_use]
pub fn remedy() -> String {
    format!(
        "apply the definition of release {} or later (helm upgrade with crd.install=true, or \
         kubectl apply --server-side -f crds/pinterestpipelines.yaml -f crds/pinterestruns.yaml)",
        env!("CARGO_PKG_VERSION")
    )
}

/// Served schema of a kind.
fn kind_of<'a>(served: &'a Value, kind: &str) -> Option<&'a Value> {
    let is_kind = |schema: &&Value| {
        let kinds = schema["x-kubernetes-group-version-kind"].as_array();
        let mut kinds = kinds.into_iter().flatten();
        kinds.any(|found| found["kind"] == kind)
    };
    let schemas = served["components"]["schemas"].as_object()?;
    schemas.values().find(is_kind)
}

/// Status fields that the served schema of a kind lacks. None: the kind isn't served.
fn missing(kind: &str, own: &Value, served: &Value) -> Option<Vec<String>> {
    let served = kind_of(served, kind)?;
    let mut found = Vec::new();
    let [own, served] = [own, served].map(|schema| &schema["properties"]["status"]);
    compare("status", own, served, &mut found);
    Some(found)
}

fn compare(path: &str, own: &Value, served: &Value, missing: &mut Vec<String>) {
    if served["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    for (name, own) in own["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match served["properties"].get(name) {
            Some(served) => compare(&path, own, served, missing),
            None => missing.push(path),
        }
    }
    for (key, suffix) in [("items", "[]"), ("additionalProperties", ".*")] {
        if own[key].is_object() {
            compare(&format!("{path}{suffix}"), &own[key], &served[key], missing);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The schema as the API server serves it.
    fn served(schema: &Value) -> Value {
        let mut schema = schema.clone();
        schema["x-kubernetes-group-version-kind"] =
            json!([{"group": "pinpipe.dev", "kind": "PinterestPipeline", "version": "v1alpha1"}]);
        let list = json!({"properties": {}});
        json!({"components": {"schemas": {
            "dev.pinpipe.v1alpha1.PinterestPipeline": schema,
            "dev.pinpipe.v1alpha1.PinterestPipelineList": list,
        }}})
    }

    #[test]
    fn a_definition_that_lacks_a_status_field_is_too_old() {
        let own = pinpipe_crds::schema();
        let missing = |own: &Value, served: &Value| missing("PinterestPipeline", own, served);
        assert_eq!(missing(&own, &served(&own)).unwrap(), [""; 0]);
        let mut older = own.clone();
        let topic = older.pointer_mut("/properties/status/properties/topics/items/properties");
        topic.unwrap().as_object_mut().unwrap().remove("id");
        let status = older.pointer_mut("/properties/status/properties");
        status.unwrap().as_object_mut().unwrap().remove("batch");
        let found = missing(&own, &served(&older)).unwrap();
        assert_eq!(found, ["status.batch", "status.topics[].id"]);
        assert_eq!(
            missing(&older, &served(&own)).unwrap(),
            [""; 0],
            "a newer one is fine"
        );
        assert_eq!(missing(&own, &json!({})), None, "not served yet");
    }
}
