//! The reasons conditions and events give. Scripts match on them, so none changes its meaning.

/// `Ready`: everything works.
pub const READY: &str = "Ready";
/// `spec.suspend` is set and every worker is at zero.
pub const SUSPENDED: &str = "Suspended";
/// `spec.suspend` is set; ingest stops, and sinks read the topics to their ends.
pub const DRAINING: &str = "Draining";
/// `spec.suspend` is set and every worker is at zero, some before they had read the topics to their
/// ends.
pub const DRAIN_DEADLINE_EXCEEDED: &str = "DrainDeadlineExceeded";
/// `spec.suspend` is set and a component's pods are stopping.
pub const SUSPENDING: &str = "Suspending";
/// The annotation `pinpipe.dev/paused` is set: nobody looks.
pub const PAUSED: &str = "Paused";
/// The pipeline is being deleted, and topics with it.
pub const DELETING: &str = "Deleting";
/// The pipeline has an annotation that does nothing any more: a `PinterestRun` does it. Everything
/// else goes on.
pub const ANNOTATION_REMOVED: &str = "AnnotationRemoved";
/// The spec holds something that can't be done; nothing was changed.
pub const INVALID_SPEC: &str = "InvalidSpec";
/// An object with a child's name belongs to somebody else; it was left alone.
pub const CHILD_CONFLICT: &str = "ChildConflict";
/// The API server refuses a child.
pub const CHILD_REFUSED: &str = "ChildRefused";

/// Every topic is there.
pub const TOPICS_READY: &str = "TopicsReady";
/// Topics were created and the broker doesn't show all of them yet.
pub const TOPICS_PENDING: &str = "TopicsPending";
/// No broker answers.
pub const BROKER_UNREACHABLE: &str = "BrokerUnreachable";
/// The broker answers with an error.
pub const BROKER_FAILED: &str = "BrokerFailed";
/// The broker refuses to create a topic.
pub const TOPIC_REFUSED: &str = "TopicRefused";
/// The broker refuses to give a topic more partitions.
pub const PARTITIONS_REFUSED: &str = "PartitionsRefused";
/// A topic belongs to another pipeline; nothing of this one is deployed.
pub const TOPIC_CONFLICT: &str = "TopicConflict";
/// A topic was deleted by somebody else.
pub const TOPIC_MISSING: &str = "TopicMissing";
/// A topic was deleted and created again by somebody else; in a sink's condition, its positions are
/// of another topic.
pub const TOPIC_REPLACED: &str = "TopicReplaced";
/// An existing topic has a setting the pipeline can't work with.
pub const TOPIC_UNSUITABLE: &str = "TopicUnsuitable";

/// All pods are there and ready.
pub const AVAILABLE: &str = "Available";
/// Pods are on their way.
pub const PROGRESSING: &str = "Progressing";
/// A Secret, or a key of it, is missing.
pub const SECRET_MISSING: &str = "SecretMissing";
/// The image can't be pulled.
pub const IMAGE_NOT_PULLABLE: &str = "ImageNotPullable";
/// The worker stops again and again.
pub const CRASHING: &str = "Crashing";
/// No node has room, or fits.
pub const UNSCHEDULABLE: &str = "Unschedulable";
/// The cluster refuses to make the pods (a quota, a policy).
pub const PODS_REFUSED: &str = "PodsRefused";
/// The container can't be made as its pod says.
pub const CONTAINER_REFUSED: &str = "ContainerRefused";

