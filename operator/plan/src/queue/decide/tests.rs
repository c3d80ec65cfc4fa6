use std::slice;

use serde_json::{Value, json};

use super::*;
use crate::{
    build::{Observed, build},
    queue::record,
    run,
    samples::{run as sample, validated, whole},
};

/// A run that was created at this minute, with its UID.
fn created(name: &str, minute: u8, action: Value) -> PinterestRun {
    let mut run = sample(name, action);
    let time = json!(format!("2026-01-01T10:{minute:02}:00Z"));
    run.metadata.creation_timestamp = serde_json::from_value(time).unwrap();
    run
}

fn cron_job(pipeline: &ValidatedPipeline) -> Option<CronJob> {
    let objects = build(pipeline, &Observed::default()).objects;
    let body = objects
        .into_iter()
        .find(|object| object.resource.kind == "CronJob")?
        .body;
    let mut cron_job: CronJob = serde_json::from_value(body).unwrap();
    cron_job.metadata.uid = Some("42".to_owned());
    Some(cron_job)
}

struct Decided {
    start: Option<Job>,
    states: Vec<State>,
}

impl Decided {
    fn of(&self, run: &str) -> (RunPhase, &'static str, &str) {
        let state = self.states.iter().find(|state| state.run == run).unwrap();
        (state.phase, state.reason, &state.message)
    }
}

fn decided(
    spec: Value,
    runs: &[PinterestRun],
    jobs: &[Job],
    endings: &[(&str, Ending)],
) -> Decided {
    let pipeline = validated(spec);
    let cron_job = cron_job(&pipeline);
    let endings = endings.iter().cloned();
    let endings = endings.map(|(job, ending)| (job.to_owned(), ending));
    let endings = endings.collect();
    let (starts, states) = decide(&Input {
        pipeline: &pipeline,
        cron_job: cron_job.as_ref(),
        live: &BTreeMap::new(),
        runs,
        jobs: &Jobs {
            jobs: jobs.to_vec(),
            endings,
            ..Jobs::default()
        },
        work: &BTreeMap::new(),
    });
    let jobs = starts.into_iter().map(|(_, start)| match start {
        Start::Job(job) => *job,
        Start::Now { .. } => panic!("it takes no Job"),
    });
    Decided {
        start: jobs.into_iter().next(),
        states,
    }
}

fn with_phase(mut run: PinterestRun, phase: &str) -> PinterestRun {
    run.status = serde_json::from_value(json!({"phase": phase})).unwrap();
    run
}

fn ended(mut job: Job, type_: &str) -> Job {
    let condition = json!({"type": type_, "status": "True",
        "lastTransitionTime": "2026-01-01T11:00:00Z"});
    job.status = serde_json::from_value(json!({"conditions": [condition]})).unwrap();
    job
}

#[test]
fn the_oldest_starts_and_the_others_wait_for_it() {
    let runs = [
        created("second", 2, json!({"redrive": {}})),
        created("first", 1, json!({"batch": {"full": true}})),
    ];
    let decided_first = decided(whole(), &runs, &[], &[]);
    let job = decided_first.start.as_ref().unwrap();
    assert_eq!(job.name_any(), run::id(&runs[1]));
    let (phase, reason, message) = decided_first.of("second");
    assert_eq!((phase, reason), (RunPhase::Queued, reasons::RUN_AHEAD));
    assert!(message.contains("the run first"), "{message}");

    // The operator stopped between creating the Job and writing the status.
    let again = decided(whole(), &runs, slice::from_ref(job), &[]);
    assert_eq!(again.start, None);
    assert_eq!(again.of("first").0, RunPhase::Running);
    assert_eq!(again.of("second").1, reasons::RUN_AHEAD);

    let total = Some(RunCounts {
        read: Some(5),
        ..RunCounts::default()
    });
    let message = Some("read 5 records".to_owned());
    let ending = Ending {
        total,
        message,
        ..Ending::default()
    };
    let name = job.name_any();
    let done = ended(job.clone(), "Complete");
    let next = decided(
        whole(),
        &runs,
        slice::from_ref(&done),
        &[(name.as_str(), ending)],
    );
    let first = next
        .states
        .iter()
        .find(|state| state.run == "first")
        .unwrap();
    assert_eq!(
        (
            first.phase,
            first.total.unwrap().read,
            first.message.as_str()
        ),
        (RunPhase::Succeeded, Some(5), "read 5 records")
    );
    assert!(first.started.is_none() && first.ended.is_some());
    assert_eq!(next.start.unwrap().name_any(), run::id(&runs[0]));

    let runs = [runs[0].clone(), with_phase(runs[1].clone(), "Succeeded")];
    for jobs in [vec![done], vec![]] {
        let next = decided(whole(), &runs, &jobs, &[]);
        assert_eq!(next.start.unwrap().name_any(), run::id(&runs[0]));
        assert_eq!(next.states, [], "a final run never changes");
    }
}

