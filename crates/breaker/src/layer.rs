use tower_layer::Layer;

use crate::{
    Breaker, Circuit, ErrorsFail, FallbackLayer,
    fallback::{FallbackService, FallbackValue},
};

/// Puts a [`Circuit`] around services. All services and clones share that one circuit.
#[derive(Clone, Debug)]
pub struct BreakerLayer<C = ErrorsFail> {
    circuit: Circuit,
    classify: C,
}

impl BreakerLayer {
    /// Guards with `circuit`; every error of the service is a failure, every response a success.
    #[must_use]
    pub const fn new(circuit: Circuit) -> Self {
        Self { circuit, classify: ErrorsFail }
    }
}

impl<C> BreakerLayer<C> {
    /// Lets `classify` judge the results: a closure `|&Result<Response, Error>| -> Outcome`, or one of the ready-made
    /// ones. HTTP services need it, for a 500 is no error of the service. A closure has to name the type of its argument, and the
    /// error of the service must be `Into<BoxError>`.
    #[must_use]
    pub fn classify<D>(self, classify: D) -> BreakerLayer<D> {
        BreakerLayer { circuit: self.circuit, classify }
    }

    /// Lets `fallback` answer the calls that the circuit refuses: a closure `|request, open| async { Ok(response) }` that names the
    /// types of its arguments and of its error.
    ///
    /// ```
    /// use gusset_breaker::{BoxError, BreakerLayer, Circuit, Open, Policy};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let circuit = Circuit::new("prices", Policy::default());
    /// circuit.force_open();
    /// let prices = BreakerLayer::new(circuit)
    ///     .fallback(|item: &'static str, _: Open| async move { Ok::<_, BoxError>(format!("{item}: ask at the desk")) })
    ///     .layer(service_fn(|_: &'static str| async { Err::<String, _>("unreachable") }));
    /// assert_eq!(prices.oneshot("tea").await.unwrap(), "tea: ask at the desk");
    /// # });
    /// ```
    #[must_use]
    pub fn fallback<F>(self, fallback: F) -> FallbackLayer<C, F> {
        FallbackLayer::new(self, fallback)
    }

    /// Answers the calls that the circuit refuses with clones of `value`. Responses of HTTP clients are not `Clone`, for
    /// their bodies are not: use [`fallback`](Self::fallback) there.
    #[must_use]
    pub fn fallback_value<T: Clone>(self, value: T) -> FallbackLayer<C, FallbackValue<T>> {
        self.fallback(FallbackValue(value))
    }

    /// Lets another service answer the calls that the circuit refuses, for instance a replica or a cache. It is polled ready, as
    /// a clone, only for those calls.
    #[must_use]
    pub fn fallback_service<T>(self, service: T) -> FallbackLayer<C, FallbackService<T>> {
        self.fallback(FallbackService(service))
    }
}

impl<S, C: Clone> Layer<S> for BreakerLayer<C> {
    type Service = Breaker<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        Breaker::new(inner, self.circuit.clone(), self.classify.clone())
    }
}
