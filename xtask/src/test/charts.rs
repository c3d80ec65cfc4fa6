//! Checks of the charts: helm's lint, the values' schema, and a dry run by the API server.

use std::fs;

use anyhow::{Context as _, ensure};

use super::tally::Tally;
use crate::context::Context;
use crate::manifests;

/// Values that charts/pinpipe must refuse, by its schema.
const WRONG_VALUES: [&str; 27] = [
    "image.pullPolicy=Sometimes",
    "image.digests.stream=sha256:1",
    "image.repositories.archive=registry.example/archive",
    "imagee.tag=1",
    "fullnameOverride=1st",
    "operator.allowedRegistries=registry.example",
    "operator.forbidServiceAccountName=maybe",
    "operator.concurrency=0",
    "operator.replica=2",
    "operator.replicas=-1",
    "operator.namespaces={Data}",
    "operator.deletionDeadline=5m",
    "operator.logFormat=xml",
    "operator.resources.limits.memory=1GB",
    "operator.podSecurity=None",
    "operator.extraEnv[0].name=PINPIPE_LEASE",
    "operator.topologySpreadConstraints[0].maxSkew=1",
    "podDisruptionBudget.maxUnavailable=half",
    "networkPolicy.enabled=maybe",
    "networkPolicy.brokerPorts={0}",
    "monitoring.interval=often",
    "monitoring.podMonitor.enabled=maybe",
    "monitoring.rules.runbooks=docs",
    "monitoring.dashboards.enabled=maybe",
    "monitoring.dashboards.namespace=Grafana",
    "crd.install=2",
    "runPolicy.enabled=maybe",
];

/// All that charts/pinpipe can render besides its defaults.
const ALL_VALUES: &str = "\
    fullnameOverride=everything,commonLabels.team=data,\
    image.repositories.operator=registry.example/pinpipe-operator,\
    image.repositories.stream=registry.example/pinpipe-stream,\
    operator.allowedRegistries={registry.example},operator.forbidServiceAccountName=true,\
    image.digests.operator=sha256:\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef,\
    image.pullSecrets[0].name=pull,\
    operator.replicas=2,operator.namespaces={default},operator.extraEnv[0].name=TZ,\
    operator.extraEnv[0].value=UTC,operator.extraArgs={--admin-port=9090},\
    operator.podSecurity=FromPlatform,operator.podSecurityContext.fsGroup=1000650000,\
    operator.securityContext.privileged=false,operator.podLabels.a=b,operator.podAnnotations.a=b,\
    operator.nodeSelector.a=b,operator.priorityClassName=system-cluster-critical,\
    operator.topologySpreadConstraints[0].maxSkew=1,monitoring.dashboards.enabled=true,\
    operator.topologySpreadConstraints[0].topologyKey=topology.kubernetes.io/zone,\
    operator.topologySpreadConstraints[0].whenUnsatisfiable=DoNotSchedule,\
    networkPolicy.enabled=true,serviceAccount.name=operator,serviceAccount.annotations.a=b";

/// Values with which charts/pinpipe renders objects of the Prometheus operator, whose CRDs the
/// cluster lacks.
const MONITORING: &str = "\
    monitoring.podMonitor.enabled=true,monitoring.serviceMonitor.enabled=true,\
    monitoring.rules.enabled=true,monitoring.rules.runbooks=https://docs.example/runbooks,\
    monitoring.interval=30s,monitoring.labels.release=prometheus,operator.namespaces={data},\
    monitoring.dashboards.enabled=true,monitoring.dashboards.namespace=grafana,\
    monitoring.dashboards.annotations.grafana_folder=pinpipe";
/// What it then renders.
const MONITORED: [&str; 11] = [
    "kind: PodMonitor",
    "kind: ServiceMonitor",
    "kind: PrometheusRule",
    "    release: prometheus",
    "      interval: 30s",
    "    matchNames:\n      - data",
    "        - alert: PinpipeOperatorDown",
    "runbook_url: https://docs.example/runbooks/PinpipeOperatorDown.md",
    "  name: monitored-pinpipe-dashboard-overview\n  namespace: grafana",
    "    grafana_dashboard: \"1\"\n",
    "  annotations:\n    grafana_folder: pinpipe\ndata:\n  pinpipe-postgresql.json: |\n    {",
];

/// Renders the charts with helm, and submits those that need no release to the API server as a dry
/// run.
pub fn check(context: &Context, tally: &mut Tally) {
    tally.check(
        context,
        "wrong values of charts/pinpipe",
        "fix values.schema.json: it accepts a value that it must refuse",
        |log| {
            for (before, wrong) in WRONG_VALUES.iter().enumerate() {
                let mut helm = context.command("helm");
                let refused =
                    log.run(helm.args(["template", "wrong", "charts/pinpipe", "--set", wrong]));
                let by_schema = log.text()?.matches("specifications of the schema").count();
                ensure!(
                    refused.is_err() && by_schema == before + 1,
                    "{wrong} was not refused by the schema"
                );
            }
            Ok(())
        },
    );
    tally.check(
        context,
        "charts/pinpipe with monitoring",
        "fix charts/pinpipe/templates/monitoring.yaml",
        |log| {
            let mut helm = context.command("helm");
            helm.args([
                "template",
                "monitored",
                "charts/pinpipe",
                "--set",
                MONITORING,
            ]);
            let rendered = log.output(&mut helm)?;
            for part in MONITORED {
                ensure!(rendered.contains(part), "it does not render {part:?}");
            }
            let mut helm = context.command("helm");
            let default = log.output(helm.args(["template", "plain", "charts/pinpipe"]))?;
            ensure!(
                !default.contains("monitoring.coreos.com"),
                "the defaults need CRDs of the Prometheus operator"
            );
            Ok(())
        },
    );
    tally.check(context, "manifests", "cargo xtask manifests", |log| {
        manifests::check(context, log)
    });
    for (what, chart, values) in [
        ("charts/pinpipe", "charts/pinpipe", ""),
        (
            "charts/pinpipe with all values",
            "charts/pinpipe",
            ALL_VALUES,
        ),
        ("charts/devstack", "charts/devstack", ""),
        (
            "charts/devstack with TLS",
            "charts/devstack",
            "tls.secretName=tls",
        ),
    ] {
        tally.check(context, &format!("lint {what}"), "fix the chart", |log| {
            log.run(
                context
                    .command("helm")
                    .args(["lint", "--strict", chart, "--set", values]),
            )
        });
        tally.check(
            context,
            &format!("dry run of {what}"),
            "fix the chart: the log has the API server's error",
            |log| {
                let mut helm = context.command("helm");
                helm.args([
                    "template",
                    "dry-run",
                    chart,
                    "--namespace",
                    "default",
                    "--set",
                    values,
                ]);
                let rendered = log.output(&mut helm)?;
                let file = context.temporary_folder("dry-run")?.join("rendered.yaml");
                fs::write(&file, rendered).context("writing the rendered chart")?;
                // A field manager other than helm's, which would conflict in every field.
                let arguments = [
                    "apply",
                    "--server-side",
                    "--force-conflicts",
                    "--dry-run=server",
                    "--namespace",
                    "default",
                ];
                log.run(
                    context
                        .command("kubectl")
                        .args(arguments)
                        .args(["--field-manager", "xtask", "--filename"])
                        .arg(&file),
                )
            },
        );
    }
}
