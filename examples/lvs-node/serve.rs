//! The metrics over HTTP: one page, by HTTP/1.0, on the event loop of `lvs-node watch`.
//!
//! It waits for no client. A client has a few seconds for its request and for the answer, and of
//! too many the oldest one is dropped.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

/// The most clients at a time.
const CLIENTS: usize = 16;

/// The time limit of a client.
const LIMIT: Duration = Duration::from_secs(5);

/// The longest request, in octets.
const REQUEST: usize = 4096;

/// How long no client is accepted after one could not be: there are no descriptors, say.
const PAUSE: Duration = Duration::from_secs(1);

const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `127.0.0.1:9850`, `[::1]:9850`, or a port: that of the loopback address.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let port = || text.parse::<u16>().ok().map(|port| (IpAddr::from(Ipv4Addr::LOCALHOST), port).into());
    let found = text.parse().ok().or_else(port).filter(|address: &SocketAddr| address.port() != 0);
    found.ok_or_else(|| "a port, or an address with a port was expected, as in 9850 or 192.0.2.11:9850".to_owned())
}

/// A listening socket, and its clients.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    clients: VecDeque<Client>,
    /// Until then no client is accepted.
    paused: Option<Instant>,
}

#[derive(Debug)]
struct Client {
    stream: TcpStream,
    until: Instant,
    request: Vec<u8>,
    answer: Option<Answer>,
}

/// What is sent, and how much of it was sent.
#[derive(Debug)]
struct Answer {
    head: Vec<u8>,
    body: Arc<str>,
    sent: usize,
}

impl Server {
    pub fn bind(address: SocketAddr) -> io::Result<Server> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Server { listener, clients: VecDeque::new(), paused: None })
    }

    /// What it waits for.
    pub fn descriptors(&self) -> Vec<PollFd<'_>> {
        let listener = self.paused.is_none().then(|| PollFd::new(&self.listener, PollFlags::IN));
        let clients = self.clients.iter().map(|client| {
            let flags = if client.answer.is_some() { PollFlags::OUT } else { PollFlags::IN };
            PollFd::new(&client.stream, flags)
        });
        listener.into_iter().chain(clients).collect()
    }

    /// When there is something to do without a descriptor that is ready.
    pub fn until(&self) -> Option<Instant> {
        self.clients.iter().map(|client| client.until).chain(self.paused).min()
    }

    /// Does what there is to do now, without waiting. `page`: what is served; `None`: nothing yet.
    pub fn go_on(&mut self, now: Instant, page: Option<&Arc<str>>) {
        self.paused = self.paused.filter(|until| now < *until);
        if self.paused.is_none() {
            self.accept(now);
        }
        self.clients.retain_mut(|client| now < client.until && client.go_on(page).unwrap_or(false));
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..CLIENTS {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The client is gone, or there is no descriptor for it.
                Err(_) => {
                    self.paused = Some(now + PAUSE);
                    return;
                }
            };
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            if self.clients.len() == CLIENTS {
                self.clients.pop_front();
            }
            self.clients.push_back(Client { stream, until: now + LIMIT, request: Vec::new(), answer: None });
        }
    }
}

