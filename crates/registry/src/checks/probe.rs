use std::future::Future;

use bytes::Bytes;
use gusset_call::BoxError;
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, time::timeout};

use super::{Check, CheckError, How};

/// Longest answer of a gRPC health check that is looked at; a proper one has 7 bytes.
const LONGEST: usize = 1_024;

impl Check {
    /// Asks once whether what is at `host`:`port` works; elsewhere, if the check says [`Check::at`].
    ///
    /// # Errors
    ///
    /// [`CheckError`], after [`Check::timeout`] at the latest.
    ///
    /// # Cancellation
    ///
    /// Dropping it closes the connection.
    pub async fn probe(&self, host: &str, port: u16) -> Result<(), CheckError> {
        let (host, port) = self.at.as_ref().map_or((host, port), |(host, port)| (host, *port));
        timeout(self.timeout, self.attempt(host, port))
            .await
            .map_err(|_| CheckError::Timeout(self.timeout))?
    }

    async fn attempt(&self, host: &str, port: u16) -> Result<(), CheckError> {
        let connection = TcpStream::connect((host, port)).await.map_err(CheckError::Connect)?;
        let authority =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        match &self.how {
            How::Tcp => Ok(()),
            How::Http { path, method, headers } => {
                ask_http(connection, &authority, (path, method, headers)).await
            }
            How::Grpc { service } => ask_grpc(connection, &authority, service).await,
        }
    }
}

async fn ask_http(
    stream: TcpStream,
    authority: &str,
    (path, method, headers): (&str, &Method, &HeaderMap),
) -> Result<(), CheckError> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, "gusset-registry")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(broken)?;
    for name in headers.keys() {
        request.headers_mut().remove(name);
    }
    request.headers_mut().extend(headers.clone());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let answer = drive(connection, sender.send_request(request)).await?.map_err(broken)?;
    if answer.status().is_success() {
        Ok(())
    } else {
        Err(CheckError::Status(answer.status().as_u16()))
    }
}

async fn ask_grpc(stream: TcpStream, authority: &str, service: &str) -> Result<(), CheckError> {
    let request = Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "gusset-registry")
        .body(Full::new(message(service)))
        .map_err(broken)?;
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(broken)?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(broken)?;
        judge(answer).await
    };
    drive(connection, answer).await?
}

/// Polls the connection beside what goes over it, so that nothing has to be spawned.
async fn drive<T>(
    connection: impl Future<Output = Result<(), hyper::Error>>,
    answer: impl Future<Output = T>,
) -> Result<T, CheckError> {
    let mut answer = std::pin::pin!(answer);
    let mut connection = std::pin::pin!(connection);
    let mut closed = None;
    std::future::poll_fn(|cx| {
        use std::task::Poll;
        if closed.is_none() {
            if let Poll::Ready(end) = connection.as_mut().poll(cx) {
                closed = Some(end);
            }
        }
        // Looked at after the connection: what came with its end still counts.
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Poll::Ready(Ok(answer));
        }
        match &mut closed {
            Some(end) => {
                let end = std::mem::replace(end, Ok(()));
                let cause = end.err().map_or_else(|| "connection closed".into(), BoxError::from);
                Poll::Ready(Err(CheckError::Broken(cause)))
            }
            None => Poll::Pending,
        }
    })
    .await
}

async fn judge(answer: Response<Incoming>) -> Result<(), CheckError> {
    if answer.status() != http::StatusCode::OK {
        return Err(CheckError::Status(answer.status().as_u16()));
    }
    check_status(answer.headers())?;
    let body = Limited::new(answer.into_body(), LONGEST).collect().await;
    let body = body.map_err(CheckError::Broken)?;
    if let Some(trailers) = body.trailers() {
        check_status(trailers)?;
    }
    match serving_status(&body.to_bytes()) {
        Some(1) => Ok(()),
        Some(status) => Err(CheckError::NotServing(status)),
        None => Err(CheckError::Broken("no health answer".into())),
    }
}

fn check_status(headers: &HeaderMap) -> Result<(), CheckError> {
    match headers.get("grpc-status") {
        Some(status) if status != "0" => {
            Err(CheckError::GrpcStatus(String::from_utf8_lossy(status.as_bytes()).into_owned()))
        }
        _ => Ok(()),
    }
}

fn broken(error: impl Into<BoxError>) -> CheckError {
    CheckError::Broken(error.into())
}

/// A `HealthCheckRequest { string service = 1; }` with the five bytes in front that gRPC wants.
fn message(service: &str) -> Bytes {
    let mut message = Vec::with_capacity(service.len() + 8);
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
            length >>= 7;
        }
        message.push(u8::try_from(length).unwrap_or_default());
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut framed = vec![0];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.append(&mut message);
    framed.into()
}

/// The `status` of a `HealthCheckResponse { ServingStatus status = 1; }`; 0 is not sent, as for every field in protobuf.
fn serving_status(framed: &[u8]) -> Option<u64> {
    let (prefix, message) = framed.split_first_chunk::<5>()?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    if prefix[0] != 0 || usize::try_from(length).ok()? != message.len() {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, status @ 0..=0x7f] => Some(u64::from(*status)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_health_request_is_framed_as_grpc_wants_it() {
        assert_eq!(&message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&message("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = message(&"s".repeat(200));
        assert_eq!(long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 1]);
    }

    #[test]
    fn only_a_whole_health_answer_is_understood() {
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(serving_status(&[0, 0, 0, 0, 0]), Some(0));
        for wrong in [
            &[][..],
            &[0, 0, 0, 0],
            &[0, 0, 0, 0, 2, 8],
            &[1, 0, 0, 0, 2, 8, 1],
            &[0, 0, 0, 0, 2, 9, 1],
        ] {
            assert_eq!(serving_status(wrong), None, "{wrong:?}");
        }
    }
}
