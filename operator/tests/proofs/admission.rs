//! Admission policies of the API server, in place of webhooks, and an operator that meets one.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, SYSTEM},
    pipeline::Pipeline,
    specs,
    wait::until,
};

const GROUP: &str = "admissionregistration.k8s.io/v1";
/// How long the API server may take to put a policy in force.
const IN_FORCE: Duration = Duration::from_mins(1);
/// The registry that a policy puts before every image.
const MIRROR: &str = "mirror.test/";

/// A policy and its binding.
pub struct Policy<'a> {
    client: &'a Client,
    kind: &'static str,
    name: &'static str,
}

impl<'a> Policy<'a> {
    async fn create(
        client: &'a Client,
        (kind, name): (&'static str, &'static str),
        spec: Value,
        mut binding: Value,
    ) -> Result<Self> {
        binding["policyName"] = json!(name);
        for (kind, spec) in [(kind.to_owned(), spec), (format!("{kind}Binding"), binding)] {
            let object = json!({"apiVersion": GROUP, "kind": kind, "metadata": {"name": name},
                "spec": spec});
            let request = http::Request::post(path(&kind))
                .header("content-type", "application/json")
                .body(serde_json::to_vec(&object)?)?;
            client.request::<Value>(request).await.context(kind)?;
        }
        Ok(Self { client, kind, name })
    }

    /// Deletes the policy, which then stays in force for a moment.
    pub async fn delete(self) -> Result<()> {
        for kind in [format!("{}Binding", self.kind), self.kind.to_owned()] {
            let path = format!("{}/{}", path(&kind), self.name);
            let request = http::Request::delete(path).body(Vec::new())?;
            self.client.request::<Value>(request).await.context(kind)?;
        }
        Ok(())
    }
}

/// Refuses entries with an id in the record of topics, of topics whose names begin with `prefix`.
pub async fn refuse_ids<'a>(client: &'a Client, prefix: &str) -> Result<Policy<'a>> {
    let is_refused = format!("k.startsWith('{prefix}') && object.data[k].contains('\"id\"')");
    let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
        "operations": ["CREATE", "UPDATE"]});
    let spec = json!({
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [{
            "expression": format!("!has(object.data) || !object.data.exists(k, {is_refused})"),
            "message": "no ids",
        }],
    });
    let binding = json!({"validationActions": ["Deny"]});
    let id = ("ValidatingAdmissionPolicy", "refused-ids");
    let policy = Policy::create(client, id, spec, binding).await?;
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM);
    let entry = json!({
        "metadata": {"generateName": "entry-"},
        "data": {format!("{prefix}x"): "\"id\""},
    });
    let entry = serde_json::from_value(entry)?;
    until("ids are refused", IN_FORCE, async || {
        ensure!(api.create(&dry_run(), &entry).await.is_err(), "accepted");
        Ok(())
    })
    .await?;
    Ok(policy)
}

/// Puts a mirror's address before the images of Deployments in a namespace, and raises what their
/// containers request.
async fn rewrite<'a>(client: &'a Client, namespace: &str) -> Result<Policy<'a>> {
    let rule = json!({"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"],
        "operations": ["CREATE", "UPDATE"]});
    let container = "object.spec.template.spec.containers[0]";
    let path = "/spec/template/spec/containers/0";
    let rewritten = format!(
        "[JSONPatch{{op: 'replace', path: '{path}/image', value: '{MIRROR}' + {container}.image}}, \
         JSONPatch{{op: 'add', path: '{path}/resources/requests/cpu', value: '333m'}}]"
    );
    let spec = json!({
        "matchConstraints": {
            "resourceRules": [rule],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        },
        "matchConditions": [{
            "name": "once",
            "expression": format!("!{container}.image.startsWith('{MIRROR}')"),
        }],
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": rewritten}}],
        "reinvocationPolicy": "Never",
        "failurePolicy": "Fail",
    });
    let id = ("MutatingAdmissionPolicy", "rewritten-images");
    let policy = Policy::create(client, id, spec, json!({})).await?;
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let container = json!({"name": "a", "image": "b", "resources": {"requests": {"cpu": "1m"}}});
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}});
    let deployment = json!({
        "metadata": {"name": "a"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template},
    });
    let deployment = serde_json::from_value(deployment)?;
    until("images are rewritten", IN_FORCE, async || {
        let found = api.create(&dry_run(), &deployment).await?;
        ensure!(image(&found).starts_with(MIRROR), "{found:?}");
        Ok(())
    })
    .await?;
    Ok(policy)
}

/// What admission rewrites stays rewritten and causes no write, also after a staged change of the
/// images.
pub async fn rewritten(cluster: &Cluster) -> Result<String> {
    let namespace = "rewritten";
    let operator = cluster.operator().await?;
    cluster.namespace_with_secrets(namespace).await?;
    let policy = rewrite(&cluster.admin, namespace).await?;
    let pipeline = Pipeline::new(&cluster.admin, namespace, "pinterest");
    let arguments = ["--namespace", namespace];
    operator.start(&arguments)?;
    let mut spec = specs::whole(&operator.bootstrap_servers);
    pipeline.create(&spec).await?;
    let api: Api<Deployment> = Api::namespaced(cluster.admin.clone(), namespace);
    for tag in ["1", "2"] {
        if tag != "1" {
            spec["image"] = json!({"tag": tag});
            pipeline.replace(&json!({}), &spec).await?;
        }
        pipeline.settle(&operator).await?;
        let deployments = api.list(&ListParams::default()).await?.items;
        let images: Vec<_> = deployments.iter().map(image).collect();
        let is_right =
            |image: &&str| image.starts_with(MIRROR) && image.ends_with(&format!(":{tag}"));
        ensure!(
            images.len() == 5 && images.iter().all(is_right),
            "{images:?}"
        );
        operator.traffic.begin(None);
        let reconciles = operator.reconciles().await?;
        pipeline.annotate("example.com/touched", tag).await?;
        operator.wait_for_reconciles(reconciles + 1.0).await?;
        let written = operator.traffic.attempts();
        ensure!(
            written.is_empty(),
            "reconciled again, it wrote: {written:?}"
        );
    }
    operator.traffic.kill();
    operator.traffic.begin(None);
    operator.start(&arguments)?;
    operator.wait_for_reconciles(1.0).await?;
    let written = operator.traffic.attempts();
    ensure!(written.is_empty(), "a new operator wrote: {written:?}");
    policy.delete().await?;
    Ok("no write at rest, before and after a staged change of images".to_owned())
}

fn image(deployment: &Deployment) -> &str {
    let spec = deployment.spec.as_ref();
    let pod = spec.and_then(|spec| spec.template.spec.as_ref());
    let container = pod.and_then(|pod| pod.containers.first());
    let image = container.and_then(|container| container.image.as_deref());
    image.unwrap_or_default()
}

fn dry_run() -> PostParams {
    PostParams {
        dry_run: true,
        ..PostParams::default()
    }
}

fn path(kind: &str) -> String {
    let kind = kind.to_lowercase();
    let plural = kind
        .strip_suffix('y')
        .map_or_else(|| format!("{kind}s"), |stem| format!("{stem}ies"));
    format!("/apis/{GROUP}/{plural}")
}