impl Client {
    /// `false`: it has its answer, or is gone.
    fn go_on(&mut self, page: Option<&Arc<str>>) -> io::Result<bool> {
        if self.answer.is_none() {
            if !self.read()? {
                return Ok(true);
            }
            self.answer = Some(Answer::to(&self.request, page));
        }
        let Some(answer) = &mut self.answer else { return Ok(true) };
        while let Some(rest) = answer.rest() {
            match self.stream.write(rest) {
                Ok(0) => return Ok(false),
                Ok(sent) => answer.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.stream.shutdown(Shutdown::Write)?;
        Ok(false)
    }

    /// Says whether the request is complete, or too long.
    fn read(&mut self) -> io::Result<bool> {
        let mut octets = [0; 1024];
        loop {
            match self.stream.read(&mut octets) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.request.extend_from_slice(&octets[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            let ends = |end: &[u8]| self.request.windows(end.len()).any(|found| found == end);
            if ends(b"\r\n\r\n") || ends(b"\n\n") || self.request.len() >= REQUEST {
                return Ok(true);
            }
        }
    }
}

impl Answer {
    fn to(request: &[u8], page: Option<&Arc<str>>) -> Self {
        let text = String::from_utf8_lossy(request);
        let mut words = text.lines().next().unwrap_or_default().split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path = path.split('?').next().unwrap_or_default();
        let (status, body): (_, Arc<str>) = match (method, path, page) {
            _ if request.len() >= REQUEST => {
                ("431 Request Header Fields Too Large", "the request is too long\n".into())
            }
            ("GET" | "HEAD", "/metrics", Some(page)) => ("200 OK", page.clone()),
            ("GET" | "HEAD", "/metrics", None) => {
                ("503 Service Unavailable", "the node was not looked at yet\n".into())
            }
            ("GET" | "HEAD", ..) => ("404 Not Found", "the metrics are at /metrics\n".into()),
            _ => ("405 Method Not Allowed", "GET was expected\n".into()),
        };
        let length = body.len();
        let head = format!(
            "HTTP/1.0 {status}\r\nContent-Type: {TYPE}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        let body = if method == "HEAD" { "".into() } else { body };
        Answer { head: head.into_bytes(), body, sent: 0 }
    }

    fn rest(&self) -> Option<&[u8]> {
        let rest = match self.head.get(self.sent..) {
            Some(rest) if !rest.is_empty() => rest,
            _ => self.body.as_bytes().get(self.sent - self.head.len()..)?,
        };
        (!rest.is_empty()).then_some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> (Server, SocketAddr) {
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = server.listener.local_addr().unwrap();
        (server, address)
    }

    fn client(address: SocketAddr, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    /// What the client reads while the server goes on.
    fn answer(server: &mut Server, now: Instant, mut stream: TcpStream, page: Option<&Arc<str>>) -> String {
        let (mut text, mut octets) = (Vec::new(), [0; 65_536]);
        for _ in 0..1000 {
            server.go_on(now, page);
            match stream.read(&mut octets) {
                Ok(0) => return String::from_utf8(text).unwrap(),
                Ok(length) => text.extend_from_slice(&octets[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return error.to_string(),
            }
        }
        panic!("no end: {} octets", text.len())
    }

    #[test]
    fn one_page_is_served() {
        let (mut server, address) = server();
        let (now, page): (_, Arc<str>) = (Instant::now(), "up 1\n".into());
        let mut asked = |request: &str, page| {
            let stream = client(address, request);
            answer(&mut server, now, stream, page)
        };
        let all = asked("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", Some(&page));
        assert!(all.starts_with("HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4"), "{all}");
        assert!(all.contains("\r\nContent-Length: 5\r\n") && all.ends_with("\r\n\r\nup 1\n"), "{all}");
        assert!(asked("HEAD /metrics HTTP/1.0\n\n", Some(&page)).ends_with("Length: 5\r\nConnection: close\r\n\r\n"));
        for (request, code, page) in [
            ("GET / HTTP/1.0\r\n\r\n", "404", Some(&page)),
            ("GET /metrics?name=x HTTP/1.0\r\n\r\n", "200", Some(&page)),
            ("GET /metrics HTTP/1.0\r\n\r\n", "503", None),
            ("POST /metrics HTTP/1.0\r\n\r\n", "405", Some(&page)),
            ("\u{1b}\r\n\r\n", "405", Some(&page)),
        ] {
            let all = asked(request, page);
            assert!(all.starts_with(&format!("HTTP/1.0 {code} ")), "{request}: {all}");
        }
        let long = asked(&format!("GET /metrics HTTP/1.0\r\nX: {}", "x".repeat(REQUEST)), Some(&page));
        assert!(long.starts_with("HTTP/1.0 431 ") || long.contains("reset"), "{long}");
    }

    #[test]
    fn slow_clients_hold_up_nothing_and_are_dropped() {
        let (mut server, address) = server();
        // More than the sockets hold.
        let (now, page): (_, Arc<str>) = (Instant::now(), "x".repeat(32 << 20).into());
        let request = "GET /metrics HTTP/1.0\r\n\r\n";
        let mut slow = vec![client(address, ""), client(address, "GET /met"), client(address, request)];
        server.go_on(now, Some(&page));
        assert_eq!((server.clients.len(), server.until()), (3, Some(now + LIMIT)));
        // One that reads gets all of it meanwhile.
        let all = answer(&mut server, now, client(address, request), Some(&page));
        assert!(all.len() > page.len() && server.clients.len() == 3);
        server.go_on(now + LIMIT, Some(&page));
        assert_eq!((server.clients.len(), server.until()), (0, None));
        // Of too many the oldest are dropped.
        slow.extend((0..3 * CLIENTS).map(|_| client(address, "")));
        for _ in 0..5 {
            server.go_on(now, Some(&page));
            assert!(server.clients.len() <= CLIENTS && server.descriptors().len() <= CLIENTS + 1);
        }
        let short: Arc<str> = "up 1\n".into();
        assert!(answer(&mut server, now, client(address, request), Some(&short)).ends_with("up 1\n"));
        // One that is gone.
        drop(slow);
        server.go_on(now, Some(&page));
        assert_eq!(server.clients.len(), 0);
    }

    #[test]
    fn a_port_is_that_of_the_loopback_address() {
        assert_eq!(address("9850"), Ok("127.0.0.1:9850".parse().unwrap()));
        assert_eq!(address("[::1]:9850"), Ok("[::1]:9850".parse().unwrap()));
        for wrong in ["", "0", "localhost:9850", "127.0.0.1", "127.0.0.1:0", "99999"] {
            assert!(address(wrong).is_err_and(|error| error.contains("9850")), "{wrong}");
        }
    }
}
