//! The test cluster: an API server with the chart installed, without nodes, and a Kafka broker.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use futures::TryStreamExt as _;
use k8s_openapi::api::{
    apps::v1::Deployment,
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{Namespace, Secret, ServiceAccount},
};
use kube::{
    Api, Client, Config,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{WatchStreamExt as _, watcher},
};
use pinpipe_servers::process::program;
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::{
    operator::Operator,
    servers::{Servers, Slot, checkout},
    traffic::{Permission, Traffic},
    wait::until,
};

/// The namespace of the release.
pub const SYSTEM: &str = "pinpipe-system";
/// The name of the release, and of the operator's service account.
pub const RELEASE: &str = "pinpipe";

/// The account of an operator with a Role in one namespace, and the Role's name.
pub const RESTRICTED: &str = "restricted";

/// The servers with the chart installed.
pub struct Cluster {
    /// A client with all permissions.
    pub admin: Client,
    /// The client configuration of the operator's service account.
    operator_config: Config,
    /// The chart's Roles and `ClusterRoles`, by kind and name.
    pub roles: BTreeMap<(String, String), Value>,
    /// The folder for files and logs.
    pub folder: PathBuf,
    /// The broker's address for the proofs themselves.
    pub kafka: String,
    slots: Mutex<Vec<Slot>>,
    traffic: Mutex<Vec<Arc<Traffic>>>,
}

/// Plural name of a kind.
fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    match kind.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{kind}s"),
    }
}

impl Cluster {
    /// Installs the chart.
    pub async fn new(servers: &mut Servers) -> Result<Self> {
        let file = Kubeconfig::read_from(&servers.kubeconfig)?;
        let mut config =
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        config.default_retry = false;
        config.proxy_url = None;
        let admin = Client::try_from(config.clone())?;
        let mut cluster = Self {
            admin,
            operator_config: config,
            roles: BTreeMap::new(),
            folder: servers.folder.clone(),
            kafka: format!("127.0.0.1:{}", servers.kafka),
            slots: Mutex::new(std::mem::take(&mut servers.slots)),
            traffic: Mutex::default(),
        };
        cluster.namespace(SYSTEM).await?;
        cluster.install().await?;
        cluster.operator_config = cluster.config_of(RELEASE).await?;
        Ok(cluster)
    }

