//! Loads into a real server, which these tests start. Each has a database of its own.

mod support;

use self::support::{PIPELINE, Place, Run, Title};
use super::*;
use crate::{
    failure,
    sink::{Extent, Interrupted},
};

const ABC: [Title; 3] = [("a", "A"), ("b", "B"), ("c", "C")];

#[tokio::test]
async fn the_first_run_loads_everything_and_the_next_one_its_changes() {
    let place = Place::new("first").await;
    let first = Run::full(10, &ABC);
    let report = place.load(&first).await.unwrap();
    assert_eq!(
        (report.loaded, report.rows, report.deleted),
        (Extent::Whole, 8, 0)
    );
    assert_eq!(place.pins().await, ["(a,A,10)", "(b,B,10)", "(c,C,10)"]);
    assert_eq!(
        place
            .rows("SELECT ind, country, coordinates, timestamp FROM batch.geo_batch ORDER BY 1")
            .await,
        [
            "(1,\"Côte d'Ivoire\",\"{-89.5,12.25}\",\"0001-01-01 00:00:00+00\")",
            "(2,\"Côte d'Ivoire\",\"{-89.5,12.25}\",\"9999-12-31 23:59:59.999999+00\")",
            "(3,,,)",
        ]
    );
    assert_eq!(
        place.countries().await,
        ["(Albania,art)", "(Zambia,travel)"]
    );

    let next = first.next(20, &[("b", "B2"), ("d", "D")]);
    let report = place.load(&next).await.unwrap();
    assert_eq!(
        (report.loaded, report.rows, report.deleted),
        (Extent::Changes, 6, 1)
    );
    assert_eq!(
        place.pins().await,
        ["(a,A,10)", "(b,B2,20)", "(c,C,10)", "(d,D,20)"]
    );
    assert_eq!(
        place.countries().await,
        ["(Albania,quotes)"],
        "one has vanished"
    );
}

#[tokio::test]
async fn a_run_that_is_repeated_commits_nothing() {
    let place = Place::new("repeated").await;
    let run = Run::full(10, &ABC);
    place.load(&run).await.unwrap();
    let versions = "SELECT xmin, unique_id FROM batch.pinterest_batch UNION ALL \
                    SELECT xmin, country FROM batch.popular_category_by_country";
    let before = place.rows(versions).await;
    let report = place.load(&run).await.unwrap();
    assert_eq!(
        (report.loaded, report.rows),
        (Extent::Nothing, 0),
        "{report:?}"
    );
    assert_eq!(place.rows(versions).await, before);
}

#[tokio::test]
async fn a_sink_without_a_marker_or_a_table_gets_everything() {
    let place = Place::new("lost").await;
    let mut run = Run::full(10, &ABC);
    place.load(&run).await.unwrap();
    for (time, lost) in [
        (20, "DROP TABLE batch.pinpipe_marker"),
        (30, "DROP TABLE batch.user_batch"),
        (40, "DROP SCHEMA batch CASCADE"),
    ] {
        place
            .run(&format!(
                "DELETE FROM batch.pinterest_batch WHERE unique_id = 'a'; \
                INSERT INTO batch.pinterest_batch (unique_id, index_id, _run) \
                VALUES ('stray', 1, now()); {lost}"
            ))
            .await;
        run = run.next(time, &[]);
        let report = place.load(&run).await.unwrap();
        assert_eq!(report.loaded, Extent::Whole, "{lost}: {report:?}");
        let expected = ["a,A", "b,B", "c,C"].map(|pin| format!("({pin},{time})"));
        assert_eq!(place.pins().await, expected, "{lost}");
    }
    let report = place.load(&run.next(50, &[("c", "C2")])).await.unwrap();
    assert_eq!(report.loaded, Extent::Changes, "the marker is back");
}

#[tokio::test]
async fn a_sink_of_another_lake_gets_everything() {
    let place = Place::new("another_lake").await;
    place.load(&Run::full(10, &ABC)).await.unwrap();
    let other = Run {
        state_id: "another lake",
        ..Run::full(15, &[("x", "X")]).next(20, &[("b", "B2")])
    };
    let report = place.load(&other).await.unwrap();
    assert_eq!(
        (report.loaded, report.deleted),
        (Extent::Whole, 3),
        "{report:?}"
    );
    assert_eq!(place.pins().await, ["(b,B2,20)", "(x,X,20)"]);
}

