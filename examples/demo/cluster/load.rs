//! What the cluster is there for: an HTTP server in each node, and a client that asks for it all
//! the time.
//!
//! All of it is one thread: the guest has one CPU, and what is left of it is keepalived's. It goes
//! before all others: a client and busy servers have CPUs of their own, and would not wait while a
//! notification is carried out elsewhere.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use lvs_dr::Netns;
use rustix::process::setpriority_process;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{self, Handle};
use tokio::task::{self, JoinSet};
use tokio::time::{interval, sleep, timeout};

use super::addresses::{family, vip};
use super::record::{Request, Session};
use super::{Cluster, Node};

/// A request that is not answered by then has failed.
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_secs(2);
/// New connections, each with a request.
pub(crate) const REQUEST_EVERY: Duration = Duration::from_millis(20);
const PORT: u16 = 80;
/// The first port of the client, and the first that it leaves to the kernel.
pub(crate) const PORTS: Range<u16> = 1024..60_000;
/// The thread's nice value.
pub(crate) const PRIORITY: i32 = -20;

/// The servers and the client, at work. All times are from `start` on.
pub(crate) struct Load {
    client: Client,
    servers: Vec<task::JoinHandle<()>>,
    served: Arc<[AtomicUsize]>,
    paused: Arc<AtomicBool>,
    runtime: Handle,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

/// What each of the client's tasks has to know.
#[derive(Clone)]
struct Client {
    names: Arc<[String]>,
    start: Instant,
    /// The port of the next connection.
    port: Arc<AtomicU16>,
}

/// Sessions of one kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) count: usize,
    /// From an answer to the next request; `None`: the session is silent until it is asked.
    pub(crate) every: Option<Duration>,
    /// Not all are opened at the same moment, but evenly over this time.
    pub(crate) over: Duration,
}

impl Load {
    /// Starts the servers, and a client that sends a request every 20 ms whether or not earlier
    /// ones were answered.
    pub(crate) fn start(cluster: &Cluster, start: Instant) -> Result<Self> {
        let servers: Vec<&Node> = cluster.all_servers().collect();
        Self::start_with(cluster, &cluster.client, &servers, start, false)
    }

    /// Starts the servers, and a client that sends no requests on new connections before
    /// `pause(false)`.
    pub(crate) fn start_paused(cluster: &Cluster, start: Instant) -> Result<Self> {
        let servers: Vec<&Node> = cluster.all_servers().collect();
        Self::start_with(cluster, &cluster.client, &servers, start, true)
    }

    /// Starts another client.
    pub(crate) fn start_client(cluster: &Cluster, netns: &Netns, start: Instant) -> Result<Self> {
        Self::start_with(cluster, netns, &[], start, false)
    }

    fn start_with(cluster: &Cluster, netns: &Netns, servers: &[&Node], start: Instant, paused: bool) -> Result<Self> {
        let names = cluster.all_servers().map(|node| node.name.clone()).collect();
        let client = Client { names, start, port: Arc::new(PORTS.start.into()) };
        let listeners = servers.iter().copied().map(listen).collect::<Result<Vec<_>>>()?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
        let load = runtime.handle().clone();
        let served: Arc<[AtomicUsize]> = servers.iter().map(|_| AtomicUsize::new(0)).collect();
        let servers = listeners.into_iter().zip(client.names.iter()).enumerate();
        let servers = servers.map(|(i, (listener, name))| load.spawn(serve(listener, name.clone(), served.clone(), i)));
        let servers = servers.collect();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let [stop, paused] = [false, paused].map(|on| Arc::new(AtomicBool::new(on)));

        let work = {
            let (client, requests, stop, paused) = (client.clone(), requests.clone(), stop.clone(), paused.clone());
            async move { client.send_requests(requests, &stop, &paused).await }
        };
        // A socket belongs to the namespace of the thread that makes it: here, the client's.
        let netns = netns.clone();
        let work = move || {
            setpriority_process(None, PRIORITY).context("cannot set the client's priority")?;
            runtime.block_on(work);
            Ok(())
        };
        let thread = thread::spawn(move || netns.run(work)?);
        Ok(Load { client, servers, served, paused, runtime: load, requests, stop, thread })
    }

    /// Starts a node's server anew, in the namespace that the node has now. All that the old one
    /// has is lost.
    pub(crate) fn serve_again(&mut self, index: usize, node: &Node) -> Result<()> {
        let listener = listen(node)?;
        let server = self.runtime.spawn(serve(listener, node.name.clone(), self.served.clone(), index));
        std::mem::replace(&mut self.servers[index], server).abort();
        Ok(())
    }

