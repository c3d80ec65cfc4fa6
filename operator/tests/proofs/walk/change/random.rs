//! Random values, and where they are put.

use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Map, Value, json};

/// Some of the names, each at most once, in random order.
pub fn names(random: &mut StdRng, of: &[&str]) -> Value {
    let count = random.random_range(1..=of.len());
    let chosen: Vec<_> = of
        .choose_multiple(random, count)
        .map(|name| json!({"name": name}))
        .collect();
    json!(chosen)
}

pub fn pick<T: Clone>(random: &mut StdRng, of: &[T]) -> T {
    of[random.random_range(0..of.len())].clone()
}

pub fn one_of(random: &mut StdRng, of: &[&str]) -> Option<Value> {
    maybe(random, |random| json!(pick(random, of)))
}

/// A value with a probability of 70%.
pub fn maybe(random: &mut StdRng, value: impl FnOnce(&mut StdRng) -> Value) -> Option<Value> {
    random.random_bool(0.7).then(|| value(random))
}

/// Sets a field, creating its parents, or removes it.
pub fn put(of: &mut Value, path: &str, value: Option<Value>) {
    let (mut at, mut path) = (of, path);
    while let Some((first, rest)) = path.split_once('/') {
        if value.is_none() && at[first].is_null() {
            return;
        }
        if at[first].is_null() {
            at[first] = Value::Object(Map::new());
        }
        (at, path) = (&mut at[first], rest);
    }
    match value {
        Some(value) => at[path] = value,
        None => {
            if let Some(fields) = at.as_object_mut() {
                fields.remove(path);
            }
        }
    }
}
