//! A settled pipeline causes no write, neither when it is reconciled again nor when a new operator
//! reconciles it for the first time.

use anyhow::{Result, ensure};

use crate::{cluster::Cluster, pipeline::Pipeline, specs};

pub async fn run(cluster: &Cluster) -> Result<String> {
    let operator = cluster.operator().await?;
    let mut results = Vec::new();
    for (name, spec) in [
        ("thorough", specs::thorough(&operator.bootstrap_servers)),
        ("whole", specs::whole(&operator.bootstrap_servers)),
    ] {
        let namespace = format!("idempotence-{name}");
        cluster.namespace_with_secrets(&namespace).await?;
        let arguments = ["--namespace", &namespace];
        let pipeline = Pipeline::new(&cluster.admin, &namespace, "pinterest");
        pipeline.create(&spec).await?;
        operator.start(&arguments)?;
        pipeline.settle(&operator).await?;
        let written = operator.traffic.writes().len();

        operator.traffic.begin(None);
        let reconciles = operator.reconciles().await?;
        pipeline
            .annotate("example.com/irrelevant", "touched")
            .await?;
        operator.wait_for_reconciles(reconciles + 1.0).await?;
        let again = operator.traffic.attempts();
        ensure!(
            again.is_empty(),
            "{name}: reconciled again, it was written to: {again:?}"
        );

        operator.traffic.kill();
        operator.traffic.begin(None);
        operator.start(&arguments)?;
        operator.wait_for_reconciles(1.0).await?;
        let by_new = operator.traffic.attempts();
        ensure!(
            by_new.is_empty(),
            "{name}: a new operator wrote: {by_new:?}"
        );
        operator.traffic.kill();
        results.push(format!(
            "{name}: {written} writes until settled, none after that"
        ));
    }
    Ok(results.join("; "))
}
