//! New images, rolled out one component at a time.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use chrono::{DateTime, Utc};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::Pod,
};
use kube::{ResourceExt, api::ListParams};
use pinpipe_e2e::{
    Kind, Pipeline, Spec, eventually, ledger::Ledger, node, pipeline::READY_WITHIN,
    samples::Samples, scenario::in_sandbox,
};
use serde_json::json;

/// The components in the order of their rollout: readers first.
const ORDER: [&str; 3] = ["stream-live", "archive", "ingest"];

/// The image of each component's Deployment.
async fn images(pipeline: &Pipeline) -> Result<BTreeMap<String, String>> {
    let deployments = pipeline
        .sandbox
        .cluster
        .api::<Deployment>(&pipeline.sandbox.namespace);
    let mut images = BTreeMap::new();
    for component in ORDER {
        let spec = deployments
            .get(&format!("{}-{component}", pipeline.name))
            .await?
            .spec
            .unwrap_or_default();
        let container = spec
            .template
            .spec
            .unwrap_or_default()
            .containers
            .into_iter()
            .next()
            .unwrap_or_default();
        images.insert(component.to_owned(), container.image.unwrap_or_default());
    }
    Ok(images)
}

async fn tag(pipeline: &Pipeline) -> Result<String> {
    let images = images(pipeline).await?;
    Ok(images["ingest"]
        .rsplit_once(':')
        .context("an image without a tag")?
        .1
        .to_owned())
}

/// The names of each component's pods.
async fn pods(pipeline: &Pipeline) -> Result<BTreeMap<&'static str, Vec<String>>> {
    let mut names = BTreeMap::new();
    for component in ORDER {
        names.insert(
            component,
            pipeline
                .pods(component)
                .await?
                .iter()
                .map(ResourceExt::name_any)
                .collect(),
        );
    }
    Ok(names)
}

fn time(time: &impl ToString) -> Result<DateTime<Utc>> {
    Ok(DateTime::parse_from_rfc3339(&time.to_string())?.to_utc())
}

/// When the rollout of an image to a component began, and when its last pod became ready.
async fn rolled(
    pipeline: &Pipeline,
    component: &str,
    image: &str,
) -> Result<(DateTime<Utc>, DateTime<Utc>)> {
    let labels = format!(
        "app.kubernetes.io/instance={},app.kubernetes.io/component={component}",
        pipeline.name
    );
    let params = ListParams::default().labels(&labels);
    let (cluster, namespace) = (&pipeline.sandbox.cluster, &pipeline.sandbox.namespace);
    let is = |pod: Option<&k8s_openapi::api::core::v1::PodSpec>| {
        pod.and_then(|pod| pod.containers.first())
            .is_some_and(|container| container.image.as_deref() == Some(image))
    };
    let sets = cluster.api::<ReplicaSet>(namespace).list(&params).await?;
    let set = sets.items.iter().find(|set| {
        let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        is(template.and_then(|template| template.spec.as_ref()))
    });
    let begun = set
        .and_then(|set| set.metadata.creation_timestamp.clone())
        .context("no ReplicaSet of that image")?;
    let pods = cluster.api::<Pod>(namespace).list(&params).await?.items;
    let ready = pods
        .iter()
        .filter(|pod| is(pod.spec.as_ref()))
        .filter_map(|pod| {
            let conditions = pod.status.as_ref()?.conditions.as_ref()?;
            let ready = conditions
                .iter()
                .find(|c| c.type_ == "Ready" && c.status == "True")?;
            ready.last_transition_time.clone()
        });
    let ready = ready.map(|at| time(&at.0)).collect::<Result<Vec<_>>>()?;
    Ok((
        time(&begun.0)?,
        ready
            .into_iter()
            .max()
            .context("no pod of that image is ready")?,
    ))
}

