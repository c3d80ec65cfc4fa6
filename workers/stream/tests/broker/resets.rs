//! Resets: a worker carries one out once, and answers how far it is.

use super::{
    pin,
    pipeline::{Pipeline, eventually},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_is_carried_out_once_and_reported_as_done_by_every_worker() {
    let mut pipeline = Pipeline::new("resets", &[]).await;
    let stored = async |pipeline: &Pipeline, key: &str| {
        eventually(&format!("{key} is stored"), async || {
            pipeline.title(key).await.is_some()
        })
        .await;
    };
    let worker = pipeline.worker();
    pipeline.produce("pin", &pin("first", "t")).await;
    stored(&pipeline, "first").await;
    assert_eq!(worker.reset().id, "", "its configuration has none");
    worker.stop();
    let delete = "DELETE FROM resets.pin WHERE unique_id = 'first'";

    pipeline.reset = Some("{id: r, topics: [resets.pin], to: earliest}");
    for is_again in [false, true] {
        pipeline.sql.execute(delete, &[]).await.unwrap();
        let worker = pipeline.worker();
        eventually("the reset is done", async || {
            let state = worker.reset();
            state.id == "r" && state.done.contains("resets.pin") && state.problem.is_none()
        })
        .await;
        let key = format!("new {is_again}");
        pipeline.produce("pin", &pin(&key, "t")).await;
        stored(&pipeline, &key).await;
        if !is_again {
            stored(&pipeline, "first").await;
        }
        worker.stop();
    }
    let left = pipeline.title("first").await;
    assert_eq!(left, None, "it was carried out again");

    pipeline.reset = Some(
        "{id: nowhere, topics: [resets.pin], \
         to: !offsets [{topic: resets.pin, partition: 7, offset: 0}]}",
    );
    let worker = pipeline.worker();
    eventually("the reset can't be carried out", async || {
        let problem = worker.reset().problem.unwrap_or_default();
        problem.contains("resets.pin has no partition 7")
    })
    .await;
}
