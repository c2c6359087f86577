use tower_layer::Layer;

use crate::{Breaker, Circuit, ErrorsFail};

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
    /// ones. HTTP services need it, for a 500 is no error of the service.
    #[must_use]
    pub fn classify<D>(self, classify: D) -> BreakerLayer<D> {
        BreakerLayer { circuit: self.circuit, classify }
    }
}

impl<S, C: Clone> Layer<S> for BreakerLayer<C> {
    type Service = Breaker<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        Breaker::new(inner, self.circuit.clone(), self.classify.clone())
    }
}