#[test]
fn a_new_image_is_rolled_out_one_component_at_a_time_and_no_record_is_lost() -> Result<()> {
    in_sandbox("upgrade", async |sandbox| {
        let pipeline = sandbox
            .apply("flow", &Spec::new().live(sandbox).archive(sandbox, 100))
            .await?;
        pipeline.ready().await?;
        let before = tag(&pipeline).await?;
        let next = node::tag_as_next(&sandbox.cluster, &before).await?;
        let (mut ledger, mut make) = (Ledger::new(&pipeline), Samples::new(41));
        ledger
            .send(Kind::Pin, make.batch(Kind::Pin, 0..1000, 0), 500)
            .await?;
        pipeline.change(json!({"image": {"tag": next}})).await?;
        ledger
            .send(Kind::Pin, make.batch(Kind::Pin, 1000..2000, 0), 100)
            .await?;
        pipeline.ready().await?;
        let images = images(&pipeline).await?;
        ensure!(
            images
                .values()
                .all(|image| image.ends_with(&format!(":{next}"))),
            "{images:?}"
        );
        let mut ready: Option<(&str, DateTime<Utc>)> = None;
        for component in ORDER {
            let (begun, done) = rolled(&pipeline, component, &images[component]).await?;
            if let Some((earlier, ready)) = ready {
                ensure!(
                    begun >= ready,
                    "{component} began at {begun}, and {earlier} was ready at {ready}"
                );
            }
            ready = Some((component, done));
        }
        ledger
            .send(Kind::Pin, make.batch(Kind::Pin, 2000..2100, 0), 100)
            .await?;
        ledger.live_table_is_right(Kind::Pin).await
    })
}

#[test]
fn an_image_that_cannot_be_pulled_stops_a_rollout_at_the_first_component() -> Result<()> {
    in_sandbox("stuck", async |sandbox| {
        let pipeline = sandbox
            .apply("flow", &Spec::new().live(sandbox).archive(sandbox, 100))
            .await?;
        pipeline.ready().await?;
        let (before, running) = (tag(&pipeline).await?, pods(&pipeline).await?);
        pipeline
            .change(json!({"image": {"tag": "no-such-version"}}))
            .await?;
        pipeline
            .has_condition(
                "StreamReady",
                "False",
                &["ImageNotPullable", "archive, ingest waits"],
            )
            .await?;
        pipeline
            .has_condition("Ready", "False", &["ImageNotPullable"])
            .await?;
        pipeline
            .has_condition(
                "IngestReady",
                "True",
                &[&before, "until stream-live is ready"],
            )
            .await?;
        // A component that waits can still be scaled.
        pipeline.change(json!({"ingest": {"replicas": 2}})).await?;
        eventually(READY_WITHIN, "a second pod of ingest", async || {
            let pods = pipeline.workers("ingest").await?.len();
            ensure!(pods == 2, "{pods}");
            Ok(())
        })
        .await?;
        let (mut ledger, mut make) = (Ledger::new(&pipeline), Samples::new(43));
        ledger
            .send(Kind::Geo, make.batch(Kind::Geo, 0..500, 0), 100)
            .await?;
        ledger.live_table_is_right(Kind::Geo).await?;
        let images = images(&pipeline).await?;
        ensure!(
            images["stream-live"].ends_with(":no-such-version"),
            "{images:?}"
        );
        ensure!(
            images["archive"].ends_with(&before) && images["ingest"].ends_with(&before),
            "{images:?}"
        );

        pipeline.change(json!({"image": {"tag": before}})).await?;
        pipeline.ready().await?;
        let now = pods(&pipeline).await?;
        for component in ORDER {
            ensure!(
                running[component]
                    .iter()
                    .all(|pod| now[component].contains(pod)),
                "{running:?}, and now {now:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn a_suspended_pipeline_gets_a_new_image_in_all_components_at_once() -> Result<()> {
    in_sandbox("atonce", async |sandbox| {
        let pipeline = sandbox
            .apply("flow", &Spec::new().live(sandbox).archive(sandbox, 100))
            .await?;
        pipeline.ready().await?;
        pipeline.change(json!({"suspend": true})).await?;
        pipeline
            .has_condition("Suspended", "True", &["Suspended"])
            .await?;
        pipeline
            .change(json!({"image": {"tag": "no-such-version"}}))
            .await?;
        eventually(READY_WITHIN, "the image in every Deployment", async || {
            let images = images(&pipeline).await?;
            ensure!(
                images
                    .values()
                    .all(|image| image.ends_with(":no-such-version")),
                "{images:?}"
            );
            Ok(())
        })
        .await
    })
}
