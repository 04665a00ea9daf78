//! Command lines at random, the same in every run: right ones, wrong ones, and those at the edge.

/// Knuth's MMIX generator.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn percent(&mut self, share: usize) -> bool {
        self.below(100) < share
    }

    pub fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

pub type Words = Vec<String>;

pub fn words(line: &str) -> Words {
    line.split_whitespace().map(|word| if word == "''" { String::new() } else { word.to_owned() }).collect()
}

const NUMBERS: &[&str] = &[
    "0",
    "1",
    "5",
    "80",
    "255",
    "256",
    "65535",
    "65536",
    "2147483647",
    "2147483648",
    "-1",
    "",
    "x",
    " 7",
    "7 ",
    "+3",
    "007",
    "0x10",
    "4294967296",
    "99999999999999999999",
];
const ADDRESSES: &[&str] = &[
    "10.0.0.1",
    "10.0.0.2",
    "1.2.3.4",
    "192.168.1.1",
    "200.1.2.3",
    "127.0.0.1",
    "10.1",
    "0x0a000001",
    "010.0.0.1",
    "1.2.3.256",
    "224.0.0.1",
    "0.0.0.0",
    "localhost",
    "nohost.invalid",
    "1.2.3",
    "1.2.3.4.5",
    "",
    " 1.2.3.4",
    "1.2.3.4 x",
    "short",
];
const ADDRESSES6: &[&str] = &[
    "2001:db8::1",
    "::1",
    "2001:db8::2",
    "fe80::1",
    "::ffff:1.2.3.4",
    "::",
    "2001:db8:0:0:0:0:0:1",
    "2001:DB8::a",
    "::1%lo",
    ":::",
    "1:2:3:4:5:6:7:8:9",
    "::1.2.3.4",
    "::1:0",
];
const PORTS: &[&str] =
    &["80", "80", "443", "0", "65535", "65536", "http", "domain", "nosuch", "", "-1", "+80", " 80", "080", "53", "www"];
/// So few that lines meet.
const GOOD: &[&str] = &["10.0.0.1:80", "10.0.0.2:443", "1.2.3.4:53", "[2001:db8::1]:80", "10.0.0.1:0"];

