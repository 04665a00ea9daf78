//! The drop-in for ipvsadm (examples/ipvsadm) against Debian's ipvsadm: the same command lines,
//! each program in a network namespace of its own; output, exit code and the kernel's table, read
//! by a third reader, are compared. In a guest of its own: it writes /etc/hosts.
//!
//! Where the drop-in differs on purpose, its documentation says so, by number
//! (examples/ipvsadm/main.rs). Lines with a number here must differ, and ours is as is said. What
//! cannot be had from the kernel at will (large counters, a full disk, a lost answer) is in unit
//! tests or not tested; the order of listings is compared within one namespace only, as kernels
//! from 7.2 on hash otherwise in each.

mod generate;
#[path = "../kernel/lab.rs"]
#[allow(dead_code)]
mod lab;
#[path = "../../examples/ipvsadm/program.rs"]
mod program;
mod reader;

use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use lvs_dr::Netns;
use lvs_dr::ipvs::Table;

use generate::{Random, Words, words};
use lab::{enter_new_netns, ip, new_netns};
use reader::Reader;

/// How many command lines were compared, and how many of them differ as they should.
static COMPARED: AtomicUsize = AtomicUsize::new(0);
static INTENDED: AtomicUsize = AtomicUsize::new(0);

/// What a program did.
#[derive(Clone, PartialEq, Eq)]
struct Outcome {
    code: i32,
    out: String,
    err: String,
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}", self.code)?;
        self.out.lines().try_for_each(|line| write!(f, "\n    out|{line}$"))?;
        self.err.lines().try_for_each(|line| write!(f, "\n    err|{line}$"))
    }
}

/// ipvsadm in the calling thread's namespace.
fn theirs(words: &[String], input: &str) -> Outcome {
    run(Command::new("ipvsadm"), words, input)
}

