//! What a service says when it cannot: problem details (RFC 9457), from refusals and from handlers.
//!
//! ```
//! use gusset::{call::BoxError, problem::Problem};
//! use http::StatusCode;
//!
//! /// Calls another service. Refusals of our layers become what they are: 503 of an open circuit, 504 of a deadline,
//! /// each with `Retry-After` where it is known. Everything else becomes a 500 that tells nothing of the inside.
//! async fn offer(id: u32) -> Result<String, Problem> {
//!     if id == 0 {
//!         return Err(Problem::new(StatusCode::NOT_FOUND).detail("there is no offer 0"));
//!     }
//!     let answer = ask_another_service(id).await?;
//!     Ok(answer)
//! }
//! # async fn ask_another_service(_: u32) -> Result<String, BoxError> { Err(gusset::call::Open::new("stock").into()) }
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! assert_eq!(offer(0).await.unwrap_err().status(), StatusCode::NOT_FOUND);
//! assert_eq!(offer(1).await.unwrap_err().status(), StatusCode::SERVICE_UNAVAILABLE);
//! # });
//! ```
//!
//! What layers refuse outside of a handler is answered by [`AnswerLayer`], which `Sidecar::inbound` has within it.

pub use gusset_call::{AnswerLayer, Problem};
