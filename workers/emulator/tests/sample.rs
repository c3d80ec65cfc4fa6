//! The sample to post in `examples/sample`: one array of records for each kind.

use std::{env, fs};

use pinpipe_core::Kind;
use pinpipe_emulator::Generator;

const USERS: u64 = 200;
const SEED: u64 = 7;

/// With `WRITE_SAMPLE` set, writes the files.
#[test]
fn the_sample_holds_what_the_generator_makes() {
    let generator = Generator::new(SEED);
    for kind in Kind::ALL {
        let records: Vec<String> = (0..USERS)
            .map(|number| generator.user(number).of(kind).to_owned())
            .collect();
        let expected = format!("[\n{}\n]\n", records.join(",\n"));
        let path = format!("../../examples/sample/{kind}.json");
        if env::var_os("WRITE_SAMPLE").is_some() {
            fs::write(&path, &expected).unwrap();
        }
        assert!(
            fs::read_to_string(&path).unwrap() == expected,
            "{path} is out of date: WRITE_SAMPLE=1 cargo test --workspace --test sample"
        );
    }
}
