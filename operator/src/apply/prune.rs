//! Deletes children that are no longer desired.

use std::collections::BTreeSet;

use k8s_openapi::api::{apps::v1::ReplicaSet, batch::v1::Job};
use kube::{
    Api,
    api::{ApiResource, DeleteParams, ListParams, Preconditions},
};
use pinpipe_plan::{build::Object, names};

use super::Applier;
use crate::{
    error::{Error, Trying as _},
    observe::{
        children::{Children, Key, config_maps, kinds, value},
        runs::has_ended,
    },
};

impl Applier<'_> {
    /// Deletes the children that are neither desired nor `needed`. A `ConfigMap` that a pod may
    /// still be started with is kept.
    pub async fn prune(
        &self,
        desired: &[Object],
        needed: &BTreeSet<Key>,
        children: &mut Children,
    ) -> Result<(), Error> {
        let desired = desired
            .iter()
            .map(|o| (o.resource.kind.clone(), o.name.clone()));
        let desired: BTreeSet<Key> = desired.collect();
        let orphans = children.keys().filter(|key| !desired.contains(*key));
        let mut orphans: Vec<Key> = orphans
            .filter(|key| !needed.contains(*key))
            .cloned()
            .collect();
        let undesired = orphans.iter().filter(|(kind, _)| kind == "ConfigMap");
        let undesired: BTreeSet<String> = undesired.map(|(_, name)| name.clone()).collect();
        if self.cache.is_pruned(self.of(), &undesired) {
            orphans.retain(|(kind, _)| kind != "ConfigMap");
        } else if !undesired.is_empty() {
            let before = self.cache.fingerprint(self.of());
            let referred = self.referred_config_maps(children).await;
            let referred = referred.trying("listing what uses ConfigMaps")?;
            orphans.retain(|(kind, name)| kind != "ConfigMap" || !referred.contains(name));
            self.cache.pruned(&self.uid, before, undesired);
        }
        for key in orphans {
            self.delete(&key, children).await?;
            children.remove(&key);
        }
        Ok(())
    }

    async fn delete(&self, (kind, name): &Key, children: &Children) -> Result<(), Error> {
        let kinds = kinds();
        let Some(resource) = kinds.iter().find(|resource| resource.kind == *kind) else {
            return Ok(());
        };
        self.check_lease()?;
        self.cache.changes(&self.uid, kind);
        let child = children.get(kind, name);
        let uid = child.and_then(|object| object["metadata"]["uid"].as_str());
        let preconditions = Preconditions {
            uid: uid.map(ToOwned::to_owned),
            resource_version: None,
        };
        let params = DeleteParams {
            preconditions: Some(preconditions),
            ..DeleteParams::background()
        };
        match self.api(resource).delete(name, &params).await {
            Ok(_) => {
                self.metrics.wrote("delete", &resource.plural);
                tracing::info!(kind, name, "deleted, since it is no longer desired");
                Ok(())
            }
            // It is gone already, or another object has its name by now.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error).trying("deleting a child"),
        }
    }

    /// Names of the `ConfigMaps` that pod templates of Deployments, `ReplicaSets`, `CronJobs` and
    /// Jobs that haven't ended mount.
    async fn referred_config_maps(&self, children: &Children) -> kube::Result<BTreeSet<String>> {
        let of_sets = ListParams::default().labels(&names::selector(&self.pipeline, None));
        let of_jobs = ListParams::default().labels(&names::jobs_selector(&self.pipeline));
        let sets = self.api(&ApiResource::erase::<ReplicaSet>(&()));
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), &self.namespace);
        let (sets, jobs) = futures::try_join!(sets.list(&of_sets), jobs.list(&of_jobs))?;
        let jobs = jobs.items.iter().filter(|job| has_ended(job).is_none());
        let jobs = jobs.map(|job| serde_json::to_value(job).unwrap_or_default());
        let workloads = sets.items.iter().map(value).chain(jobs);
        let workloads = workloads.chain(children.objects().cloned());
        Ok(workloads
            .flat_map(|workload| config_maps(&workload))
            .collect())
    }
}
