//! The bearer tokens of clients: the keys of one Secret, a file each.

use std::{collections::BTreeMap, fmt, fs, path::Path, sync::Arc};

use anyhow::{Context as _, Result, bail, ensure};
use axum::http::HeaderValue;
use openssl::{memcmp, sha::sha256};
use pinpipe_runtime::config::secret_file;

/// The field that names the Secret, for messages.
const FIELD: &str = "bearerTokensSecretRef";
/// The fewest bytes of a token. A shorter one could be guessed.
const MIN_BYTES: usize = 16;
/// The client of requests without a known token, in metrics.
pub(super) const ANONYMOUS: &str = "anonymous";
/// How a request's header begins.
const SCHEME: &str = "Bearer ";

/// The tokens, as digests, with the names of their clients.
#[derive(Clone, PartialEq, Eq)]
pub struct Tokens(Vec<(Arc<str>, [u8; 32])>);

/// Debug output without the digests.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

impl Tokens {
    /// Reads the tokens of a mounted Secret: each file is a key of it, and names the client. Errors
    /// name the key, and never have a token.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut tokens = BTreeMap::new();
        let mut names = BTreeMap::new();
        for entry in fs::read_dir(folder).with_context(|| format!("{FIELD} can't be read"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            // The kubelet's own links.
            if name.starts_with("..") {
                continue;
            }
            let of = format!("{FIELD}, key {name}");
            ensure!(
                name != ANONYMOUS,
                "{of}: the name is that of clients without a token in metrics: choose another one"
            );
            let token = secret_file(&folder.join(&name), Some(&of))?;
            ensure!(
                token.len() >= MIN_BYTES,
                "{of}: the token has {} bytes, and must have {MIN_BYTES} at least: set a random \
                 one",
                token.len()
            );
            ensure!(
                token.bytes().all(|byte| byte.is_ascii_graphic()),
                "{of}: the token must consist of ASCII letters, digits and punctuation, without \
                 white space, since it is sent in a header"
            );
            let digest = sha256(token.as_bytes());
            if let Some(other) = names.insert(digest, name.clone()) {
                bail!("{FIELD}: the keys {other} and {name} have the same token: change one");
            }
            tokens.insert(name, digest);
        }
        ensure!(
            !tokens.is_empty(),
            "{FIELD}: the Secret has no key: add one for each client"
        );
        let tokens = tokens.into_iter();
        Ok(Self(
            tokens.map(|(name, digest)| (name.into(), digest)).collect(),
        ))
    }

    /// Whether a client has this name.
    #[must_use]
    pub fn names(&self, client: &str) -> bool {
        self.0.iter().any(|(name, _)| **name == *client)
    }

    /// The client with this token. Takes the same time whatever the token has in common with one
    /// that is known.
    #[must_use]
    pub fn client(&self, token: &[u8]) -> Option<Arc<str>> {
        let sent = sha256(token);
        let mut client = None;
        for (name, digest) in &self.0 {
            if memcmp::eq(digest, &sent) {
                client = Some(Arc::clone(name));
            }
        }
        client
    }
}

/// The token in the header `Authorization`. None: the header has another scheme.
pub(super) fn bearer(authorization: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = authorization.as_bytes().split_at_checked(SCHEME.len())?;
    let is_bearer = scheme.eq_ignore_ascii_case(SCHEME.as_bytes());
    is_bearer.then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn folder(test: &str, files: &[(&str, &str)]) -> PathBuf {
        let own = format!("pinpipe-tokens-{}-{test}", std::process::id());
        let folder = std::env::temp_dir().join(own);
        fs::create_dir_all(folder.join("..data")).unwrap();
        for (name, content) in files {
            fs::write(folder.join(name), content).unwrap();
        }
        folder
    }

    #[test]
    fn a_client_is_known_by_its_token() {
        let files = [
            ("one", "token-of-client-one\n"),
            (".two", "token-of-client-two"),
        ];
        let folder = folder("known", &files);
        let tokens = Tokens::read(&folder).unwrap();
        fs::remove_dir_all(folder).unwrap();
        for (header, expected) in [
            ("Bearer token-of-client-one", Some("one")),
            ("bearer  token-of-client-two ", Some(".two")),
            ("Bearer token-of-client-onee", None),
            ("Bearer token-of-client-on", None),
            ("Bearer ", None),
            ("Bearer", None),
            ("Basic token-of-client-one", None),
            ("token-of-client-one", None),
        ] {
            let header = HeaderValue::from_str(header).unwrap();
            let found = bearer(&header).and_then(|token| tokens.client(token));
            assert_eq!(found.as_deref(), expected, "{header:?}");
            let is_bearer = header
                .as_bytes()
                .to_ascii_lowercase()
                .starts_with(b"bearer ");
            assert_eq!(bearer(&header).is_some(), is_bearer, "{header:?}");
        }
        assert_eq!(format!("{tokens:?}"), "[\".two\", \"one\"]");
    }

    #[test]
    fn an_unusable_token_is_named_by_its_key_and_never_shown() {
        let marker = "planted-marker";
        let long = format!("{marker}-{marker}");
        let (spaced, foreign) = (format!("{marker} {marker}"), format!("{marker}-ß-{marker}"));
        for (test, files, says) in [
            ("none", &[][..], "the Secret has no key"),
            ("empty", &[("a", "\n")], "key a is empty"),
            ("anonymous", &[("anonymous", &long)], "choose another one"),
            ("short", &[("a", marker)], "key a: the token has 14 bytes"),
            ("spaced", &[("a", &spaced)], "key a: the token must consist"),
            (
                "foreign",
                &[("a", &foreign)],
                "key a: the token must consist",
            ),
            (
                "same",
                &[("a", &long), ("b", &long)],
                "have the same token: change one",
            ),
        ] {
            let folder = folder(test, files);
            let error = format!("{:#}", Tokens::read(&folder).unwrap_err());
            fs::remove_dir_all(folder).unwrap();
            assert!(error.starts_with(FIELD) && error.contains(says), "{error}");
            assert!(!error.contains(marker), "{error}");
        }
    }
}
