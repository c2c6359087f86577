#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

use std::{
    fmt,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use tower_layer::Layer;
use tower_service::Service;

use crate::StepContext;

/// The header that carries [`StepContext::idempotency_key`]: a quoted string, as `draft-ietf-httpapi-idempotency-key-header` has it.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The header that carries [`StepContext::epoch`], in decimal digits.
pub const EPOCH: HeaderName = HeaderName::from_static("x-gusset-epoch");

/// Puts the key and the epoch of one attempt on the requests that it makes, so that the receiver can tell a repetition, and refuse a process that was
/// believed dead. For the receiver see [`Caller`].
///
/// ```
/// use gusset_saga::{IdempotencyLayer, StepContext, StepError};
/// use http::{Request, Response};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// async fn pay(cx: StepContext, cents: u64) -> Result<(), StepError> {
///     let bank = service_fn(|request: Request<String>| async move {
///         assert!(request.headers().contains_key("idempotency-key"));
///         Ok::<_, std::io::Error>(Response::new(()))
///     });
///     let request = Request::post("http://bank/payments").body(cents.to_string())?;
///     IdempotencyLayer::new(&cx).layer(bank).oneshot(request).await?;
///     Ok(())
/// }
/// # let mut saga = gusset_saga::Saga::define("pay", 1);
/// # saga.step("pay").run(pay).no_undo();
/// # let pay = saga.finish(()).unwrap();
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// # let sagas = gusset_saga::Orchestrator::new(gusset_saga::MemoryStore::new());
/// # sagas.run(&pay, 7).await.unwrap().completed().unwrap();
/// # });
/// ```
///
/// GET, HEAD, OPTIONS and TRACE get neither, for they have no effect. A request that brings a key keeps it, and gets the epoch beside: **an action that has
/// several effects at one receiver gives each a key of its own**, made of [`StepContext::idempotency_key`] and what tells them apart. The attempt's key is at most
/// 264 bytes long, quotes included and escapes not; it is known to proxies and logs on the way.
#[derive(Clone)]
pub struct IdempotencyLayer {
    key: Option<HeaderValue>,
    epoch: HeaderValue,
}

impl IdempotencyLayer {
    /// Of this attempt.
    #[must_use]
    pub fn new(cx: &StepContext) -> Self {
        Self { key: quoted(&cx.idempotency_key()), epoch: cx.epoch().into() }
    }

    /// Puts both into `headers`, for clients that are no tower service. A key that is there stays.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert(EPOCH, self.epoch.clone());
        if let (Some(key), false) = (&self.key, headers.contains_key(IDEMPOTENCY_KEY)) {
            headers.insert(IDEMPOTENCY_KEY, key.clone());
        }
    }
}

/// Names of sagas and steps are visible ASCII, so there always is one.
fn quoted(key: &str) -> Option<HeaderValue> {
    let mut text = String::with_capacity(key.len() + 2);
    text.push('"');
    for letter in key.chars() {
        if matches!(letter, '"' | '\\') {
            text.push('\\');
        }
        text.push(letter);
    }
    text.push('"');
    HeaderValue::try_from(text).ok()
}

impl fmt::Debug for IdempotencyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer")
            .field("key", &self.key)
            .field("epoch", &self.epoch)
            .finish()
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = Idempotency<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Idempotency { inner, headers: self.clone() }
    }
}

/// Service of [`IdempotencyLayer`].
///
/// # Readiness
///
/// That of the inner service.
///
/// # Cancellation
///
/// That of the inner future.
#[derive(Clone, Debug)]
pub struct Idempotency<S> {
    inner: S,
    headers: IdempotencyLayer,
}

impl<S, B> Service<Request<B>> for Idempotency<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        let safe = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE];
        if !safe.contains(request.method()) {
            self.headers.write(request.headers_mut());
        }
        self.inner.call(request)
    }
}

/// What a server is told of the attempt that calls it.
///
/// ```
/// use gusset_saga::Caller;
///
/// let mut headers = http::HeaderMap::new();
/// headers.insert("idempotency-key", "\"order-4711/pay/do\"".parse()?);
/// headers.insert("x-gusset-epoch", "3".parse()?);
/// let caller = Caller::of(&headers)?.expect("it says who calls");
/// assert_eq!((&*caller.key, caller.epoch), ("order-4711/pay/do", Some(3)));
/// assert_eq!(caller.saga(), Some("order-4711"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Do under one key what it asks for once, and answer a repetition as the first time; remember the highest epoch of each [`saga`](Self::saga), and refuse a
/// lower one. Both in the transaction of the effect. Whoever can reach the server can say anything here: it tells repetitions apart, and is no proof of who calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Caller {
    /// The key, without quotes; 1 to 512 bytes.
    pub key: Box<str>,
    /// The epoch, if the caller is a saga.
    pub epoch: Option<u64>,
}

