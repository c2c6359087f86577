//! Asks another process by HTTP/1.1, a connection for each question.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

/// Longest answer: 10,000 traces are a tenth of it.
const ANSWER: usize = 32 << 20;
/// For orders, which may take longer than looks, for which the console has a bound of its own.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where it is, and what it is shown.
pub(super) struct Client {
    authority: String,
    /// Without a slash at its end.
    prefix: String,
    token: Option<String>,
}

/// It is no `http://HOST[:PORT][/PATH]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidUrl(String);

impl fmt::Display for InvalidUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is no http://HOST[:PORT][/PATH]", self.0)
    }
}

impl std::error::Error for InvalidUrl {}

impl Client {
    pub(super) fn new(url: &str, token: Option<&str>) -> Result<Self, InvalidUrl> {
        let wrong = || InvalidUrl(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
        let (Some("http"), Some(authority)) = (uri.scheme_str(), authority) else {
            return Err(wrong());
        };
        Ok(Self {
            authority: authority.to_string(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            token: token.map(str::to_owned),
        })
    }

    /// What stands at the path; `None` if nothing does.
    pub(super) async fn get(&self, path: &str) -> Result<Option<Value>, String> {
        let (status, body) = self.ask(Method::GET, path, Bytes::new()).await?;
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => {
                let value = serde_json::from_slice(&body);
                value.map(Some).map_err(|error| format!("its answer is no JSON: {error}"))
            }
            status => Err(why(status, &body)),
        }
    }

    pub(super) async fn post(&self, path: &str, order: &Value) -> Result<Value, String> {
        let (status, body) = self.ask(Method::POST, path, order.to_string().into()).await?;
        if !status.is_success() {
            return Err(why(status, &body));
        }
        Ok(serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), String> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}/{path}", self.prefix))
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        let asked = timeout(PATIENCE, self.send(request)).await;
        asked.unwrap_or_else(|_| Err("no answer within a minute".to_owned()))
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), String> {
        let text = |error: hyper::Error| error.to_string();
        let has_port =
            self.authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let stream = match has_port {
            true => TcpStream::connect(&self.authority).await,
            false => TcpStream::connect(format!("{}:80", self.authority)).await,
        };
        let stream = stream.map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
        let answered = async {
            let (head, body) = sender.send_request(request).await.map_err(text)?.into_parts();
            let body = Limited::new(body, ANSWER).collect().await;
            Ok((head.status, body.map_err(|error| error.to_string())?.to_bytes()))
        };
        // Whoever leaves leaves the connection as well.
        tokio::pin!(connection);
        tokio::pin!(answered);
        tokio::select! {
            answered = &mut answered => answered,
            // It is over for the other as well, but may have said all before.
            _ = &mut connection => answered.await,
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The token is a secret.
        f.debug_struct("Client").field("authority", &self.authority).finish_non_exhaustive()
    }
}

fn why(status: StatusCode, body: &[u8]) -> String {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    match problem["detail"].as_str() {
        Some(detail) => format!("{detail} ({})", status.as_u16()),
        None => format!("it answers {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_has_a_client_and_credentials_have_no_place_in_a_url() {
        for wrong in ["https://h", "h:1", "http://user@h", "ftp://h", ""] {
            assert!(Client::new(wrong, None).is_err(), "{wrong}");
        }
        let client = Client::new("http://h:1/console/", None).unwrap();
        assert_eq!((&*client.authority, &*client.prefix), ("h:1", "/console"));
    }
}
