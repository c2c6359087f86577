//! What the rest of the family does, as a sidecar shows it: numbers of circuits, limiters, sagas and brokers among the metrics, the spans of a broker and the attempts of sagas among
//! the records. Each function adds a source that is asked when the metrics are read, so nothing of it costs a call anything.
//!
//! ```
//! # #[cfg(feature = "broker")] fn main() {
//! use gusset::{
//!     broker::{Broker, Delivery, Message},
//!     observe,
//!     sidecar::{Sidecar, SpanKind},
//! };
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
//! let (broker, sidecar) = (Broker::new(), Sidecar::new("orders"));
//! let trace = observe::spans(&broker, sidecar.recorder());
//! observe::numbers(&broker, sidecar.metrics());
//!
//! let handler = service_fn(|_: Delivery<u32>| async { Ok::<_, std::io::Error>(()) });
//! let _stock = broker.subscribe("order.*").group("stock").handle(trace.layer(handler)).await?;
//! trace.layer(broker.publisher()).oneshot(Message::json("order.created", &7)?).await?;
//! # tokio::time::sleep(std::time::Duration::from_secs(1)).await;
//!
//! let handled = &sidecar.recorder().recent(1)[0];
//! assert_eq!((handled.kind, &*handled.name()), (SpanKind::Consumer, "process order.created"));
//! let text = sidecar.metrics().render_prometheus();
//! assert!(text.contains("gusset_broker_acked_total{group=\"stock\"} 1\n"));
//! # Ok::<(), gusset::broker::Error>(())
//! # }).unwrap();
//! # }
//! # #[cfg(not(feature = "broker"))] fn main() {}
//! ```

#[cfg(feature = "saga")]
mod attempts;
#[cfg(feature = "broker")]
mod messages;
#[cfg(any(feature = "breaker", feature = "ratelimit", feature = "saga"))]
mod numbers;

#[cfg(feature = "saga")]
pub use attempts::attempts;
#[cfg(feature = "broker")]
pub use messages::{numbers, spans};
#[cfg(feature = "breaker")]
pub use numbers::circuits;
#[cfg(feature = "saga")]
pub use numbers::sagas;
#[cfg(feature = "ratelimit")]
pub use numbers::{concurrency, limiter};
