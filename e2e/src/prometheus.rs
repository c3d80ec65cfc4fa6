//! A Prometheus server on this machine. It scrapes pods through the API server, as
//! docs/how-to/monitor.md says, with the chart's rules.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use http::{Method, Request};
use k8s_openapi::api::core::v1::Pod;
use kube::{Client, Config, ResourceExt as _, api::ListParams, client::Body};
use serde_json::{Value, json};

use crate::{
    cluster::{self, Cluster},
    devstack, eventually, operator,
};

/// The page that says how to scrape without the Prometheus operator.
const HOW_TO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/how-to/monitor.md");
/// The chart's rules.
const RULES: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../charts/pinpipe/files/rules.yaml"
);
/// Time between scrapes, and between evaluations of the rules.
const INTERVAL: &str = "3s";
/// How long the server may take to start.
const READY_WITHIN: Duration = Duration::from_mins(1);

/// The server. It ends, and its data is deleted, when this is dropped.
pub struct Prometheus {
    client: Client,
    _server: Process,
    /// The API server without TLS and passwords, on loopback.
    _proxy: Process,
    _folder: Folder,
}

/// A program that is killed when this is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder that is deleted when this is dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Prometheus {
    /// Starts a server that scrapes the operator, the dev servers' exporters, and the workers that
    /// run in a namespace now.
    pub async fn start(cluster: &Cluster, namespace: &str) -> Result<Self> {
        let folder = Folder(std::env::temp_dir().join(format!("{namespace}-prometheus")));
        fs::create_dir_all(&folder.0)?;
        let (proxy, api_server) = api_server()?;
        let settings = settings(&api_server, cluster, namespace).await?;
        let file = folder.0.join("prometheus.yaml");
        fs::write(&file, serde_yaml::to_string(&settings)?)?;
        let address = free_address()?;
        let log = folder.0.join("log");
        let mut server = Command::new("prometheus");
        server
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.0.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?);
        let server = server.spawn().context(
            "prometheus can't be run: install it, or run `cargo xtask test` on Debian, which takes \
             it out of the package prometheus",
        )?;
        let this = Self {
            client: Client::try_from(Config::new(format!("http://{address}").parse()?))?,
            _server: Process(server),
            _proxy: proxy,
            _folder: folder,
        };
        let started = eventually(READY_WITHIN, "Prometheus is ready", async || {
            this.get("/-/ready").await.map(drop)
        });
        started
            .await
            .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(this)
    }

    /// The number of series that an expression has now.
    pub async fn series(&self, expr: &str) -> Result<usize> {
        let answer = self.json(&format!("query?query={}", escape(expr))).await?;
        let result = answer["data"]["result"].as_array();
        Ok(result.with_context(|| answer.to_string())?.len())
    }

    /// The values of a label of some series.
    pub async fn label_values(&self, series: &str, label: &str) -> Result<Vec<String>> {
        let path = format!("label/{label}/values?match[]={}", escape(series));
        Ok(serde_json::from_value(
            self.json(&path).await?["data"].take(),
        )?)
    }

    /// The addresses that can't be scraped, each with the reason.
    pub async fn failing(&self) -> Result<Vec<String>> {
        let answer = self.json("targets?state=active").await?;
        let targets = answer["data"]["activeTargets"].as_array().cloned();
        let failing = targets.unwrap_or_default().into_iter();
        let failing = failing.filter(|target| target["health"] != "up");
        Ok(failing
            .map(|target| format!("{}: {}", target["scrapeUrl"], target["lastError"]))
            .collect())
    }

    async fn json(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(
            &self.get(&format!("/api/v1/{path}")).await?,
        )?)
    }

    async fn get(&self, path: &str) -> Result<String> {
        let request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .body(Body::empty())?;
        let response = self.client.send(request).await?;
        let status = response.status();
        let body = response.into_body().collect_bytes().await?;
        let body = String::from_utf8(body.to_vec())?;
        ensure!(status.is_success(), "{path}: {status}: {body}");
        Ok(body)
    }
}

