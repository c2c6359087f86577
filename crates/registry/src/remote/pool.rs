//! Connections: how many there are at a time, and those that wait for the next call.

use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use gusset_call::BoxError;
use http::{Request, response::Parts};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

use super::{RemotePolicy, address::Address};

/// More than 10,000 instances with much metadata have.
const LARGEST_ANSWER: usize = 64 << 20;
/// Servers close connections that say nothing for longer: ours after 120 s.
const IDLE: Duration = Duration::from_secs(60);

/// A bounded number of connections to one server.
#[derive(Debug)]
pub(super) struct Pool {
    places: Semaphore,
    /// Connections that ended while nobody wanted them to.
    breaks: AtomicU64,
    /// The one used last is the last.
    idle: Mutex<Vec<Connection>>,
}

/// A place for a connection, which is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pool: &'a Pool,
    _permit: SemaphorePermit<'a>,
}

/// What HTTP goes over.
pub(super) type Stream = Box<dyn Duplex>;

pub(super) trait Duplex: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Duplex for T {}

/// One HTTP/1.1 connection. Nothing is spawned for it: it is driven by whoever uses it.
#[derive(Debug)]
pub(super) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: Pin<Box<http1::Connection<TokioIo<Stream>, Full<Bytes>>>>,
    used: Instant,
}

impl Pool {
    pub(super) fn new(most: usize) -> Self {
        Self { places: Semaphore::new(most), breaks: AtomicU64::new(0), idle: Mutex::default() }
    }

    /// Waits for a place, first come, first served.
    pub(super) async fn place(&self) -> Result<Place<'_>, BoxError> {
        Ok(Place { pool: self, _permit: self.places.acquire().await? })
    }

    pub(super) fn breaks(&self) -> u64 {
        self.breaks.load(Relaxed)
    }

    pub(super) fn broke(&self) {
        self.breaks.fetch_add(1, Relaxed);
    }

    /// Closes those that wait. What one of them did not bring in time, the others will not bring either.
    pub(super) fn clear(&self) {
        let ended = std::mem::take(&mut *self.idle());
        drop(ended);
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// One that was used before and that the server has not closed, as far as can be seen.
    pub(super) async fn used(&self) -> Option<Connection> {
        loop {
            let mut connection = self.pool.idle().pop()?;
            if connection.used.elapsed() >= IDLE {
                continue;
            }
            if connection.ready().await.is_ok() {
                return Some(connection);
            }
            self.pool.broke();
        }
    }

    pub(super) fn broke(&self) {
        self.pool.broke();
    }

    /// Keeps it for the next call.
    pub(super) fn keep(&self, mut connection: Connection) {
        connection.used = Instant::now();
        let mut idle = self.pool.idle();
        // Those at the bottom have not been needed for long.
        let old = idle.iter().take_while(|old| old.used.elapsed() >= IDLE).count();
        let ended: Vec<_> = idle.drain(..old).collect();
        idle.push(connection);
        drop(idle);
        drop(ended);
    }
}

impl Connection {
    pub(super) async fn open(address: &Address, policy: &RemotePolicy) -> Result<Self, io::Error> {
        let stream = TcpStream::connect((&*address.host, address.port)).await?;
        // Requests are written as a whole.
        stream.set_nodelay(true)?;
        let stream = policy.secured(&address.host, stream).await?;
        let (sender, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        Ok(Self { sender, driver: Box::pin(driver), used: Instant::now() })
    }

    async fn ready(&mut self) -> Result<(), BoxError> {
        drive(&mut self.driver, self.sender.ready()).await
    }

    /// One request, one answer. After an error the connection is of no more use.
    ///
    /// # Cancellation
    ///
    /// Dropping it midway leaves a connection of no more use; its owner drops it as well.
    pub(super) async fn ask(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<(Parts, Bytes), BoxError> {
        let sender = &mut self.sender;
        let answer = async {
            let (head, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, LARGEST_ANSWER).collect().await?;
            Ok::<_, BoxError>((head, body.to_bytes()))
        };
        drive(&mut self.driver, answer).await
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// Polls the connection beside what goes over it.
async fn drive<T, E: Into<BoxError>>(
    driver: &mut Pin<Box<http1::Connection<TokioIo<Stream>, Full<Bytes>>>>,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, BoxError> {
    let mut answer = pin!(answer);
    let mut end = None;
    poll_fn(|cx| {
        if end.is_none() {
            end = match driver.as_mut().poll(cx) {
                Poll::Ready(ended) => Some(ended),
                Poll::Pending => None,
            };
        }
        // Looked at after the connection: what came with its end still counts.
        match answer.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(answer.map_err(Into::into)),
            Poll::Pending => match end.take() {
                Some(Err(error)) => Poll::Ready(Err(error.into())),
                Some(Ok(())) => Poll::Ready(Err("the connection was closed".into())),
                None => Poll::Pending,
            },
        }
    })
    .await
}
