//! A pipeline that is as it should be costs no write: not when it is looked at again, and not when
//! a new operator looks for the first time.

use anyhow::{Result, ensure};

use crate::{specs, user::Pipeline, world::World};

pub async fn run(world: &World) -> Result<String> {
    let lane = world.lane().await?;
    let mut told = Vec::new();
    for (name, spec) in [
        ("thorough", specs::thorough(&lane.bootstrap_servers)),
        ("whole", specs::whole(&lane.bootstrap_servers)),
    ] {
        let namespace = format!("idempotence-{name}");
        world.place(&namespace).await?;
        let arguments = ["--namespace", &namespace];
        let pipeline = Pipeline::new(&world.admin, &namespace, "pinterest");
        pipeline.create(&spec).await?;
        lane.start(&arguments)?;
        pipeline.settles(&lane).await?;
        let written = lane.tap.writes().len();

        lane.tap.begin(None);
        let passes = lane.passes().await?;
        pipeline
            .annotate("example.com/irrelevant", "touched")
            .await?;
        lane.passed(passes + 1.0).await?;
        let again = lane.tap.attempts();
        ensure!(
            again.is_empty(),
            "{name}: looked at again, it was written to: {again:?}"
        );

        lane.tap.kill();
        lane.tap.begin(None);
        lane.start(&arguments)?;
        lane.passed(1.0).await?;
        let anew = lane.tap.attempts();
        ensure!(anew.is_empty(), "{name}: a new operator wrote: {anew:?}");
        lane.tap.kill();
        told.push(format!(
            "{name}: {written} writes until settled, none after that"
        ));
    }
    Ok(told.join("; "))
}