    /// The client configuration of an account in the release's namespace.
    async fn config_of(&self, account: &str) -> Result<Config> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin.clone(), SYSTEM);
        let spec = TokenRequestSpec {
            expiration_seconds: Some(7200),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest {
            spec,
            ..TokenRequest::default()
        };
        let token = accounts
            .create_token_request(account, &PostParams::default(), &request)
            .await?;
        let token = token.status.context("the API server gave no token")?.token;
        let mut config = self.operator_config.clone();
        config.auth_info.token = Some(token.into());
        Ok(config)
    }

    /// Applies what the chart renders, except the operator's Deployment.
    async fn install(&mut self) -> Result<()> {
        let mut helm = program("helm");
        helm.args(["template", RELEASE, "charts/pinpipe", "--namespace", SYSTEM])
            .current_dir(checkout());
        let output = helm.output().context("starting helm")?;
        ensure!(
            output.status.success(),
            "helm: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        for document in serde_yaml::Deserializer::from_slice(&output.stdout) {
            let object = Value::deserialize(document)?;
            let (kind, metadata) = (
                object["kind"].as_str().unwrap_or_default(),
                &object["metadata"],
            );
            let name = metadata["name"].as_str().unwrap_or_default();
            let (root, plural) = match kind {
                "" | "Deployment" => continue,
                "ServiceAccount" => ("/api/v1".to_owned(), "serviceaccounts".to_owned()),
                kind => (
                    format!(
                        "/apis/{}",
                        object["apiVersion"].as_str().unwrap_or_default()
                    ),
                    plural(kind),
                ),
            };
            let path = metadata["namespace"]
                .as_str()
                .map_or(root.clone(), |name| format!("{root}/namespaces/{name}"));
            let request = http::Request::post(format!("{path}/{plural}"))
                .header("content-type", "application/json")
                .body(serde_json::to_vec(&object)?)?;
            self.admin
                .request::<Value>(request)
                .await
                .with_context(|| format!("creating {kind} {name}"))?;
            if kind.ends_with("Role") {
                self.roles
                    .insert((kind.to_owned(), name.to_owned()), object);
            }
        }
        for plural in ["pinterestpipelines", "pinterestruns"] {
            self.established(plural).await?;
        }
        Ok(())
    }

    /// A client with the rights of a new account in a namespace, which these roles grant.
    pub async fn client_with(&self, namespace: &str, roles: &[&str]) -> Result<Client> {
        let name = roles.join("-");
        let group = "rbac.authorization.k8s.io";
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": name}});
        let path = format!("/api/v1/namespaces/{SYSTEM}/serviceaccounts");
        let mut objects = vec![(path, account)];
        for role in roles {
            let binding = json!({
                "apiVersion": format!("{group}/v1"),
                "kind": "RoleBinding",
                "metadata": {"name": format!("{name}-{role}")},
                "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": SYSTEM}],
            });
            let path = format!("/apis/{group}/v1/namespaces/{namespace}/rolebindings");
            objects.push((path, binding));
        }
        for (path, object) in objects {
            let request = http::Request::post(&path)
                .header("content-type", "application/json")
                .body(serde_json::to_vec(&object)?)?;
            self.admin.request::<Value>(request).await.context(path)?;
        }
        Ok(Client::try_from(self.config_of(&name).await?)?)
    }

    /// Waits until a definition is served.
    async fn established(&self, plural: &str) -> Result<()> {
        let crd =
            format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.pinpipe.dev");
        until(
            "the CRD is established",
            Duration::from_secs(30),
            async || {
                let found: Value = self
                    .admin
                    .request(http::Request::get(&crd).body(Vec::new())?)
                    .await?;
                let conditions = found["status"]["conditions"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                let established = |condition: &Value| {
                    condition["type"] == "Established" && condition["status"] == "True"
                };
                ensure!(conditions.iter().any(established), "{conditions:?}");
                Ok(())
            },
        )
        .await
    }

    /// Creates a namespace.
    pub async fn namespace(&self, name: &str) -> Result<()> {
        let api: Api<Namespace> = Api::all(self.admin.clone());
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        };
        api.create(
            &PostParams::default(),
            &Namespace {
                metadata,
                ..Namespace::default()
            },
        )
        .await?;
        Ok(())
    }

    /// Creates a namespace with the Secrets that the pipelines of [`crate::specs`] refer to.
    pub async fn namespace_with_secrets(&self, name: &str) -> Result<()> {
        self.namespace(name).await?;
        let api: Api<Secret> = Api::namespaced(self.admin.clone(), name);
        for (name, keys) in [
            ("warehouse", &["url", "other"][..]),
            ("s3", &["accessKeyId", "secretAccessKey"]),
            ("cassandra", &["username", "password"]),
        ] {
            let data: BTreeMap<_, _> = keys
                .iter()
                .map(|key| ((*key).to_owned(), format!("{name}-{key}")))
                .collect();
            let metadata = ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            };
            let secret = Secret {
                metadata,
                string_data: Some(data),
                ..Secret::default()
            };
            api.create(&PostParams::default(), &secret).await?;
        }
        Ok(())
    }

    /// An operator with the rights that the chart gives it with `operator.namespaces`: a Role in
    /// the namespace, a `ClusterRole` for finalizers, and the Role for the record of topics.
    pub async fn operator_of(&self, namespace: &str) -> Result<Operator> {
        let role = self
            .roles
            .get(&("ClusterRole".to_owned(), RELEASE.to_owned()));
        let rules = role.context("the chart has no ClusterRole")?["rules"].clone();
        let group = "rbac.authorization.k8s.io";
        let version = format!("{group}/v1");
        let subjects = json!([{"kind": "ServiceAccount", "name": RESTRICTED, "namespace": SYSTEM}]);
        let refers = |kind: &str| json!({"apiGroup": group, "kind": kind, "name": RESTRICTED});
        let finalizers = json!([
            {"apiGroups": ["pinpipe.dev"], "resources": ["pinterestpipelines"],
                "verbs": ["get", "patch"]},
            {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]},
        ]);
        let topics = format!("{RELEASE}-topics");
        let topics = json!({"apiGroup": group, "kind": "Role", "name": topics});
        let account = format!("/api/v1/namespaces/{SYSTEM}/serviceaccounts");
        let here = format!("/apis/{version}/namespaces/{namespace}");
        for (path, mut object) in [
            (
                account,
                json!({"apiVersion": "v1", "kind": "ServiceAccount"}),
            ),
            (
                format!("{here}/roles"),
                json!({"apiVersion": version, "kind": "Role", "rules": rules}),
            ),
            (
                format!("{here}/rolebindings"),
                json!({
                    "apiVersion": version,
                    "kind": "RoleBinding",
                    "roleRef": refers("Role"),
                    "subjects": subjects,
                }),
            ),
            (
                format!("/apis/{version}/namespaces/{SYSTEM}/rolebindings"),
                json!({
                    "apiVersion": version,
                    "kind": "RoleBinding",
                    "roleRef": topics,
                    "subjects": subjects,
                }),
            ),
            (
                format!("/apis/{version}/clusterroles"),
                json!({"apiVersion": version, "kind": "ClusterRole", "rules": finalizers}),
            ),
            (
                format!("/apis/{version}/clusterrolebindings"),
                json!({
                    "apiVersion": version,
                    "kind": "ClusterRoleBinding",
                    "roleRef": refers("ClusterRole"),
                    "subjects": subjects,
                }),
            ),
        ] {
            object["metadata"] = json!({"name": RESTRICTED});
            let request = http::Request::post(&path)
                .header("content-type", "application/json")
                .body(serde_json::to_vec(&object)?)?;
            self.admin.request::<Value>(request).await.context(path)?;
        }
        self.operator_with(self.config_of(RESTRICTED).await?).await
    }

    /// An operator with proxies of its own, not started yet.
    pub async fn operator(&self) -> Result<Operator> {
        self.operator_with(self.operator_config.clone()).await
    }

    async fn operator_with(&self, config: Config) -> Result<Operator> {
        let slot = self
            .slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let slot = slot.context("no slot is left: raise MAX_OPERATORS")?;
        let operator = Operator::new(Client::try_from(config)?, slot, &self.folder).await?;
        self.traffic
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&operator.traffic));
        Ok(operator)
    }

    /// The permissions that all operators so far used, and those they granted to workers.
    pub fn permissions(&self) -> (BTreeSet<Permission>, BTreeSet<Permission>) {
        let (mut used, mut granted) = (BTreeSet::new(), BTreeSet::new());
        for traffic in self
            .traffic
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            let (used_by_one, granted_by_one) = traffic.permissions();
            used.extend(used_by_one);
            granted.extend(granted_by_one);
        }
        (used, granted)
    }

    /// Keeps the status of every Deployment complete, in place of controllers and nodes.
    pub async fn run_deployments(&self) -> Result<()> {
        let all: Api<Deployment> = Api::all(self.admin.clone());
        watcher(all, watcher::Config::default())
            .default_backoff()
            .applied_objects()
            .map_err(anyhow::Error::from)
            .try_for_each_concurrent(8, |deployment| self.complete(deployment))
            .await
    }

    /// Sets the status of a Deployment as if its pods were ready.
    async fn complete(&self, deployment: Deployment) -> Result<()> {
        let metadata = &deployment.metadata;
        let spec = deployment.spec.as_ref();
        let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let status = deployment.status.as_ref();
        if status.and_then(|status| status.observed_generation) == metadata.generation {
            return Ok(());
        }
        let status = json!({"status": {
            "observedGeneration": metadata.generation,
            "replicas": replicas,
            "updatedReplicas": replicas,
            "readyReplicas": replicas,
            "availableReplicas": replicas,
        }});
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let name = metadata.name.as_deref().unwrap_or_default();
        let api: Api<Deployment> = Api::namespaced(self.admin.clone(), namespace);
        let written = api
            .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await;
        // It may have been deleted meanwhile.
        if let Err(error) = written
            && !matches!(&error, kube::Error::Api(status) if status.code == 404)
        {
            println!("the status of Deployment {namespace}/{name} can't be written: {error}");
        }
        Ok(())
    }
}