#[tokio::test]
async fn a_run_that_another_has_overtaken_commits_nothing() {
    let place = Place::new("overtaken").await;
    let first = Run::full(10, &ABC);
    place.load(&first).await.unwrap();
    let late = first.next(20, &[("a", "late")]);
    let newer = first.next(30, &[("a", "newer")]);

    // The newer run has not committed yet when the late one begins.
    let sink = place.begin(&newer).await;
    let late_sink = place.sink();
    let loading = place.load_into(&late_sink, &late);
    let committing = async {
        let waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
                       AND wait_event_type = 'Lock'";
        let waits = async {
            while place.rows(waiting).await.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        let deadline = Duration::from_mins(1);
        let waits = tokio::time::timeout(deadline, waits).await;
        waits.expect("the late run waits for the marker's lock");
        sink.mark(&newer.marker()).await.unwrap();
    };
    let (loaded, ()) = tokio::join!(loading, committing);
    let error = loaded.unwrap_err();
    assert!(failure::is_permanent(&error), "{error:#}");
    assert!(
        error.to_string().contains("later than this one"),
        "{error:#}"
    );
    assert_eq!(place.pins().await, ["(a,newer,30)", "(b,B,10)", "(c,C,10)"]);
}

#[tokio::test]
async fn a_refused_row_is_set_aside_and_all_others_are_written() {
    let place = Place::new("refused").await;
    let first = Run::full(10, &ABC);
    place.load(&first).await.unwrap();
    place
        .run(
            "ALTER TABLE batch.pinterest_batch ADD CONSTRAINT polite CHECK (title <> 'bad'); \
             CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
             $$BEGIN IF NEW.title = 'worse' THEN RAISE 'too late'; END IF; RETURN NULL; END$$; \
             CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE ON batch.pinterest_batch \
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await;
    let next = first.next(20, &[("a", "bad"), ("b", "B2"), ("c", "worse"), ("d", "D")]);
    let report = place.load(&next).await.unwrap();
    let refused: Vec<_> = report
        .refused_rows
        .iter()
        .map(|row| (row.key.as_str(), row.reason.to_string()))
        .collect();
    let [("a", polite), ("c", late)] = &refused[..] else {
        panic!("{report:?}")
    };
    assert!(
        polite.contains("\"polite\" (23514)") && late == "too late (P0001)",
        "{report:?}"
    );
    assert_eq!((report.refused, report.rows), (2, 6));
    assert_eq!(
        place.pins().await,
        ["(a,A,10)", "(b,B2,20)", "(c,C,10)", "(d,D,20)"],
        "the earlier versions are kept"
    );

    let full = Run {
        base: None,
        changed: next.all.clone(),
        ..next.next(30, &[])
    };
    let report = place.load(&full).await.unwrap();
    assert_eq!((report.refused, report.deleted), (2, 2), "{report:?}");
    assert_eq!(place.pins().await, ["(b,B2,30)", "(d,D,30)"]);
}

#[tokio::test]
async fn a_table_that_refuses_all_rows_keeps_those_it_has() {
    let place = Place::new("unsuitable").await;
    let first = Run::full(10, &ABC);
    place.load(&first).await.unwrap();
    for (ddl, sentence) in [
        (
            "ADD CONSTRAINT never CHECK (title = '') NOT VALID",
            "\"never\"",
        ),
        (
            "DROP CONSTRAINT never, ADD own text NOT NULL DEFAULT ''; \
             ALTER TABLE batch.pinterest_batch ALTER own DROP DEFAULT",
            "23502",
        ),
    ] {
        place
            .run(&format!("ALTER TABLE batch.pinterest_batch {ddl}"))
            .await;
        let full = Run {
            base: None,
            changed: ABC.to_vec(),
            ..first.next(20, &[])
        };
        let error = place.load(&full).await.unwrap_err();
        assert!(failure::is_permanent(&error), "{error:#}");
        let error = format!("{error:#}");
        assert!(
            error.contains(sentence) && error.contains("pinterest_batch"),
            "{error}"
        );
        assert_eq!(place.pins().await, ["(a,A,10)", "(b,B,10)", "(c,C,10)"]);
        assert_eq!(
            place.countries().await,
            ["(Albania,art)", "(Zambia,travel)"]
        );
    }
}

#[tokio::test]
async fn a_worker_that_dies_between_two_tables_leaves_the_run_before() {
    let place = Place::new("killed").await;
    let first = Run::full(10, &ABC);
    place.load(&first).await.unwrap();
    let next = first.next(20, &[("a", "A2")]);
    drop(place.begin(&next).await);
    assert_eq!(place.pins().await, ["(a,A,10)", "(b,B,10)", "(c,C,10)"]);

    // Its successor's connection is lost once, in the middle, too.
    place
        .run(
            "CREATE SEQUENCE loads; CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS \
             $$BEGIN IF nextval('loads') = 2 THEN PERFORM pg_terminate_backend(pg_backend_pid()); \
             END IF; RETURN NEW; END$$; \
             CREATE TRIGGER die BEFORE INSERT ON batch.geo_batch FOR EACH ROW \
             EXECUTE FUNCTION die()",
        )
        .await;
    let report = place.load(&next).await.unwrap();
    assert_eq!((report.loaded, report.rows), (Extent::Changes, 5));
    assert_eq!(place.pins().await, ["(a,A2,20)", "(b,B,10)", "(c,C,10)"]);
    assert_eq!(place.countries().await, ["(Albania,quotes)"]);
}

#[tokio::test]
async fn a_lost_connection_interrupts_the_load() {
    let place = Place::new("interrupted").await;
    let sink = place.sink();
    sink.prepare(PIPELINE, &[]).await.unwrap();
    sink.keep_open().await.unwrap();
    place
        .run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND application_name = 'pinpipe-batch'",
        )
        .await;
    for error in [
        sink.keep_open().await.unwrap_err(),
        sink.mark(&Run::full(10, &[]).marker()).await.unwrap_err(),
    ] {
        assert!(error.is::<Interrupted>(), "{error:#}");
    }
}

#[tokio::test]
async fn a_schema_belongs_to_one_pipeline() {
    let place = Place::new("claimed").await;
    place.sink().claim(PIPELINE).await.unwrap();
    let error = place.sink().claim("data/others").await.unwrap_err();
    assert!(error.is::<Permanent>(), "{error:#}");
    assert!(
        error.to_string().contains("the pipeline data/pinterest"),
        "{error:#}"
    );
}

#[tokio::test]
async fn a_user_without_the_right_to_create_loads_tables_that_exist() {
    let place = Place::new("rights").await;
    let first = Run::full(10, &ABC);
    place.load(&first).await.unwrap();
    place
        .run(
            "CREATE ROLE loader LOGIN; GRANT USAGE ON SCHEMA batch TO loader; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA batch TO loader",
        )
        .await;
    let sink = place.sink_of(&place.url.replace("postgres@", "loader@"));
    let next = first.next(20, &[("a", "A2")]);
    place.load_into(&sink, &next).await.unwrap();
    place
        .run("REVOKE DELETE ON batch.popular_category_by_country FROM loader")
        .await;
    let error = place
        .load_into(&sink, &next.next(30, &[]))
        .await
        .unwrap_err();
    assert!(failure::is_permanent(&error), "{error:#}");
    assert!(
        format!("{error:#}").contains("permission denied for table"),
        "{error:#}"
    );
    assert_eq!(place.pins().await, ["(a,A2,20)", "(b,B,10)", "(c,C,10)"]);
}

#[tokio::test]
async fn a_refused_connection_names_the_secret_and_never_the_password() {
    let place = Place::new("named").await;
    for (url, sentence) in [
        (
            place.url.replace("postgres@", "postgres:secret-word@") + "_not",
            "\"named_not\" does not exist",
        ),
        ("postgres:/secret-word@x".to_owned(), "can't be parsed"),
    ] {
        let error = place.sink_of(&url).claim(PIPELINE).await.unwrap_err();
        assert!(error.is::<Permanent>(), "{error:#}");
        let error = format!("{error:#}");
        assert!(
            error.contains("Secret warehouse, key url") && error.contains(sentence),
            "{error}"
        );
        assert!(!error.contains("secret-word"), "{error}");
    }
}