#[test]
fn a_failed_job_and_a_deleted_one_are_final() {
    let run = created("r", 1, json!({"batch": {}}));
    let job = decided(whole(), slice::from_ref(&run), &[], &[])
        .start
        .unwrap();
    let failed = decided(whole(), slice::from_ref(&run), &[ended(job, "Failed")], &[]);
    assert_eq!(failed.of("r").0, RunPhase::Failed);
    assert_eq!(failed.start, None);
    let deleted = decided(whole(), &[with_phase(run, "Running")], &[], &[]);
    assert_eq!(deleted.of("r").1, reasons::JOB_MISSING);
    assert_eq!(deleted.start, None);
}

#[test]
fn a_job_that_is_replaced_is_made_again() {
    let run = created("r", 1, json!({"batch": {}}));
    let mut job = decided(whole(), slice::from_ref(&run), &[], &[])
        .start
        .unwrap();
    job.metadata.deletion_timestamp = run.metadata.creation_timestamp.clone();
    let run = with_phase(run, "Queued");
    let going = decided(whole(), slice::from_ref(&run), &[job], &[]);
    assert_eq!((going.start.is_none(), going.of("r").2), (true, REPLACED));
    assert!(decided(whole(), &[run], &[], &[]).start.is_some());
}

#[test]
fn a_job_of_the_schedule_counts_and_is_recorded() {
    let run = created("r", 1, json!({"batch": {}}));
    let job: Job =
        serde_json::from_value(json!({"metadata": {"name": "pinterest-batch-1"}})).unwrap();
    let waits = decided(whole(), slice::from_ref(&run), slice::from_ref(&job), &[]);
    assert!(waits.of("r").2.contains("the Job pinterest-batch-1"));
    let record = record(&validated(whole()), &job);
    let runs = [run, record];
    let waits = decided(whole(), &runs, slice::from_ref(&job), &[]);
    assert!(waits.of("r").2.contains("the run pinterest-batch-1"));
    assert_eq!(waits.of("pinterest-batch-1").0, RunPhase::Running);
    let after = decided(whole(), &runs, &[ended(job, "Complete")], &[]);
    assert_eq!(after.of("pinterest-batch-1").0, RunPhase::Succeeded);
    assert!(after.start.is_some());
    let gone = decided(whole(), &runs, &[], &[]);
    assert_eq!(gone.of("pinterest-batch-1").1, reasons::JOB_MISSING);
}

