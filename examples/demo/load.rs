//! What the cluster is there for: an HTTP server in each node, and a client that asks for it all the time.
//!
//! All of it is one thread: the guest has one CPU, and what is left of it is keepalived's.

use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{self, Handle};
use tokio::task::{self, JoinSet};
use tokio::time::{interval, sleep, timeout};

use crate::cluster::{Cluster, Node, VIP};
use crate::record::{Request, Session};

/// A request that is not answered by then has failed.
const REQUEST_LIMIT: Duration = Duration::from_secs(2);
const REQUEST_EVERY: Duration = Duration::from_millis(20);
const SESSION_EVERY: Duration = Duration::from_millis(150);
const PORT: u16 = 80;

/// The servers and the client, at work. All times are from `start` on.
pub(crate) struct Load {
    runtime: Handle,
    names: Arc<[String]>,
    start: Instant,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Load {
    /// Starts the servers, and a client that sends a request every 20 ms whether or not earlier ones were answered.
    pub(crate) fn start(cluster: &Cluster, start: Instant) -> Result<Self> {
        let names: Arc<[String]> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
        let listeners = cluster.nodes.iter().map(listen).collect::<Result<Vec<_>>>()?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
        let load = runtime.handle().clone();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));

        let work = {
            let (names, requests, stop) = (names.clone(), requests.clone(), stop.clone());
            async move {
                for (name, listener) in names.iter().zip(listeners) {
                    let listener = TcpListener::from_std(listener).context("cannot listen")?;
                    tokio::spawn(serve(listener, name.clone()));
                }
                send_requests(names, start, requests, &stop).await;
                anyhow::Ok(())
            }
        };
        // A socket belongs to the namespace of the thread that makes it: here, the client's.
        let client = cluster.client.clone();
        let thread = thread::spawn(move || client.run(|| runtime.block_on(work))?);
        Ok(Load { runtime: load, names, start, requests, stop, thread })
    }

    /// How many requests were answered so far, and how many failed.
    pub(crate) fn count(&self) -> (usize, usize) {
        let requests = lock(&self.requests);
        let failed = requests.iter().filter(|r| r.served.is_err()).count();
        (requests.len() - failed, failed)
    }

    /// Begins to open `count` sessions, and keeps a request going on each every 150 ms.
    pub(crate) fn open_sessions(&self, count: usize) -> Sessions {
        let sessions = Arc::new(Mutex::new(Vec::new()));
        let open = |i| {
            // Not all at the same moment.
            let phase = SESSION_EVERY * i as u32 / count as u32;
            self.runtime.spawn(hold_session(phase, self.names.clone(), self.start, sessions.clone()))
        };
        Sessions { tasks: (0..count).map(open).collect(), sessions }
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
    tasks: Vec<task::JoinHandle<io::Result<()>>>,
    sessions: Arc<Mutex<Vec<Session>>>,
}

impl Sessions {
    /// Closes them all, and returns what became of each that could be opened.
    pub(crate) fn close(self) -> Vec<Session> {
        self.tasks.iter().for_each(task::JoinHandle::abort);
        std::mem::take(&mut *lock(&self.sessions))
    }
}

fn listen(node: &Node) -> Result<std::net::TcpListener> {
    let listen = || {
        let listener = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
        listener.set_nonblocking(true)?;
        io::Result::Ok(listener)
    };
    node.netns.run(listen)?.with_context(|| format!("cannot serve on {}", node.name))
}

/// A node's web server: answers with the node's name and the number of the request on its connection.
async fn serve(listener: TcpListener, name: String) {
    while let Ok((stream, _)) = listener.accept().await {
        // A connection that breaks is the client's to count.
        tokio::spawn(attend(stream, name.clone()));
    }
}

async fn attend(mut stream: TcpStream, name: String) -> io::Result<()> {
    for count in 1.. {
        let request = receive(&mut stream, |text| text.ends_with("\r\n\r\n")).await?;
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

async fn send_requests(names: Arc<[String]>, start: Instant, requests: Arc<Mutex<Vec<Request>>>, stop: &AtomicBool) {
    let mut due = interval(REQUEST_EVERY);
    let mut sent = JoinSet::new();
    while !stop.load(Ordering::Relaxed) {
        due.tick().await;
        let (names, requests) = (names.clone(), requests.clone());
        sent.spawn(async move {
            let sent_at = start.elapsed();
            let served = timeout(REQUEST_LIMIT, request(&names)).await.unwrap_or(Err(ErrorKind::TimedOut.into()));
            let request = Request { sent: sent_at, done: start.elapsed(), served: served.map_err(|e| e.kind()) };
            lock(&requests).push(request);
        });
    }
    sent.join_all().await;
}

/// Asks on a connection of its own; returns the node that answered.
async fn request(names: &[String]) -> io::Result<usize> {
    let mut stream = TcpStream::connect((VIP, PORT)).await?;
    let answer = get(&mut stream, "close").await?;
    node_of(&answer, names)
}

/// Opens a session, asks now and then, and expects the same node to go on counting.
async fn hold_session(
    phase: Duration,
    names: Arc<[String]>,
    start: Instant,
    sessions: Arc<Mutex<Vec<Session>>>,
) -> io::Result<()> {
    sleep(phase).await;
    let mut stream = TcpStream::connect((VIP, PORT)).await?;
    let node = node_of(&get(&mut stream, "keep-alive").await?, &names)?;
    let this = {
        let mut sessions = lock(&sessions);
        sessions.push(Session { node, answers: vec![start.elapsed()], broken: None });
        sessions.len() - 1
    };
    for count in 2.. {
        sleep(SESSION_EVERY).await;
        let answer = get(&mut stream, "keep-alive").await;
        let session = &mut lock(&sessions)[this];
        match answer {
            Ok(answer) if answer == body(&names[node], count) => session.answers.push(start.elapsed()),
            Ok(_) => session.broken = Some(ErrorKind::InvalidData),
            Err(e) => session.broken = Some(e.kind()),
        }
        if session.broken.is_some() {
            break;
        }
    }
    Ok(())
}

fn node_of(first_answer: &str, names: &[String]) -> io::Result<usize> {
    names.iter().position(|name| first_answer == body(name, 1)).ok_or(ErrorKind::InvalidData.into())
}

async fn get(stream: &mut TcpStream, connection: &str) -> io::Result<String> {
    let request = format!("GET / HTTP/1.1\r\nHost: {VIP}\r\nConnection: {connection}\r\n\r\n");
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