impl Random {
    fn number(&mut self) -> &'static str {
        self.pick(NUMBERS)
    }

    fn rough_address(&mut self) -> String {
        match self.below(100) {
            0..62 => format!("{}:{}", self.pick(ADDRESSES), self.pick(PORTS)),
            62..70 => self.pick(ADDRESSES).into(),
            70..90 => format!("[{}]:{}", self.pick(ADDRESSES6), self.pick(PORTS)),
            90..95 => self.pick(ADDRESSES6).into(),
            _ => self
                .pick(&[
                    "80",
                    "[2001:db8::1]",
                    "[1.2.3.4]:80",
                    "[1.2.3.4:90]:80",
                    "1.2.3.4:80:90",
                    "[::1",
                    "::1]:80",
                    ":80",
                    "",
                ])
                .into(),
        }
    }

    /// An option with a value, in one of the ways to write it.
    fn value(&mut self, short: &str, long: &str, value: &str) -> Words {
        let long_way = short.is_empty();
        match self.below(100) {
            0..45 if long_way => vec![format!("--{long}"), value.into()],
            0..45 => vec![short.into(), value.into()],
            45..60 if !long_way => vec![format!("{short}{value}")],
            60..65 if !long_way => vec![format!("{short}={value}")],
            65..80 => vec![format!("--{long}"), value.into()],
            98.. => vec![if long_way { format!("--{long}") } else { short.into() }],
            _ => vec![format!("--{long}={value}")],
        }
    }

    fn flag(&mut self, short: &str, long: &str) -> Words {
        vec![if !short.is_empty() && self.percent(60) { short.into() } else { format!("--{long}") }]
    }

    fn service(&mut self) -> Words {
        if self.percent(22) {
            let number = self.number();
            let mark = self.pick(&["1", "7", "4294967295", "2147483648", number]);
            let mut service = self.value("-f", "fwmark-service", mark);
            if self.percent(40) {
                service.extend(self.flag("-6", "ipv6"));
            }
            return service;
        }
        let address = if self.percent(70) { self.pick(GOOD).into() } else { self.rough_address() };
        match self.below(10) {
            0..6 => self.value("-t", "tcp-service", &address),
            6..9 => self.value("-u", "udp-service", &address),
            _ => self.value("", "sctp-service", &address),
        }
    }

    fn server(&mut self) -> Words {
        let address = if self.percent(60) { self.pick(GOOD).into() } else { self.rough_address() };
        self.value("-r", "real-server", &address)
    }

    fn option(&mut self, which: usize) -> Words {
        let number = self.number();
        match which {
            0 => {
                let name =
                    self.pick(&["rr", "wrr", "sh", "mh", "wlc", "lc", "nosuch", "", "0123456789abcdefgh", "a b"]);
                self.value("-s", "scheduler", name)
            }
            1 => match self.below(3) {
                0 => words("-p"),
                1 => words("--persistent"),
                _ => {
                    let seconds = self.pick(&["60", "300", "2678400", "2678401", number]);
                    self.value("-p", "persistent", seconds)
                }
            },
            2 => {
                let mask = self.pick(&[
                    "255.255.255.0",
                    "255.255.255.255",
                    "64",
                    "128",
                    "129",
                    "24",
                    "x",
                    "",
                    "64x",
                    "255.0.0.0",
                ]);
                self.value("-M", "netmask", mask)
            }
            3 => {
                let engine = self.pick(&["sip", "nosuch", "", "x y"]);
                self.value("", "pe", engine)
            }
            4 => self.flag("-o", "ops"),
            5 => {
                let flags = self.pick(&[
                    "flag-1",
                    "flag-1,flag-2",
                    "sh-port",
                    "sh-fallback,sh-port",
                    "mh-port,mh-fallback",
                    "flag-4",
                    "flag-1,,flag-2",
                    "",
                    ",flag-1,",
                ]);
                self.value("-b", "sched-flags", flags)
            }
            6 => self.server(),
            7 => self.flag("-g", "gatewaying"),
            8 => self.flag("-m", "masquerading"),
            9 => self.flag("-i", "ipip"),
            10 => {
                let weight = self.pick(&["1", "100", number]);
                self.value("-w", "weight", weight)
            }
            11 => self.value("-x", "u-threshold", number),
            12 => self.value("-y", "l-threshold", number),
            13 => {
                let kind = self.pick(&["ipip", "gue", "gre", "foo", "GUE"]);
                self.value("", "tun-type", kind)
            }
            14 => {
                let port = self.pick(&["6080", number]);
                self.value("", "tun-port", port)
            }
            15 => words("--tun-nocsum"),
            16 => words("--tun-csum"),
            17 => words("--tun-remcsum"),
            18 => self.flag("-n", "numeric"),
            19 => self.flag("-c", "connection"),
            20 => words("--timeout"),
            21 => words("--daemon"),
            22 => words("--stats"),
            23 => words("--rate"),
            24 => words("--thresholds"),
            25 => words("--persistent-conn"),
            26 => words("--tun-info"),
            27 => words("--nosort"),
            28 => words("--sort"),
            29 => self.flag("-X", "exact"),
            30 => self.value("", "syncid", number),
            31 => {
                let interface = self.pick(&["nodev", "d0", "d0"]);
                self.value("", "mcast-interface", interface)
            }
            32 => {
                let group = self.pick(&["224.0.0.5", "10.0.0.1", "ff02::5", "2001:db8::1", "x", "239.1", ""]);
                self.value("", "mcast-group", group)
            }
            33 => self.value("", "mcast-port", number),
            34 => self.value("", "mcast-ttl", number),
            35 => self.value("", "sync-maxlen", number),
            36 => self.service(),
            _ => vec![
                self.pick(&[
                    "foo",
                    "-q",
                    "--foo",
                    "--",
                    "-",
                    "",
                    "-A",
                    "-L",
                    "--help",
                    "-v",
                    "--list",
                    "--num",
                    "-nq",
                    "-X=",
                    "--numeric=1",
                    "bar=1",
                ])
                .into(),
            ],
        }
    }

    /// Which options go with a command.
    fn fitting(&mut self, command: &str) -> Option<usize> {
        let (from, to) = match command {
            "-A" | "-E" => (0, 5),
            "-a" => (7, 17),
            "-e" => (7, 12),
            "-L" => (18, 29),
            "-S" => (18, 18),
            "--start-daemon" => (30, 35),
            "--stop-daemon" => (30, 30),
            _ => return None,
        };
        Some(from + self.below(to - from + 1))
    }

    /// Any line with this command.
    pub fn line(&mut self) -> Words {
        let command = match self.below(100) {
            0..30 => "-A",
            30..58 => "-a",
            58..63 => "-E",
            63..67 => "-D",
            67..72 => "-e",
            72..76 => "-d",
            76..87 => "-L",
            87..89 => "-S",
            89 => "-C",
            90..92 => "-Z",
            92 => "-R",
            93..95 => "--set",
            95..98 => "--start-daemon",
            _ => "--stop-daemon",
        };
        let mut parts: Vec<Words> = Vec::new();
        let about_service = ["-A", "-E", "-D", "-a", "-e", "-d"].contains(&command);
        if about_service && self.percent(95) || ["-L", "-Z"].contains(&command) && self.percent(30) {
            parts.push(self.service());
        }
        if ["-a", "-e", "-d"].contains(&command) && self.percent(95) {
            parts.push(self.server());
        }
        for _ in 0..[0, 1, 1, 2, 2, 3, 4][self.below(7)] {
            if let Some(option) = self.fitting(command) {
                parts.push(self.option(option));
            }
        }
        if self.percent(18) {
            let any = self.below(38);
            parts.push(self.option(any));
        }
        if self.percent(25) {
            for index in (1..parts.len()).rev() {
                let other = self.below(index + 1);
                parts.swap(index, other);
            }
        }
        let mut rest: Words = parts.concat();
        let first = match command {
            "--start-daemon" | "--stop-daemon" => {
                let role = self.pick(&["master", "backup", "master", "foo", ""]);
                self.value("", &command[2..], role)
            }
            "--set" => {
                for _ in 0..[3, 3, 3, 2, 4][self.below(5)] {
                    let number = self.number();
                    rest.push(self.pick(&["1", "0", "900", "2678400", number]).into());
                }
                words(command)
            }
            _ if self.percent(15) => {
                let long = match command {
                    "-A" => "--add-service",
                    "-E" => "--edit-service",
                    "-D" => "--delete-service",
                    "-a" => "--add-server",
                    "-e" => "--edit-server",
                    "-d" => "--delete-server",
                    "-L" => "--list",
                    "-S" => "--save",
                    "-C" => "--clear",
                    "-Z" => "--zero",
                    _ => "--restore",
                };
                words(long)
            }
            _ if self.percent(15) && rest.first().is_some_and(|next| next.len() > 1 && is_cluster(next)) => {
                vec![format!("{command}{}", &rest.remove(0)[1..])]
            }
            _ => words(command),
        };
        match self.percent(2) {
            true => rest.into_iter().chain(first).collect(),
            false => first.into_iter().chain(rest).collect(),
        }
    }

    /// A line of a table as people and other programs write it: options of a letter joined to each
    /// other and to their values, long ones with `=`, in another order.
    pub fn respell(&mut self, line: &str) -> String {
        const LONG: &[(&str, &str)] = &[
            ("-A", "--add-service"),
            ("-a", "--add-server"),
            ("-t", "--tcp-service"),
            ("-u", "--udp-service"),
            ("-f", "--fwmark-service"),
            ("-s", "--scheduler"),
            ("-p", "--persistent"),
            ("-M", "--netmask"),
            ("-r", "--real-server"),
            ("-w", "--weight"),
            ("-b", "--sched-flags"),
        ];
        let mut words = line.split(' ').peekable();
        // What stands in one place, and whether letters may follow it.
        let (mut spelt, mut open) = (String::new(), false);
        while let Some(option) = words.next() {
            let value = words.next_if(|word| !word.starts_with('-'));
            let is_letter = option.len() == 2;
            let long = LONG.iter().find(|(short, _)| *short == option).map(|(_, long)| *long);
            let joins = open && is_letter && self.percent(40);
            let name = match (joins, long) {
                (true, _) => option[1..].to_owned(),
                (false, Some(long)) if self.percent(30) => format!(" {long}"),
                _ => format!(" {option}"),
            };
            let is_long = name.starts_with(" --");
            spelt += &name;
            match value {
                Some(value) if is_long => spelt += &format!("{}{value}", self.pick(&["=", " "])),
                Some(value) => spelt += &format!("{}{value}", self.pick(&["", "=", " ", "\t"])),
                None => {}
            }
            open = is_letter && !is_long && value.is_none();
        }
        let before = self.pick(&["", "", " ", "ipvsadm "]);
        format!("{before}{}", spelt.trim_start())
    }

    /// A table that ipvsadm can express, save and read again, as commands. Addresses and marks lie
    /// so close together that their order is the same from wherever it is looked at; thresholds
    /// are not saved.
    pub fn table(&mut self) -> String {
        let mut text = String::new();
        for _ in 0..self.below(12) {
            let (mut service, v6, mark) = match self.below(10) {
                0..2 => (format!("-f {}", 1 + self.below(1 << 30)), false, true),
                2 => (format!("-f {} -6", 1 + self.below(1 << 30)), true, true),
                3..5 => (format!("-{} {}", self.pick(&["t", "u"]), self.good6()), true, false),
                5 => (format!("--sctp-service {}", self.good4()), false, false),
                _ => (format!("-{} {}", self.pick(&["t", "u"]), self.good4()), false, false),
            };
            if text.contains(&format!("-A {service} ")) {
                continue;
            }
            let all_ports = !mark && self.percent(10);
            if all_ports {
                let (host, _) = service.rsplit_once(':').unwrap();
                service = format!("{host}:0");
                if text.contains(&format!("-A {service} ")) {
                    continue;
                }
            }
            let scheduler =
                self.pick(&["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "fo", "ovf"]);
            text += &format!("-A {service} -s {scheduler}");
            if all_ports || self.percent(40) {
                text += &format!(" -p {}", 1 + self.below(2678400));
                if self.percent(50) {
                    text += &match v6 {
                        true => format!(" -M {}", 1 + self.below(128)),
                        false => format!(" -M {}", std::net::Ipv4Addr::from_bits(u32::MAX << self.below(32))),
                    };
                }
            }
            if self.percent(10) {
                text += " --pe sip";
            }
            if (mark || service.starts_with("-u")) && self.percent(40) {
                text += " -o";
            }
            let flags = match scheduler {
                "sh" => ["sh-fallback", "sh-port", "sh-fallback,sh-port"],
                "mh" => ["mh-fallback", "mh-port", "mh-fallback,mh-port"],
                _ => ["flag-1,flag-3", "flag-2", "flag-1,flag-2,flag-3"],
            };
            if self.percent(40) {
                text += &format!(" -b {}", self.pick(&flags));
            }
            text.push('\n');
            let mut servers = Vec::new();
            for _ in 0..self.below(8) {
                let tunnel = self.percent(40);
                let server = if v6 != (tunnel && self.percent(20)) { self.good6() } else { self.good4() };
                // With direct routing and tunnels the port is the service's.
                let host = server.rsplit_once(':').unwrap().0.to_owned();
                if servers.contains(&host) {
                    continue;
                }
                servers.push(host);
                let how = match (tunnel, self.below(4)) {
                    (false, 0..2) => "-g".into(),
                    (false, _) => "-m".into(),
                    (true, 0) => "-i".into(),
                    (true, 1) => format!("-i --tun-type gre {}", self.pick(&["--tun-csum", "--tun-nocsum"])),
                    (true, _) => {
                        let checksum = self.pick(&["--tun-csum", "--tun-nocsum", "--tun-remcsum"]);
                        format!("-i --tun-type gue --tun-port {} {checksum}", 1 + self.below(65535))
                    }
                };
                let weight = ["0", "1", "2147483647"][self.below(3)];
                text += &format!("-a {service} -r {server} {how} -w {weight}\n");
            }
        }
        text
    }

    fn good4(&mut self) -> String {
        format!(
            "{}.{}.{}.{}:{}",
            1 + self.below(120),
            self.below(256),
            self.below(256),
            1 + self.below(254),
            1 + self.below(65535)
        )
    }

    fn good6(&mut self) -> String {
        let groups: Words = (0..6).map(|_| format!("{:x}", [0, 0, self.below(1 << 15)][self.below(3)])).collect();
        let ip: std::net::Ipv6Addr = format!("2001:{}:{:x}", groups.join(":"), 1 + self.below(9)).parse().unwrap();
        format!("[{ip}]:{}", 1 + self.below(65535))
    }
}

fn is_cluster(word: &str) -> bool {
    word.starts_with('-') && !word.starts_with("--") && word.is_char_boundary(1)
}

/// Every option with every command: what finds a wrong rule.
pub fn every_option_with_every_command() -> Vec<Words> {
    let service = "-t 9.9.9.9:9";
    let server = "-t 9.9.9.9:9 -r 1.1.1.1";
    // -E takes what -A takes.
    let commands = [
        ("-A", service),
        ("-D", service),
        ("-a", server),
        ("-e", server),
        ("-d", server),
        ("-L", ""),
        ("-S", ""),
        ("-C", ""),
        ("-Z", ""),
        ("--set", "1 2 3"),
        ("--start-daemon", "master"),
        ("--stop-daemon", "master"),
        ("-R", ""),
    ];
    let options = [
        "-n",
        "-c",
        "-t 9.9.9.9:9",
        "-s rr",
        "-p 5",
        "-M 255.0.0.0",
        "-r 1.1.1.1",
        "-i",
        "-w 1",
        "-x 1",
        "-y 1",
        "--mcast-interface nodev",
        "--timeout",
        "--daemon",
        "--stats",
        "--rate",
        "--thresholds",
        "--persistent-conn",
        "--nosort",
        "--syncid 1",
        "-X",
        "-o",
        "--pe nosuch",
        "-b flag-1",
        "--mcast-group 224.0.0.1",
        "--mcast-port 5",
        "--mcast-ttl 5",
        "--sync-maxlen 5",
        "--tun-info",
        "--tun-type ipip",
        "--tun-port 5",
        "--tun-nocsum",
        "--tun-csum",
        "--tun-remcsum",
        "-6",
        "--sort",
    ];
    let mut lines = Vec::new();
    for (command, with) in commands {
        for option in options {
            let twice = option.get(..3).is_some_and(|name| ["-t ", "-r "].contains(&name) && with.contains(name));
            if !twice {
                lines.push(words(&format!("{command} {with} {option}")));
            }
        }
    }
    lines
}