#[test]
fn what_cannot_start_says_why() {
    let batch = created("r", 1, json!({"batch": {}}));
    let mut suspended = whole();
    suspended["suspend"] = json!(true);
    let without = json!({"archive": whole()["archive"]});
    let period =
        json!({"backfill": {"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}});
    let wrong = created("r", 1, period);
    for (spec, run, phase, reason) in [
        (suspended, &batch, RunPhase::Queued, reasons::SUSPENDED),
        (without, &batch, RunPhase::Refused, reasons::NO_BATCH),
        (whole(), &wrong, RunPhase::Refused, reasons::INVALID_SPEC),
    ] {
        let found = decided(spec, slice::from_ref(run), &[], &[]);
        assert_eq!(found.start, None, "{reason}");
        let (found_phase, found_reason, message) = found.of("r");
        assert_eq!((found_phase, found_reason), (phase, reason), "{message}");
    }
    let [good, younger] =
        [("s", 2), ("t", 3)].map(|(name, minute)| created(name, minute, json!({"batch": {}})));
    let next = decided(whole(), &[wrong, younger, good.clone()], &[], &[]);
    assert_eq!(next.start.as_ref().unwrap().name_any(), run::id(&good));
    assert!(next.of("t").2.contains("the run s"), "{:?}", next.of("t"));
}

#[test]
fn a_run_whose_job_is_refused_holds_no_other_back() {
    let mut refused = created("r", 1, json!({"batch": {}}));
    let condition = json!({"type": "Complete", "status": "False", "message": "a quota",
        "reason": reasons::CHILD_REFUSED, "lastTransitionTime": "2026-01-01T10:00:00Z"});
    let status = json!({"phase": "Queued", "conditions": [condition]});
    refused.status = serde_json::from_value(status).unwrap();
    let other = created("s", 2, json!({"batch": {}}));
    let alone = decided(whole(), slice::from_ref(&refused), &[], &[]);
    assert!(alone.start.is_some(), "it is tried again");
    let next = decided(whole(), &[refused.clone(), other.clone()], &[], &[]);
    assert_eq!(next.start.unwrap().name_any(), run::id(&other));
    // Of two, none is said to wait for the other: that would be written again and again.
    let mut second = other;
    second.status.clone_from(&refused.status);
    let both = decided(whole(), &[refused, second], &[], &[]);
    assert!(
        both.start.is_some() && both.states.is_empty(),
        "{:?}",
        both.states
    );
}

#[test]
fn runs_dont_wait_for_younger_jobs_of_the_schedule() {
    let run = created("r", 5, json!({"batch": {}}));
    let job = |minute: u8| -> Job {
        let time = format!("2026-01-01T10:{minute:02}:00Z");
        let metadata = json!({"name": "pinterest-batch-1", "creationTimestamp": time});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    };
    let older = decided(whole(), slice::from_ref(&run), &[job(4)], &[]);
    assert_eq!(older.of("r").1, reasons::RUN_AHEAD);
    let younger = decided(whole(), slice::from_ref(&run), &[job(6)], &[]);
    assert!(younger.start.is_some());
}

#[test]
fn runs_wait_for_a_pipeline_unless_they_have_started() {
    let queued = created("a", 1, json!({"batch": {}}));
    let running = with_phase(created("b", 1, json!({"batch": {}})), "Running");
    let states = held(
        &[queued, running],
        &[],
        reasons::PIPELINE_NOT_FOUND,
        "no pipeline",
    );
    let names: Vec<_> = states.iter().map(|state| state.run.as_str()).collect();
    assert_eq!(names, ["a"]);
}

#[test]
fn started_runs_go_on_where_none_can_be_started() {
    let run = created("r", 1, json!({"batch": {}}));
    let waiting = created("s", 2, json!({"batch": {}}));
    let job = decided(whole(), slice::from_ref(&run), &[], &[])
        .start
        .unwrap();
    let jobs = Jobs {
        jobs: vec![ended(job, "Complete")],
        ..Jobs::default()
    };
    let states = started(&[with_phase(run, "Running"), waiting], &jobs, "held");
    let found: Vec<_> = states.iter().map(|s| (s.run.as_str(), s.phase)).collect();
    assert_eq!(found, [("r", RunPhase::Succeeded)]);
}

/// What is decided about these runs, with this work of those that take no Job.
fn decided_work(
    spec: Value,
    runs: &[PinterestRun],
    work: &[(&str, Work)],
) -> (Vec<(String, Start)>, Vec<State>) {
    let pipeline = validated(spec);
    let work = work.iter().cloned();
    let (starts, states) = decide(&Input {
        pipeline: &pipeline,
        cron_job: cron_job(&pipeline).as_ref(),
        live: &BTreeMap::new(),
        runs,
        jobs: &Jobs::default(),
        work: &work.map(|(run, work)| (run.to_owned(), work)).collect(),
    });
    let starts = starts.into_iter();
    let starts = starts.map(|(run, start)| (run.name_any(), start));
    (starts.collect(), states)
}

#[test]
fn a_reset_takes_its_turn_and_needs_no_batch() {
    let to = json!({"earliest": {}});
    let reset = created("reset", 1, json!({"reset": {"sink": "live", "to": to}}));
    let batch = created("batch", 2, json!({"batch": {}}));
    let stream = json!({"stream": whole()["stream"]});
    let (starts, _) = decided_work(stream, slice::from_ref(&reset), &[]);
    let store = "Secret warehouse, key uri; schema public".to_owned();
    let store = Some(store);
    let begins = Start::Now {
        store: store.clone(),
    };
    assert_eq!(starts, [("reset".to_owned(), begins)]);

    let mut running = with_phase(reset.clone(), "Running");
    let known = running.status.as_mut().unwrap();
    known.store.clone_from(&store);
    known.start_time = Some(Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
    known.message = Some("as it was".to_owned());
    let runs = [running, batch];
    let (starts, states) = decided_work(whole(), &runs, &[]);
    assert_eq!(starts, []);
    assert_eq!(
        (states[0].phase, &*states[0].message),
        (RunPhase::Running, "as it was")
    );
    assert_eq!(states[1].message, "it waits for the run reset");
    let done = ("reset", Work::Done("done".to_owned()));
    let (starts, states) = decided_work(whole(), &runs, &[done]);
    assert_eq!(starts, [], "the next one starts once this is written");
    assert_eq!(states[0].phase, RunPhase::Succeeded);
    assert_eq!(states[0].store, store);
    assert!(states[0].started.is_some());
    // Nothing of it is lost, nor failed, where the pipeline can't be reconciled.
    let kept = started(&runs, &Jobs::default(), "held");
    assert_eq!((kept.len(), kept[0].phase), (1, RunPhase::Running));
    assert_eq!((&*kept[0].message, &kept[0].store), ("held", &store));
    // The reset may wait for the topic.
    let [running, _] = runs;
    let forget = json!({"topic": {"kind": "Pin", "action": "Forget", "id": "x"}});
    let (starts, _) = decided_work(whole(), &[running, created("forget", 3, forget)], &[]);
    assert_eq!(starts.len(), 1, "a run about a topic waits for no other");

    let (_, states) = decided_work(json!({}), slice::from_ref(&reset), &[]);
    assert_eq!(states[0].phase, RunPhase::Refused);
    assert!(
        states[0]
            .message
            .starts_with("spec.reset.sink: the pipeline has no sink live")
    );
    let mut suspended = whole();
    suspended["suspend"] = json!(true);
    let (_, states) = decided_work(suspended.clone(), &[reset], &[]);
    assert_eq!(states[0].reason, reasons::SUSPENDED);
    let topic = json!({"topic": {"kind": "Pin", "action": "Adopt", "id": "x"}});
    let (starts, _) = decided_work(suspended, &[created("topic", 1, topic)], &[]);
    assert_eq!(
        starts.len(),
        1,
        "topics of a suspended pipeline are looked at"
    );
}