/// Starts a proxy of the API server. Returns it with its URL.
fn api_server() -> Result<(Process, String)> {
    let mut proxy = Command::new("kubectl");
    proxy
        .arg(format!("--kubeconfig={}", cluster::kubeconfig()?.display()))
        .args(["proxy", "--port=0"])
        .stdout(Stdio::piped());
    let mut proxy = Process(proxy.spawn().context("kubectl can't be run")?);
    let output = proxy.0.stdout.take().context("kubectl has no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let address = line.trim().rsplit(' ').next().unwrap_or_default();
    ensure!(
        address.starts_with("127.0.0.1:"),
        "kubectl proxy did not say where it listens: {line:?}"
    );
    Ok((proxy, format!("http://{address}")))
}

/// The page's settings. The pods are listed here, with the labels that Prometheus gives those that
/// it finds, since Debian's can find none; their addresses are the API server's, because this
/// machine can't reach their own.
async fn settings(api_server: &str, cluster: &Cluster, namespace: &str) -> Result<Value> {
    let page = fs::read_to_string(HOW_TO)?;
    let mut blocks = page.split("```");
    let settings = blocks
        .find_map(|block| {
            let yaml = block.strip_prefix("yaml\n")?;
            yaml.starts_with("scrape_configs:").then_some(yaml)
        })
        .context("docs/how-to/monitor.md has no scrape_configs")?;
    let mut settings: Value = serde_yaml::from_str(settings)?;
    let jobs = settings["scrape_configs"].as_array_mut();
    let jobs = jobs.context("scrape_configs is no list")?;
    let pipelines = jobs[0].as_object_mut().context("a job is no object")?;
    pipelines
        .remove("kubernetes_sd_configs")
        .context("the job finds no pods")?;
    let mut found = targets(api_server, cluster, namespace).await?;
    found.extend(targets(api_server, cluster, operator::NAMESPACE).await?);
    pipelines.insert("static_configs".to_owned(), found.into());
    jobs.push(json!({
        "job_name": "stores",
        "static_configs": targets(api_server, cluster, devstack::NAMESPACE).await?,
        "relabel_configs": [{
            "source_labels": ["__meta_kubernetes_pod_container_port_name"],
            "regex": "metrics",
            "action": "keep",
        }],
    }));
    settings["rule_files"] = json!([RULES]);
    settings["global"] = json!({"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL});
    Ok(settings)
}

/// The ports of the pods that run in a namespace, as Prometheus finds them.
async fn targets(api_server: &str, cluster: &Cluster, namespace: &str) -> Result<Vec<Value>> {
    let pods = cluster.api::<Pod>(namespace);
    let running = ListParams::default().fields("status.phase=Running");
    let mut targets = Vec::new();
    for pod in pods.list(&running).await? {
        let name = pod.name_any();
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        for port in containers.flat_map(|container| container.ports.iter().flatten()) {
            let number = port.container_port;
            let mut labels = json!({
                "__metrics_path__":
                    format!("/api/v1/namespaces/{namespace}/pods/{name}:{number}/proxy/metrics"),
                "__meta_kubernetes_namespace": namespace,
                "__meta_kubernetes_pod_name": name,
                "__meta_kubernetes_pod_container_port_name": port.name,
                "instance": name,
            });
            for (label, value) in pod.labels() {
                let label = label.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
                labels[format!("__meta_kubernetes_pod_label_{label}")] = json!(value);
            }
            targets.push(json!({
                "targets": [api_server.trim_start_matches("http://")],
                "labels": labels,
            }));
        }
    }
    Ok(targets)
}

/// An address whose port is below those of outgoing connections, which would take it before
/// Prometheus does.
fn free_address() -> Result<SocketAddr> {
    let mut ports = 21_000..21_100;
    let free = ports.find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok());
    Ok(free
        .context("no port from 21000 to 21099 is free")?
        .local_addr()?)
}

/// A text as the value of a query's parameter.
fn escape(text: &str) -> String {
    let escaped: Vec<String> = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
    escaped.concat()
}
