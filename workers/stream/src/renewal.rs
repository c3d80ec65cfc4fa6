//! Takes up renewed Secrets while the worker runs.

use std::{convert::Infallible, sync::Arc};

use futures::{StreamExt as _, stream::FuturesOrdered};
use pinpipe_config::{Stream, StreamSink};
use pinpipe_runtime::{
    admin::Readiness,
    kafka::Access,
    renewal::{Mounted, Watcher},
};
use tokio::sync::watch;

use crate::sink::Sink;

/// A client that reads mounted files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// Those of the brokers.
    Kafka,
    /// The sink's.
    Sink,
}

/// The mounted files that a worker's configuration names.
pub fn mounted(config: &Stream) -> impl Iterator<Item = (Client, Mounted)> {
    let kafka = Mounted::kafka(&config.kafka).into_iter();
    let sink = of_sink(&config.sink).into_iter();
    let kafka = kafka.map(|mounted| (Client::Kafka, mounted));
    kafka.chain(sink.map(|mounted| (Client::Sink, mounted)))
}

/// Watches the mounted files that a worker's configuration names.
#[must_use]
pub fn watcher(config: &Stream, readiness: Readiness) -> Watcher<Client> {
    Watcher::new(mounted(config), readiness)
}

fn of_sink(sink: &StreamSink) -> Vec<Mounted> {
    match sink {
        StreamSink::Postgres(postgres) => {
            let of = format!("spec.stream.sinks, {}: postgres", postgres.name);
            let tls = postgres.tls.iter();
            let tls = tls.flat_map(|tls| Mounted::tls(format!("{of}.tls"), tls));
            let url = Mounted {
                field: format!("{of}.urlSecretRef"),
                files: vec![postgres.url_file.clone()],
            };
            [url].into_iter().chain(tls).collect()
        }
        StreamSink::Archive(archive) => Mounted::s3("spec.archive.s3", &archive.zone.s3),
    }
}

/// Takes up each change, for ever. Clients of the brokers get it by `access`, whatever the sink
/// still waits for.
pub async fn take_up<S: Sink>(
    mut watcher: Watcher<Client>,
    config: Stream,
    sink: Arc<S>,
    access: watch::Sender<Access>,
) -> Infallible {
    let mut renewed_sinks = FuturesOrdered::new();
    loop {
        let changes = tokio::select! {
            changes = watcher.changed() => changes,
            Some((change, taken_up)) = renewed_sinks.next() => {
                watcher.report(&change, taken_up);
                continue;
            }
        };
        for change in changes {
            match change.client {
                Client::Kafka => {
                    let taken_up = Access::read(&config.kafka).map(|read| {
                        access.send_if_modified(|known| {
                            let is_new = *known != read;
                            *known = read;
                            is_new
                        });
                    });
                    watcher.report(&change, taken_up);
                }
                Client::Sink => {
                    let sink = &sink;
                    renewed_sinks.push_back(async move { (change, sink.renew().await) });
                }
            }
        }
    }
}
