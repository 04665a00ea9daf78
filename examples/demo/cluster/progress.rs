//! The line that shows that something goes on.

use std::fmt::Display;
use std::io::{Write, stdout};
use std::time::{Duration, Instant};

/// On a terminal one line that is written over; elsewhere a plain line on stderr for each step.
pub(crate) struct Progress {
    terminal: bool,
    title: String,
    step: String,
    drawn: Instant,
}

impl Progress {
    const REDRAW: Duration = Duration::from_millis(200);

    pub(crate) fn new(terminal: bool, title: String) -> Self {
        Progress { terminal, title, step: String::new(), drawn: Instant::now() }
    }

    /// The next step has begun.
    pub(crate) fn step(&mut self, step: impl Display) {
        self.step = step.to_string();
        if self.terminal {
            self.write(&"");
        } else {
            eprintln!("[{}] {}", self.title, self.step);
        }
    }

    /// The step goes on; `detail` is what can be said at the moment.
    pub(crate) fn tick(&mut self, detail: impl Display) {
        if self.terminal && self.drawn.elapsed() >= Self::REDRAW {
            self.write(&detail);
        }
    }

    fn write(&mut self, detail: &dyn Display) {
        self.drawn = Instant::now();
        let mut out = stdout();
        // A progress line that cannot be shown is no reason to stop.
        let _ = write!(out, "\r\x1b[K[{}] {}  {detail}", self.title, self.step).and_then(|()| out.flush());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal {
            let _ = write!(stdout(), "\r\x1b[K").and_then(|()| stdout().flush());
        }
    }
}
