use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

/// What is wrong with connections. A connection that has lost something loses all that follows in that direction, as a broken network does it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// What clients send is swallowed: the connection stays, and nothing arrives.
    pub deaf: bool,
    /// What the server sends is swallowed.
    pub mute: bool,
    /// As soon as a client sends this, all that these faults are for are deaf.
    pub deaf_from: Option<&'static [u8]>,
    /// What the server sends comes this much later, one piece after the other.
    pub delay: Duration,
}

/// Stands between clients and a server on 127.0.0.1, and carries what they say, but for [`Faults`]. All connections end with it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    server: u16,
    /// Those of the connections that are there and of those to come.
    faults: Mutex<Arc<Mutex<Faults>>>,
    is_cut: AtomicBool,
    is_over: AtomicBool,
    /// Both ends of each connection.
    ends: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Before the server at that port.
    ///
    /// # Panics
    /// If there is no free port.
    #[must_use]
    pub fn before(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (is_cut, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
        let (faults, ends) = (Mutex::default(), Mutex::default());
        let state = Arc::new(State { server, faults, is_cut, is_over, ends });
        let shared = state.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.is_over.load(SeqCst) {
                    return;
                }
                if !shared.is_cut.load(SeqCst) {
                    shared.connect(client);
                }
            }
        });
        Self { address, state }
    }

    /// Where it listens, on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.address.port()
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// As clients take it that want to know what is spoken there.
    #[must_use]
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    /// From now on, for the connections that are there and for all later ones.
    pub fn set(&self, faults: Faults) {
        *lock(&lock(&self.state.faults)) = faults;
    }

    /// From now on, for the connections that are there; nothing is wrong with later ones.
    pub fn set_present(&self, faults: Faults) {
        let mut all = lock(&self.state.faults);
        *lock(&all) = faults;
        *all = Arc::default();
    }

    /// Whether what clients send is swallowed, perhaps since one of them sent what was waited for.
    #[must_use]
    pub fn is_deaf(&self) -> bool {
        lock(&lock(&self.state.faults)).deaf
    }

    /// All connections end, and new ones end at once.
    pub fn cut(&self) {
        self.state.is_cut.store(true, SeqCst);
        for end in lock(&self.state.ends).drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Nothing is wrong with connections to come.
    pub fn mend(&self) {
        self.set(Faults::default());
        self.state.is_cut.store(false, SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.is_over.store(true, SeqCst);
        self.cut();
        // Wakes who waits for a connection.
        let _ = TcpStream::connect(self.address);
    }
}

impl State {
    fn connect(&self, client: TcpStream) {
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.server)) else { return };
        let faults = lock(&self.faults).clone();
        let both = [&client, &server].map(|end| {
            end.set_nodelay(true).ok();
            end.try_clone().unwrap()
        });
        // Under the lock, or one that comes while all are cut would stay.
        let mut ends = lock(&self.ends);
        if self.is_cut.load(SeqCst) {
            return;
        }
        let (to_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        ends.extend(both);
        drop(ends);
        let of_client = faults.clone();
        thread::spawn(move || carry(&client, &to_server, &of_client, true));
        thread::spawn(move || carry(&server, &to_client, &faults, false));
    }
}

fn carry(mut from: &TcpStream, mut to: &TcpStream, faults: &Mutex<Faults>, is_client: bool) {
    let (mut bytes, mut is_lost) = (vec![0; 64 << 10], false);
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        let read = &bytes[..read];
        let now = {
            let mut faults = lock(faults);
            if let (true, Some(word)) = (is_client, faults.deaf_from) {
                faults.deaf |= read.windows(word.len()).any(|part| part == word);
            }
            *faults
        };
        is_lost |= if is_client { now.deaf } else { now.mute };
        if !is_client {
            wait(now.delay);
        }
        if !is_lost && to.write_all(read).is_err() {
            let _ = from.shutdown(Shutdown::Both);
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

fn wait(span: Duration) {
    let begin = Instant::now();
    while let Some(left) = span.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) {
        thread::park_timeout(left);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