fn run(mut command: Command, words: &[String], input: &str) -> Outcome {
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Outcome {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The drop-in in the calling thread's namespace, without a process of its own: there a start
/// takes 40 ms.
fn ours(words: &[String], input: &str) -> Outcome {
    let arguments = std::iter::once("ipvsadm").chain(words.iter().map(String::as_str)).map(OsString::from);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = program::main_with(arguments, &mut input.as_bytes(), &mut out, &mut err);
    Outcome { code: code.into(), out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

/// The two namespaces, and the third reader in each.
struct Lab {
    netns: Netns,
    here: Reader,
    there: Reader,
    failures: Vec<String>,
}

impl Lab {
    /// The calling thread is where ipvsadm runs from here on.
    fn new() -> Lab {
        enter_new_netns();
        let set_up = || {
            ip("link add d0 type dummy").len() + ip("addr add 10.9.9.1/24 dev d0").len() + ip("link set d0 up").len()
        };
        set_up();
        let netns = new_netns();
        let there = netns
            .run(|| {
                set_up();
                Reader::new()
            })
            .unwrap();
        Lab { netns, here: Reader::new(), there, failures: Vec::new() }
    }

    fn reset(&mut self) {
        self.here.reset();
        self.there.reset();
    }

    fn ours(&self, words: &[String], input: &str) -> Outcome {
        self.netns.run(|| ours(words, input)).unwrap()
    }

    fn theirs_there(&self, words: &[String], input: &str) -> Outcome {
        self.netns.run(|| theirs(words, input)).unwrap()
    }

    /// Brings both to the same start.
    fn prepare(&self, lines: &[Words]) {
        for line in lines {
            let (a, b) = (ours(line, ""), self.ours(line, ""));
            assert!(a.code == 0 && b.code == 0, "cannot prepare {line:?}: {a:?}, {b:?}");
        }
    }

    fn fail(&mut self, what: String) {
        println!("DIFFERS: {what}");
        self.failures.push(what);
    }

    /// Compares both on one line; or on two, where one fault of theirs is got around by another
    /// line.
    fn compare_as(&mut self, words: &[String], instead: &[String], input: &str) {
        COMPARED.fetch_add(1, Ordering::Relaxed);
        if words != instead {
            INTENDED.fetch_add(1, Ordering::Relaxed);
        }
        let theirs = theirs(instead, input);
        // Listings are compared in one place, since the order depends on it.
        let lists = words.first().is_none_or(|first| is_listing(first));
        let mut ours = if lists { ours(words, input) } else { self.ours(words, input) };
        let expected = expected(theirs.clone(), words);
        if tells_help(words, &ours) {
            ours.out.clear();
        }
        if ours != expected {
            self.fail(format!("{words:?} {input:?}\n  theirs: {theirs:?}\n  ours: {ours:?}"));
        }
        let (here, there) = (self.here.read(), self.there.read());
        if here != there {
            self.fail(format!("{words:?} {input:?}\n  table after theirs: {here:?}\n  after ours: {there:?}"));
            self.reset();
        }
    }

    fn compare(&mut self, line: &str) {
        self.compare_words(&words(line));
    }

    fn compare_words(&mut self, words: &[String]) {
        // (11) Ours never looks for names.
        let saves = words.first().is_some_and(|word| word == "-S" || word == "--save");
        let named = words.iter().any(|word| word == "-n" || word == "--numeric");
        match saves && !named && !theirs(words, "").out.is_empty() {
            true => self.compare_as(words, &[words, &["-n".into()]].concat(), ""),
            false => self.compare_as(words, words, ""),
        }
    }
}

fn is_listing(first: &str) -> bool {
    ["-L", "-l", "-S", "--list", "--save"].iter().any(|command| first.starts_with(command))
}

/// What ours is to show for this: theirs but for (7) negative marks, and the text of `-h`.
fn expected(mut theirs: Outcome, words: &[String]) -> Outcome {
    if tells_help(words, &theirs) {
        theirs.out.clear();
    }
    if theirs.out.contains("FWM  -") || theirs.out.contains("-f -") {
        INTENDED.fetch_add(1, Ordering::Relaxed);
        theirs.out = theirs.out.lines().map(|line| unsigned(line) + "\n").collect();
    }
    theirs
}

/// Its text is not compared.
fn tells_help(words: &[String], outcome: &Outcome) -> bool {
    words.first().is_some_and(|word| word.starts_with("-h") || word == "--help") && outcome.code == 0
}

/// The same line with a positive mark.
fn unsigned(line: &str) -> String {
    for before in ["FWM  ", "-f "] {
        let Some((head, (mark, tail))) =
            line.split_once(before).map(|(head, rest)| (head, rest.split_at(rest.find(' ').unwrap_or(rest.len()))))
        else {
            continue;
        };
        let Ok(mark) = mark.parse::<i32>().map(|mark| mark as u32) else { continue };
        let name = format!("{head}{before}{mark}");
        // Numbers stand from the 34th column on.
        return match tail.trim_start_matches(" IPv6") {
            numbers if numbers.starts_with("  ") => {
                let family = if tail.starts_with(" IPv6") { " IPv6" } else { "" };
                format!("{:<33}{}", name + family, &line[33..])
            }
            _ => name + tail,
        };
    }
    line.to_owned()
}

/// Names, and nobody else to ask for them.
fn hosts() {
    assert_eq!(
        std::env::var("LAB").as_deref(),
        Ok("guest"),
        "this test writes /etc/hosts: it runs in the lab's guest only"
    );
    std::fs::write("/etc/nsswitch.conf", "hosts: files\nservices: files\n").unwrap();
    let long = "a-very-long-name-of-a-host-that-goes-on-and-on.and-on-and-on.example.com";
    std::fs::write(
        "/etc/hosts",
        format!("127.0.0.1 localhost\n1.2.3.4 short\n10.0.0.1 thirty-characters.in.all.com alias\n10.0.0.2 {long}\n2001:db8::1 six.example.com\n"),
    )
    .unwrap();
}

/// In this order, in one session: the tables grow.
const HAND_PICKED: &str = "\
-Ln
-L
-l
-v
-h
-S
-A -t V -s wrr -p 300 -M 255.255.255.0
-A -t V
-A -u 1.2.3.4:53 -s sh -o -b sh-fallback,sh-port
-A -u 1.2.3.4:5060 -s mh -p 60 --pe sip -o -b mh-port
-A --sctp-service 1.2.3.4:9 -s rr -b flag-1,flag-3
-A -f 1 -s wlc -p 10
-A -f 2 -6 -s wlc -p 10 -M 64
-A -f 4000000000 -s lc
-A -t W -s rr -p 5 -M 64
-A -t 255.255.255.254:65535 -s rr
-A -6 -f 1
-A -t 1.2.3.4 -s rr
-A -t [1.2.3.4]:81 -s rr
-A -t [2001:db8::1] -p
-A -t 2001:db8::1:80 -p
-A -t 0x0a000001:www -srr -p
-A -t localhost:http
-A -t short:99
-A -t six.example.com:99
-A -t nohost.invalid:80
-A -t 1.2.3.9:80 -o
-A -t 1.2.3.9:80 -s rr -b mh-port
-A -t 1.2.3.9:80 -w 5
-A -t 1.2.3.9:80 -p -1
-A -t 1.2.3.9:80 -t 1.2.3.8:80
-A -t 1.2.3.9:80 -s none
-A -t 1.2.3.9:81 --pe sip
-A -t 1.2.3.9:82 -M 255.255.0.0
-A -t 1.2.3.9:83 -M 0.0.0.0
-A -t 1.2.3.9:84 -M localhost -p
-A -t 1.2.3.9:85 -p -M 24
-A -t 1.2.3.9:86 --pe an-engine-with-a-very-long-name
-A -t 1.2.3.9:87 -s a-scheduler-with-a-very-long-name
-A -t V -s a-scheduler-with-a-very-long-name
-E -t 1.2.3.9:99 -s a-scheduler-with-a-very-long-name
-A -t 1.2.3.9:88 -s ''
-A -t 1.2.3.9:89 -s a/b
-A -t V -s a/b
-E -t 1.2.3.9:99 -s a/b
-A -t 0.0.0.0:80 -s rr
-A -t 224.0.0.1:80 -s rr
-A -t [::]:80 -s rr
-A -t [::1.2.3.4]:80 -s rr
-A -t [::ffff:1.2.3.4]:80 -s rr
-A -u W -M 24 -p 5
-A -f 1 -6 -M 64 -p
-A -f 9 -M 255.0.0.0 -6 -p
-a -t V -r 10.0.0.2 -w 100
-a -t V -r 10.0.0.1:8080 -m -w 65536 -x 100 -y 50
-a -t V -r 10.0.0.3:8080
-a -t V -r 10.0.0.4 -i --tun-type gue --tun-port 6080 --tun-remcsum
-a -t V -r 10.0.0.5 -i --tun-type gre --tun-csum
-a -t V -r 10.0.0.6 -i --tun-type gue
-a -t V -r 10.0.0.6 --tun-csum
-a -t V -r 10.0.0.6 -i --tun-type gre --tun-remcsum
-a -t V -r 10.0.0.6 -i --tun-type gue --tun-port 1 --tun-csum --tun-nocsum
-a -t V -r [2001:db8::2]:80
-a -t V -r [2001:db8::2]:80 -i
-a -t V -r 10.0.0.7 -x 1 -y 2
-a -t V -r 10.0.0.7 -y 2
-a -t 9.9.9.9:9 -r 10.0.0.7 -x 1 -y 2
-a -t V -r 10.0.0.2 -x 1 -y 2
-a -t V -r 10.0.0.2
-a -t V -r 224.0.0.1
-a -t V -r 0.0.0.0
-a -f 1 -r 10.0.0.1:http -m
-a -r 10.0.0.8:http -m -t V
-a -r 10.0.0.8 -m -t V
-a -r 10.0.0.9 -t V
-a -t W -r six.example.com
-a -t W -r [2001:db8::9]:99 -w 2147483647
-a -t W -r [2001:db8:1111:2222:3333:4444:5555:7777]:65535 -m
-d -t V -r 10.0.0.1 -g
-d -t V -r 10.0.0.9
-d -t V -r 10.0.0.99
-d -t V -r [2001:db8::99]:80
-d -t 9.9.9.9:9 -r 10.0.0.9
-Ln
-E -t V -s sh -b sh-port,sh-fallback
-E -t V -p
-E -t 9.9.9.9:80
-E -t V -s nosuch
-E -t 1.2.3.9:81 -s wrr
-D -t 9.9.9.9:80
-Z -u 1.2.3.4:53
-Z -f 77
-Z -t 0.0.0.0:0
-Z -u [::]:0
-Z -u 9.9.9.9:0
-Z
-L -t V -n --stats
-L -t V -n --nosort
-L -f 2 -n
-L -f 2 -6 -n
-L -t 9.9.9.9:9
-Ln --thresholds
-Ln --persistent-conn --tun-info
-Ln --persistent-conn
-Ln --tun-info
-Ln --stats
-Ln --rate
-Ln --rate --exact
-Ln --stats --exact --syncid 5
-Ln --nosort
-Ln --sort
-L
-L --stats
-Sn
-S -n
-L -c -t V
-Lnc
-Lc
-Lnc --persistent-conn
-L --timeout --stats
-L --timeout -n
-L --daemon
--set 100 0 30
-L --timeout
--set 1 2
--set 1 2 3 4
--set 1 -2 3
--set 1 2 -- -3
1 --set 2 3
--set 1 2 2678401
--start-daemon backup --mcast-interface d0 --syncid 255
--start-daemon backup --mcast-interface d0
-L --daemon
--stop-daemon backup --syncid 3
--stop-daemon backup
--start-daemon nobody
--stop-daemon nobody
--start-daemon=backup --mcast-interface nodev
--start-daemon backup
--start-daemon backup --mcast-interface ''
--start-daemon master --start-daemon backup
--start-daemon
-L --foo
-Lq
foo
-nL
-LnA
-AE
-L -- -n
--list=1
-L --numeric=1
-L -n=1
-L ''
-
--
''
-t x -A
-h=1
-v -q
-hL
-list
-A -t -- -s
-A -p -1
-A -t
-At
-A --tcp-service==x
-L -f -1
-L --sched-flags foo
-Lb sh-port
-C extra
-C --sort
-C -n
-R -n
-C
-Ln
";

/// What ldirectord runs: see its functions for services (-A, -E, -D) and real servers (-a, -e,
/// -d).
const LDIRECTORD: &str = "\
-L -n
-A -t V -s wrr -p 600 -M 255.255.255.0
-A -u 1.2.3.4:53 -o -s rr
-A -f 7 -s rr -p 60
-A -f 8 -6 -s rr
-A -t W -s wlc
-a -t V -x 0 -y 0 -r 10.0.0.1:80 -g -w 1
-a -t V -x 100 -y 50 -r 10.0.0.2:80 -m -w 3
-a -f 7 -x 0 -y 0 -r 10.0.0.1:0 -i -w 1
-a -t W -x 0 -y 0 -r [2001:db8::2]:80 -g -w 1
-L -n --thresholds
-e -t V -x 100 -y 50 -r 10.0.0.2:80 -m -w 0
-e -t V -x 100 -y 50 -r 10.0.0.2:80 -m -w 3
-e -t V -x 9 -y 3 -r 10.0.0.1:80 -g -w 5
-L -n --thresholds
-E -t V -s wlc -p 600 -M 255.255.255.0
-E -t V -s rr
-L -n
-d -t V -r 10.0.0.2:80
-D -t V
-D -f 8 -6
-L -n
";

fn lines(text: &str) -> Vec<Words> {
    text.lines().map(|line| words(&line.replace(" V", " 1.2.3.4:80").replace(" W", " [2001:db8::1]:80"))).collect()
}

#[test]
fn differential() {
    hosts();
    let start = Instant::now();
    let mut lab = Lab::new();
    let mut run = |what: &str, part: fn(&mut Lab)| {
        part(&mut lab);
        progress(what, &start);
    };
    run("hand-picked", hand_picked);
    run("different on purpose", differences);
    run("every option with every command", exhaustive);
    run("generated", generated);
    run("edits of what is there", edits);
    run("round trips", round_trips);
    run("spellings", spellings);
    run("traffic", traffic);
    run("the program itself", the_program_itself);
    tell(&format!(
        "{} command lines compared, {} of them differ as intended ({} s)",
        COMPARED.load(Ordering::Relaxed),
        INTENDED.load(Ordering::Relaxed),
        start.elapsed().as_secs()
    ));
    assert!(lab.failures.is_empty(), "{} of them differ otherwise: see above", lab.failures.len());
}

fn progress(what: &str, start: &Instant) {
    let (compared, seconds) = (COMPARED.load(Ordering::Relaxed), start.elapsed().as_secs_f32());
    tell(&format!("{compared:5} command lines compared after {seconds:4.1} s: {what}"));
}

/// Prints a line that is shown whether the test passes or not: println! would be kept back.
fn tell(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn hand_picked(lab: &mut Lab) {
    for list in [HAND_PICKED, LDIRECTORD] {
        lab.reset();
        for line in lines(list) {
            lab.compare_words(&line);
            if line.first().is_some_and(|word| word.contains("start-daemon")) {
                reader::let_daemons_begin();
            }
        }
    }
    let help = theirs(&words("-h"), "").out;
    let mine = ours(&words("-h"), "").out;
    for option in help.split(|c: char| !c.is_alphanumeric() && c != '-').filter(|word| word.starts_with("--")) {
        assert!(mine.contains(option), "-h does not tell {option}");
    }
}

/// A line that differs on purpose.
struct Difference {
    /// As in the documentation of examples/ipvsadm.
    number: u32,
    setup: &'static str,
    line: &'static str,
    input: &'static str,
    /// What ours does: exit code, standard output, standard error.
    ours: (i32, &'static str, &'static str),
    /// The table after ours, as ipvsadm saves it.
    table: &'static str,
}

const TUNNELLED: &str =
    "-A -t V -s rr\n-a -t V -r 10.0.0.4 -i --tun-type gue --tun-port 6080 --tun-csum -w 5 -x 9 -y 3";
const MASQUERADED: &str = "-A -t V -s rr\n-a -t V -r 10.0.0.1 -w 5\n-a -t V -r 10.0.0.1:81 -m -w 6";
const RESTORED: &str = "line 2: Service already exists\nnothing was restored: the table is as it was before\n";

const DIFFERENCES: &[Difference] = &[
    Difference {
        number: 1,
        setup: TUNNELLED,
        line: "-e -t V -r 10.0.0.4 -w 0",
        input: "",
        ours: (0, "", ""),
        table: "-A -t V -s rr\n-a -t V -r 10.0.0.4:80 -i -w 0 --tun-type gue --tun-port 6080 --tun-csum\n",
    },
    Difference {
        number: 1,
        setup: TUNNELLED,
        line: "-e -t V -r 10.0.0.4 -i",
        input: "",
        ours: (0, "", ""),
        table: "-A -t V -s rr\n-a -t V -r 10.0.0.4:80 -i -w 5 --tun-type ipip\n",
    },
    Difference {
        number: 1,
        setup: "-A -t V -s rr\n-a -t V -r [2001:db8::2]:80 -i -w 5",
        line: "-e -t V -r [2001:db8::2]:80 -w 3",
        input: "",
        ours: (0, "", ""),
        table: "-A -t V -s rr\n-a -t V -r [2001:db8::2]:80 -i -w 3 --tun-type ipip\n",
    },
    Difference {
        number: 2,
        setup: MASQUERADED,
        line: "-e -t V -r 10.0.0.1:81 -w 0",
        input: "",
        ours: (0, "", ""),
        table: "-A -t V -s rr\n-a -t V -r 10.0.0.1:80 -g -w 5\n-a -t V -r 10.0.0.1:81 -m -w 0\n",
    },
    Difference {
        number: 3,
        setup: "",
        line: "-R",
        input: "-A -t 1.2.3.4:80\n-A -t 1.2.3.4:80\n-A -t 1.2.3.5:80\n",
        ours: (255, "", RESTORED),
        table: "",
    },
    Difference {
        number: 3,
        setup: "-A -t V -s rr",
        line: "-R",
        input: "-C\n\n-A -t foo\n-A -t 1.2.3.5:80\n",
        ours: (
            2,
            "",
            "line 3: illegal virtual server address[:port] specified\nnothing was restored: the table is as it was before\n",
        ),
        table: "-A -t V -s rr\n",
    },
    Difference {
        // Only the kernel can tell this one: what was done is undone.
        number: 3,
        setup: "-A -t V -s rr\n-a -t V -r 10.0.0.1 -w 5",
        line: "-R",
        input: "-E -t 1.2.3.4:80 -s wrr\n-A -t 1.2.3.4:81 -s rr\n-a -t 1.2.3.4:81 -r 224.0.0.1\n-d -t 1.2.3.4:80 -r 10.0.0.1\n",
        ours: (
            255,
            "",
            "line 3: Invalid operation.  Possibly wrong module version, address not unicast, ...\nnothing was restored: the table is as it was before\n",
        ),
        table: "-A -t V -s rr\n-a -t V -r 10.0.0.1:80 -g -w 5\n",
    },
    Difference {
        number: 3,
        setup: "-A -t V -s rr",
        line: "-R",
        input: "-A -f 1\n-Ln\n",
        ours: (
            2,
            "",
            "line 2: a listing has no place among lines to restore\nnothing was restored: the table is as it was before\n",
        ),
        table: "-A -t V -s rr\n",
    },
    Difference {
        number: 3,
        setup: "",
        line: "-R",
        input: "-A -f 1\n-A -f 2 -q\n-A -f 3\n",
        ours: (255, "", "line 2: -q: unknown option\nnothing was restored: the table is as it was before\n"),
        table: "",
    },
    Difference {
        number: 4,
        setup: "",
        line: "-R",
        input: "# saved\n-A -t 1.2.3.4:80 -s rr # a comment\n  #\n\n",
        ours: (0, "", ""),
        table: "-A -t V -s rr\n",
    },
    Difference {
        number: 5,
        setup: "",
        line: "-A -t V -b ,",
        input: "",
        ours: (2, "", "invalid scheduler flag `,'\n"),
        table: "",
    },
    Difference {
        number: 8,
        setup: "-A -t V -s sh -b flag-3",
        line: "-Ln -t V",
        input: "",
        ours: (
            0,
            "Prot LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\nTCP  1.2.3.4:80 sh (flag-3)\n",
            "",
        ),
        table: "-A -t V -s sh -b \n",
    },
    Difference {
        number: 8,
        setup: "-A -t V -s mh -b flag-1,flag-3",
        line: "-Sn",
        input: "",
        ours: (0, "-A -t 1.2.3.4:80 -s mh -b mh-fallback,flag-3\n", ""),
        table: "-A -t V -s mh -b mh-fallback\n",
    },
    Difference {
        number: 11,
        setup: "-A -t V -s rr\n-a -t V -r 10.0.0.2",
        line: "-S",
        input: "",
        ours: (0, "-A -t 1.2.3.4:80 -s rr\n-a -t 1.2.3.4:80 -r 10.0.0.2:80 -g -w 1\n", ""),
        table: "-A -t V -s rr\n-a -t V -r 10.0.0.2:80 -g -w 1\n",
    },
    Difference {
        number: 13,
        setup: "",
        line: "-R",
        input: "-A -t 1.2.3.4:80 -s rr  ",
        ours: (0, "", ""),
        table: "-A -t V -s rr\n",
    },
    Difference {
        number: 17,
        setup: "",
        line: "-A -t V -p 5 -M 0.0.0.0",
        input: "",
        ours: (2, "", "illegal virtual server persistent mask specified\n"),
        table: "",
    },
    // What is added.
    Difference {
        number: 0,
        setup: TUNNELLED,
        line: "-e -t V -r 10.0.0.4 -w 0 --dry-run",
        input: "",
        ours: (0, "-e -t 1.2.3.4:80 -r 10.0.0.4:80 -i -w 0 -x 9 -y 3 --tun-type gue --tun-port 6080 --tun-csum\n", ""),
        table: "-A -t V -s rr\n-a -t V -r 10.0.0.4:80 -i -w 5 --tun-type gue --tun-port 6080 --tun-csum\n",
    },
    Difference {
        number: 0,
        setup: "-A -t V -s rr",
        line: "-R --dry-run",
        input: "-E -t 1.2.3.4:80 -s wrr\n-A -f 1\n-Z\n",
        ours: (0, "-A -f 1 -s wlc\n-E -t 1.2.3.4:80 -s wrr\n-Z\n", ""),
        table: "-A -t V -s rr\n",
    },
    Difference {
        number: 0,
        setup: "",
        line: "-D --dry-run -t V",
        input: "",
        ours: (255, "", "No such service\n"),
        table: "",
    },
    Difference {
        number: 0,
        setup: "-A -t V -s rr -p 5",
        line: "-S --json",
        input: "",
        ours: (
            0,
            "[{\"destinations\":[],\"engine\":null,\"flags\":[],\"one_packet\":false,\"persistence\":{\"netmask\":\"255.255.255.255\",\"timeout\":5},\"scheduler\":\"rr\",\"service\":\"tcp 1.2.3.4:80\"}]\n",
            "",
        ),
        table: "-A -t V -s rr -p 5\n",
    },
];

fn differences(lab: &mut Lab) {
    for case in DIFFERENCES {
        let Difference { number, line, input, .. } = case;
        lab.reset();
        lab.prepare(&lines(case.setup));
        let line = &lines(line)[0];
        COMPARED.fetch_add(1, Ordering::Relaxed);
        INTENDED.fetch_add(1, Ordering::Relaxed);
        let theirs = theirs(line, input);
        let ours = lab.ours(line, input);
        let expected = Outcome { code: case.ours.0, out: case.ours.1.into(), err: case.ours.2.into() };
        assert!(ours == expected, "({number}) {line:?} {input:?}\n  expected: {expected:?}\n  ours: {ours:?}");
        let table = lab.theirs_there(&words("-Sn"), "").out;
        assert_eq!(
            table,
            case.table.replace("-t V", "-t 1.2.3.4:80"),
            "({number}) {line:?} {input:?}: the table after ours"
        );
        let same = ours == theirs && lab.here.read() == lab.there.read();
        assert!(!same, "({number}) {line:?} {input:?}: no difference any more\n  theirs: {theirs:?}");
    }
    foreign(lab);
    // What -R does as ipvsadm does.
    lab.reset();
    for input in [
        "",
        "\n \t\r\n",
        "-A -t 1.2.3.4:80 -s rr\n-a -t 1.2.3.4:80 -r 10.0.0.1 -w 2",
        "ipvsadm -A -f 1 ipvsadm -s rr\nipvsadm -a -f 1 -r 10.0.0.1\n",
        "-E -t 1.2.3.4:80 -s wrr\n-e -t 1.2.3.4:80 -r 10.0.0.1 -m -w 2 -x 5 -y 1\n-D -f 1\n--set 10 20 30\n",
        "-d -t 1.2.3.4:80 -r 10.0.0.1\n-a -t 1.2.3.4:80 -r 10.0.0.1 -i\n-Z\n-Z -t 1.2.3.4:80\n",
        "--start-daemon backup --mcast-interface d0 --syncid 9\n",
        "-C\n-A -t 1.2.3.4:80 -s lc -p 4\n-A -f 3 -6\n-a -f 3 -6 -r [2001:db8::2]:0\n",
    ] {
        lab.compare_as(&words("-R"), &words("-R"), input);
        reader::let_daemons_begin();
    }
    lab.compare("--stop-daemon backup");
}

/// What no command of ipvsadm makes, but other programs can (6).
fn foreign(lab: &mut Lab) {
    const LOCAL: u8 = 1;
    const TUNNEL: u8 = 2;
    lab.reset();
    lab.prepare(&lines("-A -t V -s rr"));
    for (last, method, kind, flags) in [(1, LOCAL, 0, 0), (2, 5, 0, 0), (3, TUNNEL, 9, 0)] {
        lab.here.add_destination([10, 0, 0, last], method, kind, flags);
        lab.there.add_destination([10, 0, 0, last], method, kind, flags);
    }
    lab.compare("-Ln");
    lab.compare("-Ln --tun-info");
    let saved = |method: &str| format!("-a -t 1.2.3.4:80 -r 10.0.0.{method}\n");
    assert_eq!(
        ours(&words("-S"), "").out,
        "-A -t 1.2.3.4:80 -s rr\n".to_owned()
            + &saved("1:80 -g -w 1")
            + &saved("2:80 --method 5 -w 1")
            + &saved("3:80 -i -w 1 --tun-type 9")
    );
    lab.here.add_destination([10, 0, 0, 4], TUNNEL, 1, 3);
    for line in ["-Ln --tun-info", "-Sn"] {
        let (theirs, ours) = (theirs(&words(line), ""), ours(&words(line), ""));
        assert!(ours.code == 0 && ours.out.contains("10.0.0.4:80"), "{ours:?}");
        assert!(theirs.code != 0 || theirs.out.contains("(null)"), "{theirs:?}");
    }
    COMPARED.fetch_add(3, Ordering::Relaxed);
    INTENDED.fetch_add(3, Ordering::Relaxed);
}

fn exhaustive(lab: &mut Lab) {
    lab.reset();
    for line in generate::every_option_with_every_command() {
        lab.compare_words(&line);
    }
}

const SEED: u64 = 31;

/// Any lines, one upon the other.
fn generated(lab: &mut Lab) {
    println!("seed {SEED}");
    let mut random = Random(SEED);
    for round in 0..320 {
        if round % 12 == 0 {
            lab.reset();
        }
        let line = random.line();
        // (1): what may change a destination has a part of its own, edits().
        if line.iter().any(|word| word.starts_with("-e") || word.starts_with("--edit-server")) {
            lab.reset();
        }
        lab.compare_words(&line);
        if line.iter().any(|word| word.contains("-daemon")) {
            reader::let_daemons_begin();
        }
    }
}

/// Lines that the kernel takes: of services and destinations that are there.
fn edits(lab: &mut Lab) {
    let mut random = Random(SEED);
    let services = ["-t 1.2.3.4:80", "-u [2001:db8::1]:53", "-f 7", "-f 7 -6", "--sctp-service 1.2.3.4:9"];
    for _ in 0..50 {
        let service = random.pick(&services);
        let v6 = service.contains("-6") || service.contains('[');
        let port = if service.starts_with("-f") { 0 } else { service.rsplit(':').next().unwrap().parse().unwrap() };
        let how = [
            "-g",
            "-m",
            "-i --tun-type ipip",
            "-i --tun-type gue --tun-port 99 --tun-remcsum",
            "-i --tun-type gre --tun-csum",
        ];
        let ip = if v6 { "[2001:db8::9]" } else { "10.0.0.9" };
        let before = [
            random.pick(&how).to_owned(),
            format!("-w {}", random.below(9)),
            format!("-x {}", 50 + random.below(9)),
            format!("-y {}", random.below(9)),
        ];
        lab.reset();
        let add = |scheduler: &str| words(&format!("-A {service} -s {scheduler}"));
        let server = format!("{service} -r {ip}:{port}");
        lab.prepare(&[add("rr"), words(&format!("-a {server} {}", before.join(" ")))]);

        // Each part is named or not. ipvsadm has to be given all.
        let after = [
            random.pick(&how).to_owned(),
            format!("-w {}", random.below(2147483647)),
            format!("-x {}", 50 + random.below(999)),
            format!("-y {}", random.below(50)),
        ];
        let mut named = format!("-e {server}");
        let mut all = named.clone();
        for (before, after) in before.iter().zip(&after) {
            let is_named = random.below(2) == 0;
            if is_named {
                named += &format!(" {after}");
            }
            all += &format!(" {}", if is_named { after } else { before });
        }
        lab.compare_as(&words(&named), &words(&all), "");
        let scheduler = random.pick(&["lc", "wlc -p 9", "rr -p 8 --pe sip", "lc -b flag-1", "nosuch"]);
        lab.compare(&format!("-E {service} -s {scheduler}"));
        lab.compare(&match random.below(3) {
            0 => format!("-d {server}"),
            1 => format!("-D {service}"),
            _ => format!("-Ln {}", random.pick(&["--thresholds", "--tun-info", "--persistent-conn"])),
        });
    }
}

/// `ipvsadm -Sn` -> Table -> print is the identity; restored by either program the table is the
/// same, and is saved the same. Not of tables whose own save ipvsadm cannot read: (7), (8).
fn round_trips(lab: &mut Lab) {
    let mut random = Random(SEED);
    let (save, restore) = (words("-Sn"), words("-R"));
    for _ in 0..12 {
        lab.reset();
        let made = theirs(&restore, &random.table());
        assert!(made.code == 0 && made.err.is_empty(), "{made:?}");
        let saved = theirs(&save, "").out;
        assert_eq!(ours(&save, "").out, saved);
        assert_eq!(ours(&words("-Ln"), ""), theirs(&words("-Ln"), ""));
        COMPARED.fetch_add(2, Ordering::Relaxed);

        // A table has an order of its own.
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort_unstable();
            lines
        };
        let table: Table = saved.parse().unwrap();
        assert_eq!(sorted(&table.to_string()), sorted(&saved));
        assert_eq!(table.to_string().parse::<Table>().unwrap(), table);

        // From theirs to ours, and back.
        for (text, program) in [(&saved, true), (&table.to_string(), true), (&saved, false)] {
            lab.there.reset();
            let restored = if program { lab.ours(&restore, text) } else { lab.theirs_there(&restore, text) };
            assert!(restored.code == 0 && restored.err.is_empty(), "{restored:?}");
            assert_eq!(lab.here.read(), lab.there.read());
            COMPARED.fetch_add(1, Ordering::Relaxed);
        }
        assert_eq!(lab.theirs_there(&save, "").out, saved);
        // Again, over what is there: the same, and nothing is to be done.
        let again = lab.ours(&words("-R --dry-run"), &format!("-C\n{saved}"));
        assert_eq!((again.code, again.out.as_str()), (0, ""), "{again:?}");
    }

    // The order of addresses and marks from all over.
    for _ in 0..4 {
        lab.reset();
        let mut text = String::new();
        for _ in 0..60 {
            let mut address = || std::net::Ipv4Addr::from_bits(random.below(1 << 31) as u32 * 2 + 3);
            let service = format!("-t {}:80", address());
            text += &format!("-A {service} -s rr\n");
            (0..4).for_each(|_| text += &format!("-a {service} -r {} -i\n", address()));
            text += &format!("-A -f {} -s rr\n", 1 + random.below(1 << 31));
            text += &format!("-A -t [{:x}:{:x}::1]:80 -s rr\n", random.below(1 << 16), random.below(1 << 16));
        }
        // Addresses that are no host's are refused.
        theirs(&restore, &text);
        for line in ["-Sn", "-Ln", "-Ln --nosort"] {
            lab.there.reset();
            let (theirs, ours) = (theirs(&words(line), ""), ours(&words(line), ""));
            assert_eq!(ours, expected(theirs, &words(line)));
            COMPARED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What `ipvsadm -R` takes for the same, however it is spelt, is the same table. (4) A comment is
/// one in both of ours.
fn spellings(lab: &mut Lab) {
    let mut random = Random(SEED);
    let restore = words("-R");
    for _ in 0..40 {
        lab.reset();
        let plain = random.table();
        let spelt: String = plain.lines().map(|line| random.respell(line) + "\n").collect();
        let made = theirs(&restore, &spelt);
        assert!(made.code == 0 && made.err.is_empty(), "{made:?}\n{spelt}");
        let commented = spelt.replace('\n', " # -w 7\n");
        let restored = lab.ours(&restore, &commented);
        assert!(restored.code == 0 && restored.err.is_empty(), "{restored:?}\n{commented}");
        assert_eq!(lab.here.read(), lab.there.read());
        lab.there.reset();
        lab.theirs_there(&restore, &plain);
        assert_eq!(lab.here.read(), lab.there.read());

        let table: Table = plain.parse().unwrap();
        for text in [spelt, commented] {
            assert_eq!(text.parse::<Table>().unwrap_or_else(|e| panic!("{e}\n{text}")), table, "{text}");
        }
        COMPARED.fetch_add(2, Ordering::Relaxed);
    }
}

/// Connections, counters and rates.
fn traffic(lab: &mut Lab) {
    lab.reset();
    ip("addr add 10.9.9.2/24 dev d0");
    let set_up = "\
-A -t 10.9.9.1:80 -s rr -p 60
-a -t 10.9.9.1:80 -r 10.9.9.2:80 -m
-A -u 10.9.9.1:53 -s rr
-a -u 10.9.9.1:53 -r 10.9.9.2:53 -m
-A -u 10.9.9.1:5060 -s rr -p 60 --pe sip
-a -u 10.9.9.1:5060 -r 10.9.9.2:5060 -m
";
    assert_eq!(ours(&words("-R"), set_up).code, 0);
    let listener = TcpListener::bind("10.9.9.2:80").unwrap();
    let sip = UdpSocket::bind("10.9.9.2:5060").unwrap();
    let dns = UdpSocket::bind("10.9.9.2:53").unwrap();
    let streams: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect("10.9.9.1:80").unwrap()).collect();
    let accepted: Vec<TcpStream> = (0..3).map(|_| listener.accept().unwrap().0).collect();
    let client = UdpSocket::bind("10.9.9.1:0").unwrap();
    client.send_to(&[7; 100], "10.9.9.1:53").unwrap();
    let call = |id: &str| {
        format!("REGISTER sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP c\r\nCall-ID: {id}\r\nContent-Length: 0\r\n\r\n")
    };
    // Each call from a port of its own: the first packet is what counts.
    let callers: Vec<UdpSocket> = (0..2).map(|_| UdpSocket::bind("10.9.9.1:0").unwrap()).collect();
    callers[0].send_to(call("abc@host").as_bytes(), "10.9.9.1:5060").unwrap();

    // Time goes on between the two: again, if need be.
    let compare = |line: &str| {
        let line = words(line);
        for attempt in 0.. {
            let (a, b) = (ours(&line, ""), theirs(&line, ""));
            if a == b {
                COMPARED.fetch_add(1, Ordering::Relaxed);
                return a.out;
            }
            assert!(attempt < 20, "{line:?}\n  theirs: {b:?}\n  ours: {a:?}");
        }
        unreachable!()
    };
    let listed = compare("-Lnc --persistent-conn");
    assert!(listed.contains("ESTABLISHED") && listed.contains("sip                abc@host"), "{listed}");
    for line in ["-Lnc", "-Lc", "-Ln", "-L", "-Ln --persistent-conn"] {
        compare(line);
    }
    // The kernel counts every two seconds.
    sleep(Duration::from_secs(3));
    let counted = compare("-Ln --stats");
    assert!(counted.contains(" 3 "), "{counted}");
    for line in ["-Ln --rate", "-L --rate --exact", "-Ln --stats --exact", "-L -t 10.9.9.1:80 --stats"] {
        compare(line);
    }
    // (10)
    let long = format!("{}@host", "z".repeat(190));
    callers[1].send_to(call(&long).as_bytes(), "10.9.9.1:5060").unwrap();
    let line = words("-Lnc --persistent-conn");
    let (a, b) = (ours(&line, "").out, theirs(&line, "").out);
    COMPARED.fetch_add(1, Ordering::Relaxed);
    INTENDED.fetch_add(1, Ordering::Relaxed);
    assert!(a.contains(&format!(" {long}\n")), "{a}");
    assert_eq!(a.lines().count() + 1, b.lines().count(), "{a}\n{b}");
    drop((streams, accepted, sip, dns));
    lab.reset();
}

/// Some lines by the built program: standard streams, argv[0], exit codes.
fn the_program_itself(lab: &mut Lab) {
    let path = built();
    let mine = |words: &[String], input: &str| {
        let mut command = Command::new(&path);
        std::os::unix::process::CommandExt::arg0(&mut command, "ipvsadm");
        run(command, words, input)
    };
    lab.reset();
    let input = "-A -t 1.2.3.4:80 -s rr\n-a -t 1.2.3.4:80 -r 10.0.0.1:80 -m -w 3\n";
    assert_eq!(mine(&words("-R"), input), theirs(&words("-R"), ""));
    for line in ["", "-Ln", "-Sn", "-L -t 9.9.9.9:9", "-A -t 1.2.3.4:80", "-q", "-C extra", "-v", "-L --timeout"] {
        let line = words(line);
        assert_eq!(mine(&line, ""), theirs(&line, ""), "{line:?}");
        COMPARED.fetch_add(1, Ordering::Relaxed);
    }

    // The two scripts.
    let script = |name: &str, words: &[String], input: &str| {
        let mut command = Command::new(&path);
        std::os::unix::process::CommandExt::arg0(&mut command, format!("/usr/sbin/{name}"));
        run(command, words, input)
    };
    let saved = script("ipvsadm-save", &words("-n"), "");
    assert_eq!(saved, theirs(&words("-Sn"), ""));
    assert_eq!(script("ipvsadm-save", &words("-x"), "").code, 1);
    let restored = script("ipvsadm-restore", &[], "# saved\n-A -f 1 -s rr\n");
    assert_eq!((restored.code, theirs(&words("-Sn"), "").out.as_str()), (0, "-A -f 1 -s rr\n"), "{restored:?}");
    COMPARED.fetch_add(2, Ordering::Relaxed);

    // (12), and a reader that has gone.
    let full = Command::new(&path).arg("-Sn").stdout(std::fs::File::create("/dev/full").unwrap()).output().unwrap();
    assert_eq!(full.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&full.stderr).starts_with("cannot write the output: No space left"), "{full:?}");

    // (16), and without privileges.
    let nobody = |line: &str| {
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"])
            .arg(&path)
            .args(words(line))
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(nobody("-v"), (Some(0), String::new()));
    let (code, message) = nobody("-Ln");
    assert_eq!(code, Some(2), "{message}");
    assert_eq!(
        message,
        "Can't initialize ipvs: Permission denied (you must be root)\nAre you sure that IP Virtual Server is built in the kernel or as module?\n"
    );
    INTENDED.fetch_add(2, Ordering::Relaxed);
    COMPARED.fetch_add(2, Ordering::Relaxed);
}

/// `cargo test` builds examples too.
fn built() -> PathBuf {
    let path = std::env::current_exe().unwrap().parent().unwrap().join("../examples/ipvsadm");
    assert!(path.exists(), "{} is missing: `cargo build --example ipvsadm` makes it", path.display());
    path
}
