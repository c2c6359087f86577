//! One connection to one endpoint.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_core::Stream;
use http::uri::PathAndQuery;
use prost::Message;
use tokio::{sync::watch, time::timeout};
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::rpc::{AuthenticateRequest, AuthenticateResponse, path};

/// More than a page of listings or a part of a watch's answer can have: etcd takes 1.5 MiB a request unless told otherwise.
const LARGEST_ANSWER: usize = 64 << 20;
/// Calls in a row without an answer that end a connection.
const OVERDUE: u32 = 2;

/// A connection over which a first call has been answered.
pub(super) struct Link {
    /// Rises with every connection of an engine.
    pub(super) generation: u64,
    pub(super) endpoint: Arc<str>,
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
    pub(super) call_within: Duration,
    /// Calls without an answer since the last one with.
    overdue: AtomicU32,
    /// Why it is of no more use.
    broken: watch::Sender<Option<Arc<str>>>,
}

impl Link {
    /// Connects, which is no proof that anybody answers.
    pub(super) async fn connect(
        generation: u64,
        address: Arc<str>,
        endpoint: &Endpoint,
    ) -> Result<Self, Status> {
        let channel = endpoint.connect().await.map_err(|error| Status::from_error(error.into()))?;
        Ok(Self {
            generation,
            endpoint: address,
            channel,
            token: None,
            // Until it is known to be of use, whoever connects sets the limit.
            call_within: Duration::from_secs(86_400),
            overdue: AtomicU32::new(0),
            broken: watch::Sender::new(None),
        })
    }

    /// One question, one answer, within the time that a call has.
    pub(super) async fn ask<Q, A>(&self, path: &'static str, question: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let codec = ProstCodec::<Q, A>::default();
        let answer = self.bounded(async {
            let mut client = self.client().await?;
            client.unary(self.request(question), PathAndQuery::from_static(path), codec).await
        });
        answer.await.map(tonic::Response::into_inner)
    }

    /// A stream in each direction. The time that a call has is that until the server has taken it up.
    pub(super) async fn stream<Q, A>(
        &self,
        path: &'static str,
        questions: impl Stream<Item = Q> + Send + 'static,
    ) -> Result<Streaming<A>, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let codec = ProstCodec::<Q, A>::default();
        let answer = self.bounded(async {
            let mut client = self.client().await?;
            let mut request = self.request(questions);
            // A member that has lost its leader ends the stream, instead of keeping it and saying nothing.
            request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
            client.streaming(request, PathAndQuery::from_static(path), codec).await
        });
        answer.await.map(tonic::Response::into_inner)
    }

    /// Gives `answer` the time that a call has, and notes what its failure says of the connection.
    pub(super) async fn bounded<T>(
        &self,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let late = || Err(Status::deadline_exceeded("no answer in time"));
        let answer = timeout(self.call_within, answer).await.unwrap_or_else(|_| late());
        match &answer {
            Ok(_) => self.overdue.store(0, Relaxed),
            Err(status) => self.judge(status),
        }
        answer
    }

    /// Notes what a failure says of the connection.
    pub(super) fn judge(&self, status: &Status) {
        let broken = match status.code() {
            Code::DeadlineExceeded => self.overdue.fetch_add(1, Relaxed) + 1 >= OVERDUE,
            Code::Unavailable
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled
            | Code::Unauthenticated => true,
            // Users or roles were changed since the token was given out.
            Code::InvalidArgument => status.message().contains("auth"),
            _ => false,
        };
        if broken {
            self.end(status.message());
        } else if status.code() != Code::DeadlineExceeded {
            self.overdue.store(0, Relaxed);
        }
    }

    /// It is of no more use; the connector makes another.
    pub(super) fn end(&self, cause: &str) {
        self.broken.send_if_modified(|broken| {
            let first = broken.is_none();
            if first {
                *broken = Some(cause.into());
            }
            first
        });
    }

    /// Why it is of no more use, as soon as it is.
    pub(super) async fn ended(&self) -> Arc<str> {
        let mut broken = self.broken.subscribe();
        let cause = broken.wait_for(Option::is_some).await;
        cause.ok().and_then(|cause| cause.clone()).unwrap_or_default()
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.borrow().is_some()
    }

    async fn client(&self) -> Result<Grpc<Channel>, Status> {
        let mut client = Grpc::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER);
        client.ready().await.map_err(|error| Status::from_error(error.into()))?;
        Ok(client)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    pub(super) async fn authenticate(&mut self, user: &str, password: &str) -> Result<(), Status> {
        let request = AuthenticateRequest { name: user.into(), password: password.into() };
        let answer: AuthenticateResponse = self.ask(path::AUTHENTICATE, request).await?;
        let mut token: MetadataValue<Ascii> =
            answer.token.parse().map_err(|_| Status::internal("the token is no header value"))?;
        token.set_sensitive(true);
        self.token = Some(token);
        Ok(())
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