    /// Stops sending requests on new connections, or goes on.
    pub(crate) fn pause(&self, pause: bool) {
        self.paused.store(pause, Ordering::Relaxed);
    }

    /// Returns the counters of [`Load::served`], which outlive the load.
    pub(crate) fn counters(&self) -> Arc<[AtomicUsize]> {
        self.served.clone()
    }

    /// Returns how many connections with at least one request each server has seen.
    pub(crate) fn served(&self) -> Vec<usize> {
        self.served.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// The requests so far that are over.
    pub(crate) fn requests(&self) -> Vec<Request> {
        lock(&self.requests).clone()
    }

    /// How many requests were answered so far, and how many failed.
    pub(crate) fn count(&self) -> (usize, usize) {
        let requests = lock(&self.requests);
        let failed = requests.iter().filter(|r| r.served.is_err()).count();
        (requests.len() - failed, failed)
    }

    /// Begins to open sessions, and keeps requests going on them.
    pub(crate) fn open_sessions(&self, group: Group) -> Sessions {
        let sessions = Arc::new(Mutex::new(Vec::new()));
        let silent = Arc::new(Mutex::new(Vec::new()));
        let open = |i| {
            let phase = group.over * i as u32 / group.count as u32;
            let (client, sessions, silent) = (self.client.clone(), sessions.clone(), silent.clone());
            self.runtime.spawn(async move {
                sleep(phase).await;
                let held = client.open_session(group.every, &sessions).await?;
                match group.every {
                    Some(every) => held.keep_asking(every, &sessions).await,
                    None => lock(&silent).push(held),
                }
                Ok(())
            })
        };
        let tasks = (0..group.count).map(open).collect();
        Sessions { group, runtime: self.runtime.clone(), tasks, sessions, silent }
    }

    /// Ends the requests, and returns what became of each.
    pub(crate) fn stop(self) -> Result<Vec<Request>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the client panicked"))??;
        let mut requests = std::mem::take(&mut *lock(&self.requests));
        requests.sort_by_key(|r| r.sent);
        Ok(requests)
    }
}

/// Sessions that the client keeps open.
pub(crate) struct Sessions {
    pub(crate) group: Group,
    runtime: Handle,
    tasks: Vec<task::JoinHandle<io::Result<()>>>,
    sessions: Arc<Mutex<Vec<Session>>>,
    silent: Arc<Mutex<Vec<Held>>>,
}

impl Sessions {
    /// How many are open (or were).
    pub(crate) fn opened(&self) -> usize {
        lock(&self.sessions).len()
    }

    /// Begins to ask each of the silent ones, once, over this time.
    pub(crate) fn ask(&mut self, over: Duration) {
        let silent = std::mem::take(&mut *lock(&self.silent));
        let count = silent.len().max(1) as u32;
        for (i, mut held) in silent.into_iter().enumerate() {
            let (sessions, silent) = (self.sessions.clone(), self.silent.clone());
            self.tasks.push(self.runtime.spawn(async move {
                sleep(over * i as u32 / count).await;
                if held.ask(&sessions).await {
                    lock(&silent).push(held);
                }
                Ok(())
            }));
        }
    }

    /// What became of each so far.
    pub(crate) fn so_far(&self) -> Vec<Session> {
        lock(&self.sessions).clone()
    }

    /// Closes them all, and returns what became of each that could be opened.
    pub(crate) fn close(self) -> Vec<Session> {
        self.tasks.iter().for_each(task::JoinHandle::abort);
        std::mem::take(&mut *lock(&self.sessions))
    }
}

fn listen(node: &Node) -> Result<std::net::TcpListener> {
    let listen = || {
        let listener = std::net::TcpListener::bind((family().any(), PORT))?;
        listener.set_nonblocking(true)?;
        io::Result::Ok(listener)
    };
    node.netns.run(listen)?.with_context(|| format!("cannot serve on {}", node.name))
}

/// A node's web server: answers with the node's name and the number of the request on its
/// connection. Its connections end with it.
async fn serve(listener: std::net::TcpListener, name: String, served: Arc<[AtomicUsize]>, index: usize) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // A connection that breaks is the client's to count.
        let (name, served) = (name.clone(), served.clone());
        connections.spawn(async move { attend(stream, name, &served[index]).await });
        while connections.try_join_next().is_some() {}
    }
}

