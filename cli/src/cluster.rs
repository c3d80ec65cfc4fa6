//! The API server, reached as kubectl reaches it. Nothing else is connected to.

use std::{error::Error, path::PathBuf, time::Duration};

use kube::{
    Api, Client, Config, Resource,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
    core::NamespaceResourceScope,
};
use pinpipe_crds::PinterestPipeline;
use serde::de::DeserializeOwned;

use crate::failure::Failure;

/// Time-out of a connection to the API server.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the API server may be silent within an answer.
const ANSWER: Duration = Duration::from_secs(30);

/// Options that choose cluster and namespace, as kubectl has them.
#[derive(Clone, Debug, clap::Args)]
pub struct Access {
    /// Namespace; by default that of the context
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,

    /// Context of the kubeconfig; by default the current one
    #[arg(long, value_name = "NAME")]
    context: Option<String>,

    /// The kubeconfig; by default that of KUBECONFIG, or ~/.kube/config
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// A connection to the API server.
#[derive(Clone)]
pub struct Cluster {
    /// The client.
    pub client: Client,
    /// Namespace that commands are about.
    pub namespace: String,
    /// Address of the API server, for messages.
    address: String,
}

impl Access {
    /// Reads the kubeconfig. Connects to nothing yet.
    pub async fn cluster(&self) -> Result<Cluster, Failure> {
        self.connection(Some(ANSWER)).await
    }

    /// As [`Self::cluster`], for answers that may be silent for long, such as a log that is
    /// followed.
    pub async fn patient_cluster(&self) -> Result<Cluster, Failure> {
        self.connection(None).await
    }

    async fn connection(&self, answer: Option<Duration>) -> Result<Cluster, Failure> {
        let mut config = self.config().await?;
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = answer;
        // Whoever waits at a terminal wants to see the error.
        config.default_retry = false;
        if let Some(namespace) = &self.namespace {
            config.default_namespace.clone_from(namespace);
        }
        let (namespace, address) = (
            config.default_namespace.clone(),
            config.cluster_url.to_string(),
        );
        let client = Client::try_from(config).map_err(|error| {
            Failure::Usage(format!(
                "the kubeconfig can't be used: {}; try kubectl version with the same options",
                causes(&error)
            ))
        })?;
        Ok(Cluster {
            client,
            namespace,
            address,
        })
    }

    async fn config(&self) -> Result<Config, Failure> {
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let read = match &self.kubeconfig {
            Some(file) => match Kubeconfig::read_from(file) {
                Ok(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options).await,
                Err(error) => Err(error),
            },
            None if self.context.is_some() => Config::from_kubeconfig(&options).await,
            None => {
                let inferred = Config::infer().await;
                return inferred.map_err(|error| {
                    Failure::Usage(format!(
                        "no cluster is known: {}; set KUBECONFIG or --kubeconfig",
                        causes(&error)
                    ))
                });
            }
        };
        read.map_err(|error| {
            Failure::Usage(format!(
                "the kubeconfig can't be read: {}; check --kubeconfig, --context and KUBECONFIG",
                causes(&error)
            ))
        })
    }
}

impl Cluster {
    /// The same cluster, with another namespace.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            ..self.clone()
        }
    }

    /// The API of a kind of object in the namespace.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// A pipeline of the namespace.
    pub async fn pipeline(&self, name: &str) -> Result<PinterestPipeline, Failure> {
        let found = self.api::<PinterestPipeline>().get_opt(name).await;
        found
            .map_err(|error| self.failure("get pinterestpipelines.pinpipe.dev", &error))?
            .ok_or_else(|| {
                Failure::Cluster(format!(
                    "there is no pipeline {name} in namespace {}: kubectl get pp -A lists all",
                    self.namespace
                ))
            })
    }

    /// The pipelines of the namespace.
    pub async fn pipelines(&self) -> Result<Vec<PinterestPipeline>, Failure> {
        self.list("list pinterestpipelines.pinpipe.dev", "").await
    }

    /// The one pipeline that is meant: by name, or the only one of the namespace.
    pub async fn the_pipeline(&self, name: Option<&str>) -> Result<PinterestPipeline, Failure> {
        if let Some(name) = name {
            return self.pipeline(name).await;
        }
        let mut all = self.pipelines().await?;
        match (all.pop(), all.len()) {
            (Some(only), 0) => Ok(only),
            (None, _) => Err(Failure::Cluster(self.none())),
            (Some(_), others) => Err(Failure::Usage(format!(
                "namespace {} has {} pipelines: name one",
                self.namespace,
                others + 1
            ))),
        }
    }

    /// Sentence about a namespace without pipelines.
    #[must_use]
    pub fn none(&self) -> String {
        format!(
            "namespace {} has no pipeline: kubectl get pp -A lists all; choose a namespace by \
             --namespace",
            self.namespace
        )
    }

    /// Lists objects by labels. `right` is the verb and the resource, for messages.
    pub async fn list<K>(&self, right: &str, labels: &str) -> Result<Vec<K>, Failure>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
        K::DynamicType: Default,
    {
        let params = ListParams::default().labels(labels);
        let listed = self.api::<K>().list(&params).await;
        let listed = listed.map_err(|error| self.failure(right, &error))?;
        Ok(listed.items)
    }

    /// Sentence about a request that failed. `right` is what it needs: verb and resource.
    #[must_use]
    pub fn failure(&self, right: &str, error: &kube::Error) -> Failure {
        Failure::Cluster(sentence(right, &self.namespace, &self.address, error))
    }
}

/// Sentence about a request that failed.
fn sentence(right: &str, namespace: &str, address: &str, error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => format!(
            "you lack the right to {right} in namespace {namespace}: {}; docs/reference/cli.md has \
             a Role with all rights that kubectl pinpipe uses",
            status.message
        ),
        kube::Error::Api(status) if status.code == 401 => format!(
            "the API server at {address} doesn't know you: {}; log in again",
            status.message
        ),
        kube::Error::Api(status) if status.code == 404 && right.contains("pinpipe.dev") => {
            "the cluster doesn't know pipelines: install pinpipe, or choose another --context"
                .to_owned()
        }
        kube::Error::Api(status) => {
            format!("the API server refuses to {right}: {}", status.message)
        }
        kube::Error::Service(_) | kube::Error::HyperError(_) => format!(
            "the API server at {address} can't be reached: {}; try kubectl version with the same \
             options",
            causes(error)
        ),
        error => format!("{right}: {}", causes(error)),
    }
}

/// An error with its causes that it doesn't name itself.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn refusals_name_the_right_and_what_to_do() {
        let refusal = |code, right| {
            let status = Status::failure("no", "Why").with_code(code).boxed();
            sentence(right, "data", "https://k", &kube::Error::Api(status))
        };
        let forbidden = refusal(403, "get pods/proxy");
        assert!(
            forbidden.starts_with("you lack the right to get pods/proxy in namespace data: no")
        );
        assert!(refusal(401, "list pods").ends_with("log in again"));
        assert!(refusal(404, "list pinterestpipelines.pinpipe.dev").contains("install pinpipe"));
        assert_eq!(
            refusal(500, "list pods"),
            "the API server refuses to list pods: no"
        );
    }
}
