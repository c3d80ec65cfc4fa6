//! A Kubernetes API server and its etcd, without nodes and with selected controllers only.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::Programs;

/// The token of a user in the group `system:masters`, who may do everything.
const ADMIN_TOKEN: &str = "the-token-of-a-test";

/// The settings of an API server and its etcd.
#[derive(Clone, Debug)]
pub struct Kubernetes {
    /// The binary of all Kubernetes programs, which runs the one it is called as.
    pub hyperkube: PathBuf,
    /// The folder of their data, keys and links.
    pub folder: PathBuf,
    /// etcd's port for clients.
    pub etcd: u16,
    /// etcd's port for other members. It has none, but must listen.
    pub etcd_peer: u16,
    /// The API server's port.
    pub port: u16,
    /// The authorization mode: `AlwaysAllow` or `RBAC`.
    pub authorization: &'static str,
}

impl Kubernetes {
    /// The command that runs etcd. It is ready when `/health` answers.
    #[must_use]
    pub fn etcd(&self, programs: Programs<'_>) -> Command {
        let (clients, peers) = (
            format!("http://127.0.0.1:{}", self.etcd),
            format!("http://127.0.0.1:{}", self.etcd_peer),
        );
        let mut etcd = programs("etcd");
        etcd.arg(format!("--data-dir={}", self.folder.join("etcd").display()))
            .arg(format!("--listen-client-urls={clients}"))
            .arg(format!("--advertise-client-urls={clients}"))
            .arg(format!("--listen-peer-urls={peers}"))
            .arg(format!("--initial-advertise-peer-urls={peers}"))
            .arg(format!("--initial-cluster=default={peers}"))
            // The data is not needed after a crash.
            .arg("--unsafe-no-fsync");
        etcd
    }

    /// Writes tokens and keys; returns the command that runs the API server. Wait for
    /// [`Kubernetes::is_ready`].
    pub fn api_server(&self, programs: Programs<'_>) -> Result<Command> {
        let keys = self.folder.join("kubernetes");
        fs::create_dir_all(&keys)?;
        let tokens = keys.join("tokens.csv");
        fs::write(
            &tokens,
            format!("{ADMIN_TOKEN},admin,admin,system:masters\n"),
        )?;
        let key = keys.join("accounts.key");
        let made = programs("openssl")
            .args(["genrsa", "-out"])
            .arg(&key)
            .arg("2048")
            .output()?;
        ensure!(
            made.status.success(),
            "openssl: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        fs::write(self.kubeconfig(), self.access())?;
        let mut server = programs(&self.program("kube-apiserver")?);
        server
            .arg(format!("--etcd-servers=http://127.0.0.1:{}", self.etcd))
            .args([
                "--bind-address=127.0.0.1",
                "--service-cluster-ip-range=10.0.0.0/16",
            ])
            .args([
                "--service-account-issuer=https://pinpipe.test",
                "--endpoint-reconciler-type=none",
            ])
            .arg(format!("--authorization-mode={}", self.authorization))
            .arg(format!("--secure-port={}", self.port))
            .arg(format!("--cert-dir={}", keys.display()))
            .arg(format!("--token-auth-file={}", tokens.display()))
            .arg(format!("--service-account-key-file={}", key.display()))
            .arg(format!(
                "--service-account-signing-key-file={}",
                key.display()
            ));
        Ok(server)
    }

    /// The command that runs the controllers of these names. Start it when the API server is ready.
    pub fn controllers(&self, programs: Programs<'_>, names: &str) -> Result<Command> {
        let mut manager = programs(&self.program("kube-controller-manager")?);
        manager
            .arg(format!("--kubeconfig={}", self.kubeconfig().display()))
            .arg(format!("--controllers={names}"))
            .args(["--leader-elect=false", "--secure-port=0"]);
        Ok(manager)
    }

    /// Whether the API server reports ready.
    #[must_use]
    pub fn is_ready(&self, programs: Programs<'_>) -> bool {
        let Ok(kubectl) = self.program("kubectl") else {
            return false;
        };
        let mut kubectl = programs(&kubectl);
        kubectl
            .env("KUBECONFIG", self.kubeconfig())
            .args(["get", "--raw", "/readyz"]);
        kubectl.output().is_ok_and(|output| output.status.success())
    }

    /// The path of the kubeconfig of a user who may do everything.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubernetes/kubeconfig")
    }

    fn access(&self) -> String {
        let server = format!("https://127.0.0.1:{}", self.port);
        format!(
            "apiVersion: v1
kind: Config
current-context: test
contexts: [{{name: test, context: {{cluster: test, user: admin}}}}]
clusters: [{{name: test, cluster: {{server: '{server}', insecure-skip-tls-verify: true}}}}]
users: [{{name: admin, user: {{token: {ADMIN_TOKEN}}}}}]
"
        )
    }

    /// The path of a Kubernetes program: a link of that name to the binary.
    fn program(&self, name: &str) -> Result<String> {
        let link = self.folder.join(name);
        if !Path::exists(&link) {
            symlink(&self.hyperkube, &link)
                .with_context(|| format!("linking {}", link.display()))?;
        }
        Ok(link.to_string_lossy().into_owned())
    }
}
