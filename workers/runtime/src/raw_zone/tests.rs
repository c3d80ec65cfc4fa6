use super::*;

fn partition() -> RawPartition {
    RawPartition {
        topic: "data.pinterest.pin".into(),
        partition: 2,
    }
}

#[test]
fn keys_have_the_documented_layout() {
    use Compression::{Gzip, None, Zstd};
    for (prefix, first, compression, key) in [
        (
            "topics",
            0,
            None,
            "topics/data.pinterest.pin/partition=2/data.pinterest.pin+2+0000000000.json",
        ),
        (
            "a/b",
            12_345_678_901,
            Gzip,
            "a/b/data.pinterest.pin/partition=2/data.pinterest.pin+2+12345678901.json.gz",
        ),
        (
            "",
            7,
            Zstd,
            "data.pinterest.pin/partition=2/data.pinterest.pin+2+0000000007.json.zst",
        ),
    ] {
        assert_eq!(partition().object_key(prefix, first, compression), key);
        assert_eq!(partition().first_offset(prefix, key), Some(first), "{key}");
    }
    assert_eq!(
        partition().index_key("topics", 7, 19, 12),
        "topics/_index/data.pinterest.pin/partition=2/\
         data.pinterest.pin+2+0000000007+0000000019+12.json"
    );
}

#[test]
fn a_listing_from_an_offset_leaves_out_only_earlier_objects() {
    let key = |first| partition().object_key("topics", first, Compression::Zstd);
    for from in [
        1,
        7,
        999_999_999,
        1_000_000_000,
        9_999_999_999,
        12_345_678_901,
    ] {
        let Some(after) = partition().start_after("topics", from) else {
            continue;
        };
        assert!(key(from - 1) < after, "{from}");
        for later in [from, from + 1, from * 10, 10_000_000_000, 99_999_999_999] {
            assert!(key(later) > after, "{from} leaves out {later}");
        }
    }
    assert_eq!(partition().start_after("topics", 0), None, "all of them");
}

#[test]
fn other_keys_are_not_raw_objects() {
    for key in [
        "topics/data.pinterest.pin/partition=2/data.pinterest.pin+1+0000000000.json",
        "topics/data.pinterest.pin/partition=2/data.pinterest.pin+2+000000000.json",
        "topics/data.pinterest.pin/partition=2/data.pinterest.pin+2+00000000x0.json",
        "topics/data.pinterest.pin/partition=2/data.pinterest.pin+2+0000000000.json.bz2",
        "topics/data.pinterest.pin/partition=2/data.pinterest.pin+2+0000000000",
        "topics/data.pinterest.pin/partition=2/",
        "topics/_index/data.pinterest.pin/partition=2/\
         data.pinterest.pin+2+0000000000+0000000001.json",
    ] {
        assert_eq!(partition().first_offset("topics", key), None, "{key}");
    }
}

#[test]
fn a_redriven_line_keeps_its_original_order() {
    let redriven = LineOrder {
        line: 1,
        time: 5,
        partition: 0,
        offset: 3,
    };
    let index = Index {
        offsets: vec![70, 72, 73],
        times: vec![900, 901, 902],
        orders: vec![redriven],
    };
    let order = |time, partition, offset| {
        Some(Order {
            time,
            partition,
            offset,
        })
    };
    let orders: Vec<_> = (0..4).map(|line| index.order(line, 2)).collect();
    assert_eq!(
        orders,
        [order(900, 2, 70), order(5, 0, 3), order(902, 2, 73), None]
    );
    assert_eq!(
        serde_json::from_str::<Index>(&serde_json::to_string(&index).unwrap()).unwrap(),
        index
    );
}

#[test]
fn an_index_without_redriven_lines_has_no_field_orders() {
    let before = r#"{"offsets":[7],"times":[1]}"#;
    let index: Index = serde_json::from_str(before).unwrap();
    assert_eq!(serde_json::to_string(&index).unwrap(), before);
}

#[test]
fn metadata_round_trips() {
    let facts = ObjectMetadata {
        next_offset: 42,
        record_count: 40,
        min_time: 1,
        max_time: 2,
        cluster_id: "c".into(),
        topic_id: "t".into(),
        index: "i".into(),
    };
    let mut metadata = facts.to_metadata();
    assert_eq!(ObjectMetadata::from_metadata(&metadata), Ok(facts));
    metadata.remove("next-offset");
    let message = ObjectMetadata::from_metadata(&metadata)
        .unwrap_err()
        .to_string();
    assert!(message.contains("next-offset"), "{message}");
}
