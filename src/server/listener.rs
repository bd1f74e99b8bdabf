//! A listening socket and the loop that serves its connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use prometheus::IntGauge;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::{Drain, ServerSettings, Tls, connection, door};

/// Connections that the kernel holds for us before they are accepted. It may cut this down to its own bound.
const BACKLOG: u32 = 1024;

/// After a failed accept, as when no file descriptor is left: some time for one to become free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The system, or this process, has no file descriptor left; the numbers of Linux, macOS and the BSDs.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another program has it.
    #[error(
        "port {} is already in use on {}: stop the program that listens there (`ss -ltnp 'sport = :{}'` names it) \
         or choose another port with {option}", .address.port(), .address.ip(), .address.port()
    )]
    InUse {
        /// Where it was to listen.
        address: SocketAddr,
        /// The flag or setting that chooses the port.
        option: &'static str,
    },
    /// Ports below 1024 are reserved on most systems.
    #[error(
        "not allowed to listen on {address}: ports below 1024 need a privilege (CAP_NET_BIND_SERVICE); choose a port \
         from 1024 up with {option}"
    )]
    NotAllowed {
        /// Where it was to listen.
        address: SocketAddr,
        /// The flag or setting that chooses the port.
        option: &'static str,
    },
    /// The address is not this machine's.
    #[error("cannot listen on {}: this machine has no such address; 0.0.0.0 means all of its addresses", .address.ip())]
    NoSuchAddress {
        /// Where it was to listen.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Other {
        /// Where it was to listen.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

impl BindError {
    fn new(address: SocketAddr, option: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { address, option },
            io::ErrorKind::PermissionDenied => Self::NotAllowed { address, option },
            io::ErrorKind::AddrNotAvailable => Self::NoSuchAddress { address },
            _ => Self::Other { address, source },
        }
    }
}

/// How a listener ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// Connections that were cut because the drain's timeout had passed.
    pub cut: usize,
}

/// A port that is open but not yet served: connections wait in its backlog.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    settings: Arc<ServerSettings>,
    tls: Option<Tls>,
}

impl Server {
    /// Opens `address`; port 0 takes a free one. `option` is what the user would change to choose another port, for
    /// the error's text.
    ///
    /// # Errors
    /// [`BindError`], which names the address and says what to do.
    pub fn bind(address: SocketAddr, option: &'static str, settings: ServerSettings) -> Result<Self, BindError> {
        let listen = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // Otherwise a restart would have to wait until the last connections have left TIME_WAIT.
            #[cfg(unix)]
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let listener = socket.listen(BACKLOG)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = listen().map_err(|error| BindError::new(address, option, error))?;
        Ok(Self { listener, address, settings: Arc::new(settings), tls: None })
    }

    /// Speaks TLS, and nothing else.
    pub fn with_tls(self, tls: Tls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves `router` until `drain` is over; the module's documentation says in which steps. Handlers find the
    /// client's address as `ConnectInfo<SocketAddr>`. `open` follows the number of open connections.
    pub async fn serve(self, router: Router, drain: Drain, open: IntGauge) -> Served {
        let Self { listener, address, settings, tls } = self;
        let limit = settings.max_connections.max(1);
        let crowded = watch::Sender::new(false);
        let acceptor = tls.as_ref().map(Tls::acceptor);
        let mut connections =
            Connections { tasks: JoinSet::new(), acceptor, router, drain: drain.clone(), settings, open, crowded };
        let mut closing = std::pin::pin!(drain.closing());
        let mut complained: Option<Instant> = None;
        let mut complain = |text: &str| {
            if complained.is_none_or(|last| last.elapsed() > Duration::from_secs(10)) {
                tracing::warn!("{text}");
                complained = Some(Instant::now());
            }
        };
        // Whether the last accept failed for want of file descriptors. Then idle connections give theirs up, too.
        let mut exhausted = false;
        loop {
            let full = connections.tasks.len() >= limit;
            let crowd = full || exhausted;
            connections.crowded.send_if_modified(|crowded| std::mem::replace(crowded, crowd) != crowd);
            if full {
                complain(&format!("{address} has {limit} connections, its limit: further ones wait"));
            }
            tokio::select! {
                () = &mut closing => break,
                _ = connections.tasks.join_next(), if !connections.tasks.is_empty() => connections.count(),
                accepted = listener.accept(), if !full => match accepted {
                    Ok((stream, peer)) => {
                        exhausted = false;
                        connections.start(stream, peer);
                    }
                    Err(error) if door::is_of_one_connection(&error) => {}
                    Err(error) => {
                        exhausted = matches!(error.raw_os_error(), Some(ENFILE | EMFILE));
                        let remedy = if exhausted { "; raise `ulimit -n`, or lower server.max_connections" } else { "" };
                        complain(&format!("cannot accept connections on {address}: {error}{remedy}"));
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        for (stream, peer) in door::close(listener).await {
            connections.start(stream, peer);
        }
        connections.finish(address).await
    }
}

/// The open connections of one listener.
struct Connections {
    tasks: JoinSet<()>,
    acceptor: Option<TlsAcceptor>,
    router: Router,
    drain: Drain,
    settings: Arc<ServerSettings>,
    open: IntGauge,
    crowded: watch::Sender<bool>,
}

impl Connections {
    fn start(&mut self, stream: TcpStream, peer: SocketAddr) {
        let (router, drain, settings) = (self.router.clone(), self.drain.clone(), self.settings.clone());
        let acceptor = self.acceptor.clone();
        self.tasks.spawn(connection::serve(stream, peer, acceptor, router, drain, settings, self.crowded.subscribe()));
        self.count();
    }

    fn count(&self) {
        self.open.set(i64::try_from(self.tasks.len()).unwrap_or(i64::MAX));
    }

    /// Waits for what was accepted, for as long as the drain allows.
    async fn finish(mut self, address: SocketAddr) -> Served {
        let deadline = tokio::time::sleep(self.drain.settings().timeout);
        let mut deadline = std::pin::pin!(deadline);
        loop {
            tokio::select! {
                biased;
                ended = self.tasks.join_next() => {
                    self.count();
                    if ended.is_none() {
                        tracing::info!("{address} is closed, everything accepted was answered");
                        return Served { cut: 0 };
                    }
                }
                () = &mut deadline => {
                    let cut = self.tasks.len();
                    let timeout = self.drain.settings().timeout;
                    tracing::warn!("{address} is closed; {cut} connections were cut after {timeout:?}");
                    self.tasks.shutdown().await;
                    self.open.set(0);
                    return Served { cut };
                }
            }
        }
    }
}