async fn attend(mut stream: TcpStream, name: String, served: &AtomicUsize) -> io::Result<()> {
    for count in 1.. {
        let request = receive(&mut stream, |text| text.ends_with("\r\n\r\n")).await?;
        if count == 1 {
            served.fetch_add(1, Ordering::Relaxed);
        }
        let body = body(&name, count);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).await?;
        if request.contains("Connection: close") {
            break;
        }
    }
    Ok(())
}

// Ends in a bare line feed, which no line of the head does.
fn body(name: &str, count: u64) -> String {
    format!("{name} {count}\n")
}

impl Client {
    async fn send_requests(self, requests: Arc<Mutex<Vec<Request>>>, stop: &AtomicBool, paused: &AtomicBool) {
        let mut due = interval(REQUEST_EVERY);
        let mut sent = JoinSet::new();
        while !stop.load(Ordering::Relaxed) {
            due.tick().await;
            if paused.load(Ordering::Relaxed) {
                continue;
            }
            let (client, requests) = (self.clone(), requests.clone());
            sent.spawn(async move {
                let sent = client.start.elapsed();
                let served = timeout(REQUEST_LIMIT, client.request()).await.unwrap_or(Err(ErrorKind::TimedOut.into()));
                let request = Request { sent, done: client.start.elapsed(), served: served.map_err(|e| e.kind()) };
                lock(&requests).push(request);
            });
        }
        sent.join_all().await;
    }

    /// Asks on a connection of its own; returns the node that answered.
    async fn request(&self) -> io::Result<usize> {
        let mut stream = self.connect().await?;
        let answer = get(&mut stream, "close").await?;
        self.node_of(&answer)
    }

    /// Connects from a port that was not used before. One client stands for many: the kernel uses
    /// ports again after ten seconds, and a director that knows the earlier connection for two
    /// minutes sends the new one to the same server, be it dead or removed.
    async fn connect(&self) -> io::Result<TcpStream> {
        let port = self.port.fetch_add(1, Ordering::Relaxed);
        if !PORTS.contains(&port) {
            return Err(ErrorKind::AddrNotAvailable.into());
        }
        let socket = if vip().is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(SocketAddr::new(family().any(), port))?;
        socket.connect(SocketAddr::new(vip(), PORT)).await
    }

    async fn open_session(&self, every: Option<Duration>, sessions: &Mutex<Vec<Session>>) -> io::Result<Held> {
        let mut stream = self.connect().await?;
        let node = self.node_of(&get(&mut stream, "keep-alive").await?)?;
        let mut sessions = lock(sessions);
        sessions.push(Session { node, every, answers: vec![self.start.elapsed()], broken: None });
        Ok(Held { client: self.clone(), stream, index: sessions.len() - 1, node })
    }

    fn node_of(&self, first_answer: &str) -> io::Result<usize> {
        self.names.iter().position(|name| first_answer == body(name, 1)).ok_or(ErrorKind::InvalidData.into())
    }
}

/// An open session.
struct Held {
    client: Client,
    stream: TcpStream,
    /// Its place among the group's.
    index: usize,
    node: usize,
}

impl Held {
    async fn keep_asking(mut self, every: Duration, sessions: &Mutex<Vec<Session>>) {
        loop {
            sleep(every).await;
            if !self.ask(sessions).await {
                break;
            }
        }
    }

    /// Expects the same node to go on counting. `false`: the session is broken.
    async fn ask(&mut self, sessions: &Mutex<Vec<Session>>) -> bool {
        let answer = get(&mut self.stream, "keep-alive").await;
        let session = &mut lock(sessions)[self.index];
        match answer {
            Ok(answer) if answer == body(&self.client.names[self.node], session.answers.len() as u64 + 1) => {
                session.answers.push(self.client.start.elapsed());
            }
            Ok(_) => session.broken = Some(ErrorKind::InvalidData),
            Err(e) => session.broken = Some(e.kind()),
        }
        session.broken.is_none()
    }
}

async fn get(stream: &mut TcpStream, connection: &str) -> io::Result<String> {
    let request = format!("GET / HTTP/1.1\r\nHost: web\r\nConnection: {connection}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let answer = receive(stream, |text| text.ends_with('\n') && !text.ends_with("\r\n")).await?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or(ErrorKind::InvalidData)?;
    Ok(body.to_string())
}

async fn receive(stream: &mut TcpStream, complete: fn(&str) -> bool) -> io::Result<String> {
    let (mut text, mut buffer) = (String::new(), [0; 512]);
    while !complete(&text) {
        match stream.read(&mut buffer).await? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            n => text += std::str::from_utf8(&buffer[..n]).map_err(io::Error::other)?,
        }
    }
    Ok(text)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
