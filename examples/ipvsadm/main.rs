//! `ipvsadm`: the program of that name (1.31), built on this crate. The same commands and options,
//! the same output to the byte, the same exit codes; so what calls ipvsadm (ldirectord, scripts)
//! can call this. tests/differential runs both.
//!
//! # What it does otherwise, on purpose
//!
//! The numbers stand in the differential test too.
//!
//! 1. `-e` changes what it names and keeps the rest: ipvsadm sets the method to `-g`, thresholds
//!    to 0, the weight to 1. A method that is named (`-g`, `-i`, `-m`) comes with the tunnel
//!    options of the line, as there. `-E` still sets everything: ldirectord ends persistence by
//!    leaving `-p` out.
//! 2. `-e` without a method finds a destination by the port that is given. ipvsadm takes the
//!    service's port instead, and so edits another destination, or none.
//! 3. `-R` does all or nothing, in one go, and says which line is wrong (`line 3: …`) and that
//!    nothing was changed. Its exit code is 0 only if all was done. ipvsadm does it line by line,
//!    leaves half a table behind, and may exit with 0 all the same. `-L`, `-S`, `-h`, `-v` and
//!    `-R` in a line are refused; `-Z` comes after the other changes.
//! 4. `#` begins a comment in what `-R` reads.
//! 5. `-b ,` is refused with a message; ipvsadm crashes.
//! 6. Tunnel flags that ipvsadm does not know crash neither `-S` nor `--tun-info`. Services of
//!    protocols that ipvsadm cannot set are not listed (there: `?`); forwarding methods and tunnel
//!    types that it does not know are saved by their numbers (there: `(null)`, nothing), which
//!    neither reads again.
//! 7. Firewall marks from 2147483648 on are positive.
//! 8. The third flag of the schedulers sh and mh is `flag-3`; there it is an empty word, which
//!    `-R` does not read.
//! 9. Counters and rates of destinations have 64 bits.
//! 10. `-L -c`: persistence engine data is told in full; there it makes rows of its own.
//! 11. `-S` writes numbers, with and without `-n`: no name is looked up, none is cut.
//! 12. Output that cannot be written (a full disk) is an error, exit code 1.
//! 13. The last line of `-R` counts even if it ends in blanks and has no end of line.
//! 14. A list is of one moment, even while the table changes.
//! 15. Nothing waits for ever for the kernel's answer.
//! 16. `-h`, `-v` and messages about the command line need neither root nor the kernel's module.
//!     The text of `-h` is another.
//! 17. `-p` with `-M 0.0.0.0`, which makes one client of all, is refused: with an illegal
//!     netmask's message.
//!
//! Nobody should see these: ports have names in /etc/services only, whatever nsswitch.conf(5)
//! says; `POSIXLY_CORRECT` is not looked at; words of `-R` above 4096 octets are not cut. Listings
//! are sorted as by glibc up to 2.36, see `order.rs`.
//!
//! Added: `--json` (with `-L` and `-S`), `--dry-run` (with whatever changes the table: prints the
//! changes, makes none). Called as `ipvsadm-save` or `ipvsadm-restore` it is these; the latter
//! changes what differs, in place of clearing the table first.

// As a module by its path its own modules lie beside it, here and in the test that calls it.
#[path = "program.rs"]
mod program;

use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    // In one piece at the end, as ipvsadm: nobody sees half of an output.
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = program::main_with(std::env::args_os(), &mut io::stdin().lock(), &mut out, &mut err);
    let written = io::stdout().write_all(&out).and_then(|()| io::stdout().flush());
    let _ = io::stderr().write_all(&err);
    match written {
        Ok(()) => ExitCode::from(code),
        // Whoever reads it has enough: `ipvsadm -L | head -1`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(io::stderr(), "cannot write the output: {error}");
            ExitCode::from(1)
        }
    }
}