/// A sink's position is outside its topic's log.
pub const OFFSET_OUT_OF_RANGE: &str = "OffsetOutOfRange";
/// A sink's store refuses more records than are set aside.
pub const RECORDS_REFUSED: &str = "RecordsRefused";
/// A sink's store can't do what the sink needs.
pub const STORE_UNSUITABLE: &str = "StoreUnsuitable";
/// A live table that was there already can't be the sink's: it has another key, or a column of
/// another type.
pub const TABLE_UNSUITABLE: &str = "TableUnsuitable";
/// A sink stopped at a reset that can't be carried out.
pub const RESET_IMPOSSIBLE: &str = "ResetImpossible";
/// A sink's position can't be understood.
pub const POSITION_UNREADABLE: &str = "PositionUnreadable";
/// A sink's store doesn't answer, or refuses: its worker tries on.
pub const SINK_UNAVAILABLE: &str = "SinkUnavailable";
/// A sink's store refuses the Secret's credentials, or what they may do: its worker tries on.
pub const SINK_ACCESS_DENIED: &str = "SinkAccessDenied";
/// A sink's database does not exist: its worker tries on.
pub const DATABASE_MISSING: &str = "DatabaseMissing";
/// A worker finds no broker: it tries on.
pub const BROKER_UNAVAILABLE: &str = "BrokerUnavailable";
/// A worker can't write dead letters: it tries on.
pub const DEAD_LETTERS_UNAVAILABLE: &str = "DeadLettersUnavailable";
/// A Secret can't be used: its worker goes on with what it had, or waits if it had nothing.
pub const SECRET_UNUSABLE: &str = "SecretUnusable";
/// A worker may not read a topic, or be in its consumer group: it tries on.
pub const READ_NOT_AUTHORIZED: &str = "ReadNotAuthorized";
/// What workers say of themselves, in these words.
pub const FROM_WORKERS: [&str; 15] = [
    TOPIC_REPLACED,
    TOPIC_UNSUITABLE,
    OFFSET_OUT_OF_RANGE,
    RECORDS_REFUSED,
    DEAD_LETTERS_UNAVAILABLE,
    READ_NOT_AUTHORIZED,
    STORE_UNSUITABLE,
    TABLE_UNSUITABLE,
    RESET_IMPOSSIBLE,
    POSITION_UNREADABLE,
    SINK_UNAVAILABLE,
    SINK_ACCESS_DENIED,
    DATABASE_MISSING,
    BROKER_UNAVAILABLE,
    SECRET_UNUSABLE,
];

/// What comes and goes by itself with a change of the spec.
pub const PASSING: [&str; 5] = [PROGRESSING, TOPICS_PENDING, SUSPENDING, DRAINING, DELETING];
/// What stays as it is until somebody does something. The operator looks again all the same.
pub const STALLED: [&str; 16] = [
    INVALID_SPEC,
    ANNOTATION_REMOVED,
    CHILD_CONFLICT,
    CHILD_REFUSED,
    TOPIC_CONFLICT,
    TOPIC_MISSING,
    TOPIC_REPLACED,
    TOPIC_UNSUITABLE,
    TOPIC_REFUSED,
    PARTITIONS_REFUSED,
    OFFSET_OUT_OF_RANGE,
    RECORDS_REFUSED,
    STORE_UNSUITABLE,
    TABLE_UNSUITABLE,
    RESET_IMPOSSIBLE,
    POSITION_UNREADABLE,
];

/// Batch runs are scheduled, and the last one, if any, succeeded.
pub const SCHEDULED: &str = "Scheduled";
/// A batch run is under way, and the one before it, if any, succeeded.
pub const RUNNING: &str = "Running";
/// A batch run has loaded the sink.
pub const LOADED: &str = "Loaded";
/// The last batch run failed; of a sink, it failed at this one.
pub const RUN_FAILED: &str = "RunFailed";
/// A batch run that was due hasn't succeeded in time, or was never started.
pub const BATCH_OVERDUE: &str = "BatchOverdue";
/// An event: a batch run that could not start was deleted, since the pipeline now has another
/// configuration.
pub const RUN_REPLACED: &str = "RunReplaced";

/// Of a run: the pipeline it names doesn't exist.
pub const PIPELINE_NOT_FOUND: &str = "PipelineNotFound";
/// Of a run: another one works on the pipeline's data, or comes first.
pub const RUN_AHEAD: &str = "RunAhead";
/// Of a run: the pipeline has no batch section.
pub const NO_BATCH: &str = "NoBatch";
/// Of a run: its Job was deleted before it had ended.
pub const JOB_MISSING: &str = "JobMissing";
/// Of a run: it has succeeded.
pub const RUN_SUCCEEDED: &str = "RunSucceeded";

/// An event: a run is started.
pub const RUN_STARTED: &str = "RunStarted";
/// An event: a deleted pipeline's topics are left, though they should have gone with it.
pub const TOPICS_LEFT: &str = "TopicsLeft";
/// An event: a sink's worker is told to change its positions, as a run asks.
pub const SINK_RESET: &str = "SinkReset";
