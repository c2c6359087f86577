//! One GET, without redirects, of a bounded answer.

use std::pin::pin;

use bytes::Bytes;
use gusset_call::BoxError;
use http::{Request, Uri, header, uri::Scheme};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::jwks::{JwksError, LARGEST};

/// Where to ask, checked.
#[derive(Clone)]
pub(super) struct Place {
    uri: Uri,
    host: String,
    port: u16,
    #[cfg(feature = "tls")]
    tls: Option<super::fetch_tls::Tls>,
}

impl Place {
    /// `authorities` are certificates in PEM, which `https` needs.
    pub(super) fn new(url: &str, authorities: Option<&[u8]>) -> Result<Self, JwksError> {
        let uri: Uri = url.parse().map_err(|_| JwksError::Url)?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
        let host = authority.ok_or(JwksError::Url)?.host().to_owned();
        let secure = uri.scheme() == Some(&Scheme::HTTPS);
        let known = secure || uri.scheme() == Some(&Scheme::HTTP);
        if !known || secure != authorities.is_some() {
            return Err(JwksError::Url);
        }
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        #[cfg(feature = "tls")]
        let tls = match secure {
            true => Some(super::fetch_tls::Tls::new(&host, authorities.ok_or(JwksError::Url)?)?),
            false => None,
        };
        Ok(Self {
            uri,
            host,
            port,
            #[cfg(feature = "tls")]
            tls,
        })
    }

    /// The body of an answer of 200. Whoever calls limits the time.
    pub(super) async fn get(&self) -> Result<Bytes, BoxError> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, self.port)).await?;
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return self.ask(tls.connect(stream).await?).await;
        }
        self.ask(stream).await
    }

    async fn ask<S>(&self, stream: S) -> Result<Bytes, BoxError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let target = self.uri.path_and_query().map_or("/", |target| target.as_str());
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        let request = Request::get(target)
            .header(header::HOST, authority)
            .header(header::ACCEPT, "application/jwk-set+json, application/json")
            .header(header::USER_AGENT, "gusset-gateway")
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut connection = pin!(connection);
        let mut exchange = pin!(async move {
            let answer = sender.send_request(request).await?;
            if answer.status() != http::StatusCode::OK {
                return Err(format!("the answer has status {}", answer.status().as_u16()).into());
            }
            Ok::<_, BoxError>(Limited::new(answer.into_body(), LARGEST).collect().await?.to_bytes())
        });
        tokio::select! {
            result = exchange.as_mut() => result,
            // What came before its end is still to be read.
            _ended = connection.as_mut() => exchange.await,
        }
    }
}
