//! What the operator permits pipelines to choose.

use pinpipe_crds::PinterestPipelineSpec;

use super::{Problem, template};
use crate::model::{Images, Policy};

pub(super) fn check(
    spec: &PinterestPipelineSpec,
    policy: &Policy,
    images: &Images,
    problems: &mut Vec<Problem>,
) {
    let registry = spec
        .image
        .as_ref()
        .and_then(|image| image.registry.as_deref());
    if let Some(registry) = registry
        && !is_allowed(registry, policy, images)
    {
        let allowed = policy.allowed_registries.join(", ");
        problems.push(Problem {
            field: "spec.image.registry",
            message: format!(
                "`{registry}` is not permitted: this operator permits {allowed} and what is below \
                 (--allowed-registries), and its own, {}, if the field is left out",
                images.registry
            ),
        });
    }
    if !policy.forbid_service_account_name {
        return;
    }
    for found in template::all(spec) {
        if let Some(account) = &found.template.service_account_name {
            let field = found.account;
            let message = format!(
                "`{account}` is not permitted: this operator lets no pipeline name a \
                 ServiceAccount (--forbid-service-account-name); leave the field out"
            );
            problems.push(Problem { field, message });
        }
    }
}

fn is_allowed(registry: &str, policy: &Policy, images: &Images) -> bool {
    let mut allowed = policy.allowed_registries.iter();
    let is_below = |parent: &String| {
        let rest = registry.strip_prefix(parent.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    policy.allowed_registries.is_empty() || registry == images.registry || allowed.any(is_below)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        samples::{all_there, images, pipeline, whole},
        validate::validate,
    };

    fn problems(policy: &Policy, spec: Value) -> Vec<String> {
        let pipeline = pipeline(spec);
        let mut inputs = all_there(&pipeline);
        inputs.policy = policy.clone();
        let problems = validate(&pipeline, &inputs, &images()).err();
        let problems = problems.into_iter().flatten();
        problems.map(|problem| problem.to_string()).collect()
    }

    #[test]
    fn a_registry_must_be_the_operators_own_or_below_a_permitted_one() {
        let policy = Policy {
            allowed_registries: vec!["registry.example/data/".to_owned(), "other.example".into()],
            ..Policy::default()
        };
        let of = |registry: &str| problems(&policy, json!({"image": {"registry": registry}}));
        for permitted in [
            "ghcr.io/pinpipe",
            "registry.example/data",
            "registry.example/data/pins",
            "other.example/x",
        ] {
            assert_eq!(of(permitted), [""; 0], "{permitted}");
        }
        assert_eq!(problems(&policy, json!({})), [""; 0]);
        for refused in [
            "registry.example",
            "registry.example/database",
            "other.example.org/x",
        ] {
            let found = of(refused);
            assert!(found[0].starts_with("spec.image.registry: `"), "{found:?}");
            assert!(
                found[0].contains("registry.example/data/, other.example"),
                "{found:?}"
            );
        }
        let all = Policy::default();
        assert_eq!(
            problems(&all, json!({"image": {"registry": "any"}})),
            [""; 0]
        );
    }

    #[test]
    fn no_template_may_name_a_service_account_where_that_is_forbidden() {
        let policy = Policy {
            forbid_service_account_name: true,
            ..Policy::default()
        };
        let mut spec = whole();
        spec["ingest"] = json!({});
        assert_eq!(problems(&policy, spec.clone()), [""; 0]);
        for section in [
            "",
            "/ingest",
            "/stream/sinks/0",
            "/archive",
            "/batch",
            "/emulator",
        ] {
            let mut spec = spec.clone();
            spec.pointer_mut(section).unwrap()["template"] = json!({"serviceAccountName": "admin"});
            let found = problems(&policy, spec.clone());
            assert!(
                found.len() == 1 && found[0].contains("`admin`"),
                "{section}: {found:?}"
            );
            assert_eq!(problems(&Policy::default(), spec), [""; 0], "{section}");
        }
    }
}
