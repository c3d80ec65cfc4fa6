//! Gives a client a token, which the crate rdkafka does only for clients that are polled.
#![expect(
    unsafe_code,
    reason = "librdkafka's C interface is the only way to give a client a token"
)]

use std::{
    ffi::{CString, c_char},
    ptr,
    time::SystemTime,
};

use anyhow::{Context as _, Result, ensure};
use rdkafka::{
    ClientContext, bindings as rd,
    client::{Client, OAuthToken},
    types::RDKafkaErrorCode,
};

use super::{request::text, tokens::Token};

/// Room for librdkafka's sentence about a token that it refuses, bytes.
const SENTENCE: usize = 512;

impl From<Token> for OAuthToken {
    fn from(token: Token) -> Self {
        let lifetime = token.expires.duration_since(SystemTime::UNIX_EPOCH);
        let milliseconds = lifetime.unwrap_or_default().as_millis();
        Self {
            token: token.value,
            // Only for librdkafka's own log: the broker takes the name from the token.
            principal_name: "pinpipe".to_owned(),
            lifetime_ms: i64::try_from(milliseconds).unwrap_or(i64::MAX),
        }
    }
}

/// Gives `client` a token in place of the one it has.
pub(super) fn set_token<C: ClientContext>(client: &Client<C>, token: Token) -> Result<()> {
    let token = OAuthToken::from(token);
    let value = CString::new(token.token).context("a token with a null character")?;
    let name = CString::new(token.principal_name)?;
    let mut sentence: [c_char; SENTENCE] = [0; SENTENCE];
    // SAFETY: the client lives as long as its borrow, and librdkafka copies the strings. There are
    // no extensions. It ends its sentence within the buffer's length.
    let (code, sentence) = unsafe {
        let code = rd::rd_kafka_oauthbearer_set_token(
            client.native_ptr(),
            value.as_ptr(),
            token.lifetime_ms,
            name.as_ptr(),
            ptr::null_mut(),
            0,
            sentence.as_mut_ptr(),
            SENTENCE,
        );
        (code, text(sentence.as_ptr()))
    };
    let code = RDKafkaErrorCode::from(code);
    ensure!(code == RDKafkaErrorCode::NoError, "{sentence}");
    Ok(())
}
