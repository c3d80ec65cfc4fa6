//! Commands that make a pod: the pod, and why it can't be made or doesn't start.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{LimitRange, Pod, ResourceQuota, ServiceAccount};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use pinpipe_servers::stores;
use serde_json::{Value, json};

use crate::{Printed, client, pinpipe};

/// How long a command may take to make its pod, or to end.
const WITHIN: Duration = Duration::from_mins(1);

pub async fn makes_pods(folder: &Path) {
    let pods: Api<Pod> = Api::namespaced(client().await, "data");
    says_what_it_waits_for(folder, &pods).await;
    says_why_it_doesn_t_start(folder, &pods).await;
    deletes_the_pod_when_interrupted(folder, &pods).await;
    says_why_it_can_t_be_created(folder, &pods).await;
    let none = pinpipe(
        folder,
        &["verify", "-n", "data", "pinterest", "--sink", "x"],
    );
    assert_eq!(none.status, Some(3), "{none:?}");
    assert!(
        none.stderr.contains("no Deployment of a stream sink x"),
        "{none:?}"
    );
}

fn start(folder: &Path, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_kubectl-pinpipe"))
        .args(arguments)
        .args(["-n", "data"])
        .current_dir(folder)
        .env("KUBECONFIG", stores::kubernetes())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn end(child: Child) -> Printed {
    let output = child.wait_with_output().unwrap();
    Printed {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The pods of inspections.
async fn inspections(pods: &Api<Pod>) -> Vec<Pod> {
    let labels = ListParams::default().labels("app.kubernetes.io/component=inspect");
    pods.list(&labels).await.unwrap().items
}

/// The pod that a command makes.
async fn appears(pods: &Api<Pod>) -> Pod {
    let begun = Instant::now();
    loop {
        if let Some(pod) = inspections(pods).await.pop() {
            return pod;
        }
        assert!(begun.elapsed() < WITHIN, "no pod");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn has_status(pods: &Api<Pod>, name: &str, status: Value) {
    let patch = Patch::Merge(json!({"status": status}));
    let params = PatchParams::default();
    pods.patch_status(name, &params, &patch).await.unwrap();
}

async fn says_what_it_waits_for(folder: &Path, pods: &Api<Pod>) {
    let late = pinpipe(folder, &["verify", "-n", "data", "--timeout", "1s"]);
    assert_eq!(late.status, Some(3), "{late:?}");
    let why = "hasn't started within 1 s (--timeout): it waits for a scheduler";
    assert!(late.stderr.contains(why), "{late:?}");
    assert_eq!(inspections(pods).await, []);
}

async fn says_why_it_doesn_t_start(folder: &Path, pods: &Api<Pod>) {
    let child = start(folder, &["trace", "pin", "-7"]);
    let pod = appears(pods).await;
    let name = pod.name_any();
    assert!(name.starts_with("pinterest-inspect-"), "{name}");
    let body = serde_json::to_value(&pod).unwrap();
    let args = &body["spec"]["containers"][0]["args"];
    let expected = [
        "inspect",
        "--folder",
        "/etc/pinpipe/inspect",
        "trace",
        "--",
        "pin",
        "-7",
    ];
    assert_eq!(*args, json!(expected));
    assert_eq!(
        body["metadata"]["ownerReferences"][0]["kind"],
        "PinterestPipeline"
    );
    has_status(
        pods,
        &name,
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}],
            "containerStatuses": [{"name": "inspect", "image": "", "imageID": "", "ready": false,
                "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff",
                    "message": "manifest unknown"}}}]}),
    )
    .await;
    let ended = end(child);
    assert_eq!(ended.status, Some(3), "{ended:?}");
    let why = format!(
        "pod {name}: its image can't be pulled (ImagePullBackOff): manifest unknown: correct \
         spec.image"
    );
    assert!(ended.stderr.contains(&why), "{ended:?}");
    assert_eq!(inspections(pods).await, []);
}

async fn deletes_the_pod_when_interrupted(folder: &Path, pods: &Api<Pod>) {
    for (arguments, status) in [
        (&["deadletters", "list"][..], 3),
        (&["tail", "--follow", "--rejected"], 0),
    ] {
        let child = start(folder, arguments);
        appears(pods).await;
        let kill = Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
        let ended = end(child);
        assert_eq!(ended.status, Some(status), "{ended:?}");
        assert_eq!(inspections(pods).await, []);
    }
}

async fn says_why_it_can_t_be_created(folder: &Path, pods: &Api<Pod>) {
    let client = pods.clone().into_client();
    let create = PostParams::default();
    let refused = |sentence: &str, remedy: &str| {
        let refused = pinpipe(folder, &["tail", "-n", "data"]);
        assert_eq!(refused.status, Some(3), "{refused:?}");
        let begin = "error: the pod that looks into the data can't be created in namespace data: ";
        assert!(refused.stderr.starts_with(begin), "{refused:?}");
        assert!(
            refused.stderr.contains(sentence) && refused.stderr.contains(remedy),
            "{refused:?}"
        );
    };

    let limits: Api<LimitRange> = Api::namespaced(client.clone(), "data");
    let limit = json!({"metadata": {"name": "small"}, "spec": {"limits": [
        {"type": "Container", "max": {"memory": "200Mi"}}]}});
    let limit = serde_json::from_value(limit).unwrap();
    limits.create(&create, &limit).await.unwrap();
    is_in_force(pods).await;
    refused("maximum memory usage per Container is 200Mi", "--memory");
    limits
        .delete("small", &DeleteParams::default())
        .await
        .unwrap();

    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), "data");
    let hard = json!({"pods": "0"});
    let quota = json!({"metadata": {"name": "none"}, "spec": {"hard": hard}});
    let quota = serde_json::from_value(quota).unwrap();
    quotas.create(&create, &quota).await.unwrap();
    // No controller counts here.
    let counted = Patch::Merge(json!({"status": {"hard": hard, "used": hard}}));
    let params = PatchParams::default();
    let counted = quotas.patch_status("none", &params, &counted).await;
    counted.unwrap();
    is_in_force(pods).await;
    refused("exceeded quota: none", "raise the ResourceQuota");
    quotas
        .delete("none", &DeleteParams::default())
        .await
        .unwrap();

    let accounts: Api<ServiceAccount> = Api::namespaced(client, "data");
    accounts
        .delete("pinterest-batch", &DeleteParams::default())
        .await
        .unwrap();
    is_in_force(pods).await;
    refused("pinterest-batch", "create the ServiceAccount");
}

/// Waits until the API server, which watches what forbids pods, refuses one like an inspection's.
async fn is_in_force(pods: &Api<Pod>) {
    let pod = json!({
        "metadata": {"name": "probe"},
        "spec": {"serviceAccountName": "pinterest-batch", "containers": [{"name": "c", "image": "i",
            "resources": {"limits": {"cpu": "1", "memory": "512Mi"}}}]},
    });
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let begun = Instant::now();
    while pods.create(&dry_run, &pod).await.is_ok() {
        assert!(begun.elapsed() < WITHIN, "nothing forbids a pod");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
