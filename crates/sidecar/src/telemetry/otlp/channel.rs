//! One connection to a collector, made when it is needed.

use std::{fmt, io};

use bytes::Bytes;
use gusset_call::BoxError;
use http::{Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

#[cfg(feature = "otlp-tls")]
use super::tls::OtlpTls;
use super::{
    answer::{self, Answer},
    settings::{Protocol, Settings},
};

/// Most bytes of an answer that are read. One that takes everything is empty.
const LARGEST_ANSWER: usize = 64 << 10;

pub(super) struct Channel {
    settings: Settings,
    #[cfg(feature = "otlp-tls")]
    tls: Option<OtlpTls>,
    connection: Option<Connection>,
}

/// The handle; what drives the connection is a task of the exporter's runtime, and ends with the handle.
enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    #[cfg(feature = "otlp-grpc")]
    Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Why there is no response.
enum Failure {
    /// The connection was over before anything was sent on it.
    Unsent(Box<Request<Full<Bytes>>>),
    /// It broke while the request was under way.
    Broken(BoxError),
}

impl Channel {
    pub(super) const fn new(
        settings: Settings,
        #[cfg(feature = "otlp-tls")] tls: Option<OtlpTls>,
    ) -> Self {
        Self {
            settings,
            #[cfg(feature = "otlp-tls")]
            tls,
            connection: None,
        }
    }

    pub(super) const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Sends a batch and reads the answer, for as long as the settings allow.
    pub(super) async fn send(&mut self, batch: Bytes) -> Answer {
        match timeout(self.settings.timeout, self.exchange(batch)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                self.connection = None;
                Answer::away(error)
            }
            Err(_) => {
                // What comes later would be taken for the answer to another request.
                self.connection = None;
                Answer::away(format_args!("no answer within {:?}", self.settings.timeout))
            }
        }
    }

    async fn exchange(&mut self, batch: Bytes) -> Result<Answer, BoxError> {
        let used = self.connection.is_some();
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let response = match connection.send(self.request(batch.clone())).await {
            Ok(response) => response,
            // One that lay idle may have been closed at the very moment. A batch that arrives twice is what the protocol allows.
            Err(failure) if used => {
                let request = match failure {
                    Failure::Unsent(request) => *request,
                    Failure::Broken(_) => self.request(batch),
                };
                connection = self.connect().await?;
                connection.send(request).await.map_err(Failure::into_error)?
            }
            Err(failure) => return Err(failure.into_error()),
        };
        let answer = self.read(response).await?;
        self.connection = Some(connection);
        Ok(answer)
    }

    fn request(&self, batch: Bytes) -> Request<Full<Bytes>> {
        let Settings { uri, headers, .. } = &self.settings;
        let mut request = Request::new(Full::default());
        *request.method_mut() = Method::POST;
        let (own, body) = match self.settings.protocol {
            Protocol::Http => {
                *request.uri_mut() =
                    uri.path_and_query().cloned().map_or_else(Uri::default, Uri::from);
                (vec![(header::CONTENT_TYPE, "application/x-protobuf".to_owned())], batch)
            }
            #[cfg(feature = "otlp-grpc")]
            Protocol::Grpc => {
                *request.uri_mut() = uri.clone();
                let millis = self.settings.timeout.as_millis();
                let own = vec![
                    (header::CONTENT_TYPE, "application/grpc".to_owned()),
                    (header::TE, "trailers".to_owned()),
                    (http::HeaderName::from_static("grpc-timeout"), format!("{millis}m")),
                ];
                (own, framed(&batch))
            }
        };
        *request.body_mut() = Full::new(body);
        let to = request.headers_mut();
        to.extend(headers.clone());
        if let (Protocol::Http, Some(authority)) = (self.settings.protocol, uri.authority()) {
            to.extend(authority.as_str().parse().map(|host| (header::HOST, host)));
        }
        let agent = concat!("gusset-otlp/", env!("CARGO_PKG_VERSION"));
        to.insert(header::USER_AGENT, http::HeaderValue::from_static(agent));
        to.extend(own.into_iter().filter_map(|(name, value)| Some((name, value.parse().ok()?))));
        request
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Answer, BoxError> {
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, LARGEST_ANSWER).collect().await?;
        #[cfg(feature = "otlp-grpc")]
        if self.settings.protocol == Protocol::Grpc {
            let trailers = body.trailers().cloned();
            let body = body.to_bytes();
            return Ok(answer::over_grpc(parts.status, &parts.headers, trailers.as_ref(), &body));
        }
        Ok(answer::over_http(parts.status, &parts.headers, &body.to_bytes()))
    }

    async fn connect(&self) -> Result<Connection, BoxError> {
        let Settings { host, port, .. } = &self.settings;
        let stream = TcpStream::connect((&**host, *port)).await?;
        stream.set_nodelay(true)?;
        let stream = TokioIo::new(self.secured(stream).await?);
        match self.settings.protocol {
            Protocol::Http => {
                let (handle, driver) = http1::handshake(stream).await?;
                tokio::spawn(driver);
                Ok(Connection::Http1(handle))
            }
            #[cfg(feature = "otlp-grpc")]
            Protocol::Grpc => {
                let executor = hyper_util::rt::TokioExecutor::new();
                let (handle, driver) =
                    hyper::client::conn::http2::handshake(executor, stream).await?;
                tokio::spawn(driver);
                Ok(Connection::Http2(handle))
            }
        }
    }

    async fn secured(&self, stream: TcpStream) -> io::Result<Box<dyn Duplex>> {
        #[cfg(feature = "otlp-tls")]
        if let (true, Some(tls)) = (self.settings.tls, &self.tls) {
            let grpc = self.settings.protocol != Protocol::Http;
            return Ok(Box::new(tls.connect(&self.settings.host, grpc, stream).await?));
        }
        if self.settings.tls {
            return Err(io::Error::other("no authority for TLS"));
        }
        Ok(Box::new(stream))
    }
}

impl Connection {
    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        let of = |error: TrySendError<Request<Full<Bytes>>>| {
            let mut error = error;
            match error.take_message() {
                Some(request) => Failure::Unsent(request.into()),
                None => Failure::Broken(error.into_error().into()),
            }
        };
        match self {
            Self::Http1(handle) => match handle.ready().await {
                Ok(()) => handle.try_send_request(request).await.map_err(of),
                Err(_) => Err(Failure::Unsent(request.into())),
            },
            #[cfg(feature = "otlp-grpc")]
            Self::Http2(handle) => match handle.ready().await {
                Ok(()) => handle.try_send_request(request).await.map_err(of),
                Err(_) => Err(Failure::Unsent(request.into())),
            },
        }
    }
}

impl Failure {
    fn into_error(self) -> BoxError {
        match self {
            Self::Unsent(_) => "the connection closed at once".into(),
            Self::Broken(error) => error,
        }
    }
}

/// A message with the five bytes that gRPC wants before it.
#[cfg(feature = "otlp-grpc")]
fn framed(batch: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(batch.len() + 5);
    frame.push(0);
    // Batches are bounded at a thousandth of what would not fit.
    frame.extend_from_slice(&u32::try_from(batch.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(batch);
    frame.into()
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("settings", &self.settings).finish_non_exhaustive()
    }
}