/// A header that is there and cannot be read, or is there twice: answer with 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("header {0} cannot be read")]
pub struct InvalidHeader(HeaderName);

impl Caller {
    /// Longest key, in bytes.
    const LONGEST: usize = 512;

    /// What the headers say; `None` if there is no key.
    ///
    /// # Errors
    ///
    /// When one of the two is there twice, the key is empty, too long or badly quoted, or the epoch no number. A key without quotes is taken as it is, as many
    /// clients send it.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, InvalidHeader> {
        let epoch = only(headers, &EPOCH)?.map(|text| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| digits).ok_or(InvalidHeader(EPOCH))
        });
        let epoch = epoch.transpose()?;
        let Some(text) = only(headers, &IDEMPOTENCY_KEY)? else { return Ok(None) };
        let key = if text.starts_with('"') { unquoted(text) } else { Some(text.to_owned()) };
        let key = key.filter(|key| (1..=Self::LONGEST).contains(&key.len()));
        let key = key.ok_or(InvalidHeader(IDEMPOTENCY_KEY))?.into();
        Ok(Some(Self { key, epoch }))
    }

    /// The saga that calls, if the key is one of a saga: `<saga>/<step>/do` or `<saga>/<step>/undo`, and what an action put behind it is none.
    #[must_use]
    pub fn saga(&self) -> Option<&str> {
        let step = self.key.strip_suffix("/do").or_else(|| self.key.strip_suffix("/undo"))?;
        step.rsplit_once('/').map(|(saga, _)| saga).filter(|saga| !saga.is_empty())
    }
}

/// The one value of that name.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, InvalidHeader> {
    let mut values = headers.get_all(name).iter();
    let (first, second) = (values.next(), values.next());
    match first.map(HeaderValue::to_str) {
        None => Ok(None),
        Some(Ok(text)) if second.is_none() => Ok(Some(text.trim_matches([' ', '\t']))),
        Some(_) => Err(InvalidHeader(name.clone())),
    }
}

/// A string of structured fields (RFC 9651).
fn unquoted(text: &str) -> Option<String> {
    let inside = text.strip_prefix('"')?.strip_suffix('"')?;
    let (mut key, mut letters) = (String::with_capacity(inside.len()), inside.chars());
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => key.push(letters.next().filter(|next| matches!(next, '"' | '\\'))?),
            '"' => return None,
            _ => key.push(letter),
        }
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (key, epoch) in [
            ("\"", "1"),
            ("\"a\"b\"", "1"),
            ("\"a\\b\"", "1"),
            ("\"a\\\"", "1"),
            ("\"\"", "1"),
            ("", "1"),
            ("a", "-1"),
            ("a", "+1"),
            ("a", ""),
            ("a", "99999999999999999999"),
        ] {
            let headers = headers(&[(&IDEMPOTENCY_KEY, key), (&EPOCH, epoch)]);
            assert!(Caller::of(&headers).is_err(), "{key} {epoch}");
        }
        let twice = headers(&[(&IDEMPOTENCY_KEY, "a"), (&IDEMPOTENCY_KEY, "b")]);
        let error = Caller::of(&twice).unwrap_err();
        assert_eq!(error.to_string(), "header idempotency-key cannot be read");
        let long = headers(&[(&IDEMPOTENCY_KEY, &"x".repeat(513))]);
        assert!(Caller::of(&long).is_err());
        assert_eq!(Caller::of(&headers(&[(&EPOCH, "1")])), Ok(None));
    }

    #[test]
    fn a_saga_is_known_by_its_key_and_its_name_may_have_slashes() {
        let caller = |key: &str| Caller { key: key.into(), epoch: None };
        assert_eq!(caller("a/b/pay/do").saga(), Some("a/b"));
        assert_eq!(caller("a/pay/undo").saga(), Some("a"));
        for none in ["a", "pay/do", "/pay/do", "8e03978e-40d5-43dd", "a/pay/do/2"] {
            assert_eq!(caller(none).saga(), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn every_name_of_a_saga_comes_back(key in "[!-~]{1,300}") {
            let mut map = HeaderMap::new();
            map.insert(IDEMPOTENCY_KEY, quoted(&key).unwrap());
            prop_assert_eq!(&*Caller::of(&map).unwrap().unwrap().key, &*key);
        }

        #[test]
        fn no_header_panics(key in "[ -~]{0,40}", epoch in "[ -~]{0,10}") {
            let _ = Caller::of(&headers(&[(&IDEMPOTENCY_KEY, &key), (&EPOCH, &epoch)]));
        }
    }
}
