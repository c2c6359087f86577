use std::task::{Context, Poll};

use http::{Request, Uri, uri};
use tower_service::Service;

use crate::Instance;

/// Points every request of an HTTP client at one instance: what a maker gives a [`Balance`](crate::Balance).
///
/// Requests name a path, with or without a query; scheme and authority become `http` and those of the instance, whatever they were.
/// All endpoints share the client and with it its pool of connections, if clones of it do.
///
/// ```
/// use bytes::Bytes;
/// use gusset_registry::{Balance, Ejection, Http, Instance, MemoryRegistry, Registry, ToInstance};
/// use http_body_util::Empty;
/// use hyper_util::{client::legacy::Client, rt::TokioExecutor};
///
/// let registry = MemoryRegistry::default();
/// let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
/// let cart = Balance::new(registry.watch("cart"), move |instance: &Instance| ToInstance::new(client.clone(), instance))
///     .protocol(Http) // 5xx are failures,
///     .eject(Ejection::default()); // and five of them in a row take an instance out
/// // cart.clone().oneshot(Request::get("/items?of=ann").body(Empty::new())?).await
/// # fn is_client<S: tower::Service<http::Request<Empty<Bytes>>>>(_: S) {}
/// # is_client(cart);
/// ```
///
/// # Readiness
///
/// That of the client.
///
/// # Cancellation
///
/// That of the client.
#[derive(Clone, Debug)]
pub struct ToInstance<S> {
    client: S,
    /// `None` if the registry holds something that is no host and port: the client then refuses the request.
    authority: Option<uri::Authority>,
}

impl<S> ToInstance<S> {
    /// Sends what it is called with through `client` to `instance`.
    #[must_use]
    pub fn new(client: S, instance: &Instance) -> Self {
        Self { client, authority: instance.authority().parse().ok() }
    }
}

impl<S, B> Service<Request<B>> for ToInstance<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.client.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        let mut target = uri::Parts::default();
        target.path_and_query = request.uri().path_and_query().cloned();
        if let Some(authority) = &self.authority {
            target.scheme = Some(uri::Scheme::HTTP);
            target.authority = Some(authority.clone());
            // A URI with an authority needs a path, and one made from parts may have none.
            target.path_and_query.get_or_insert_with(|| uri::PathAndQuery::from_static("/"));
        }
        *request.uri_mut() = Uri::from_parts(target).unwrap_or_default();
        self.client.call(request)
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::ready};

    use tower::{ServiceExt, service_fn};

    use super::*;

    async fn sent(instance: &Instance, uri: &'static str) -> String {
        let client = service_fn(|request: Request<()>| {
            ready(Ok::<_, Infallible>(request.uri().to_string()))
        });
        let request = Request::builder().uri(uri).body(()).unwrap();
        ToInstance::new(client, instance).oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn a_request_keeps_its_path_and_query_and_goes_to_the_instance() {
        let cart = Instance::new("cart", "10.0.0.7", 80);
        assert_eq!(sent(&cart, "/items?of=ann").await, "http://10.0.0.7:80/items?of=ann");
        assert_eq!(sent(&cart, "https://elsewhere:1/a").await, "http://10.0.0.7:80/a");
        assert_eq!(sent(&cart, "elsewhere:1").await, "http://10.0.0.7:80/");
        assert_eq!(sent(&Instance::new("cart", "::1", 80), "/").await, "http://[::1]:80/");
    }

    #[tokio::test]
    async fn an_instance_without_a_proper_place_names_no_other_one() {
        let nowhere = Instance::new("cart", "a b", 80);
        assert_eq!(sent(&nowhere, "http://elsewhere/a").await, "/a");
    }
}
