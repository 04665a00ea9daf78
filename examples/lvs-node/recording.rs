//! The file of a supervisor's record.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use lvs_dr::node::{Supervisor, SupervisorConfig};

/// A record that is written. The node is supervised whatever becomes of it.
pub struct Recording(io::Result<Option<BufWriter<File>>>);

impl Recording {
    /// Creates the file, and asks for a record. Without a path there is none.
    pub fn new(path: Option<&Path>, config: &mut SupervisorConfig) -> Self {
        let create = |path: &Path| {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            file.map(BufWriter::new)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        };
        let file = path.map(create).transpose();
        config.record = matches!(file, Ok(Some(_)));
        Recording(file)
    }

    /// Writes what was recorded.
    ///
    /// # Errors
    /// Those of the file, once each. Nothing is written after one.
    pub fn take(&mut self, supervisor: &mut Supervisor) -> io::Result<()> {
        let mut open = std::mem::replace(&mut self.0, Ok(None))?;
        while let Some(record) = supervisor.next_record() {
            let Some(file) = &mut open else { continue };
            serde_json::to_writer(&mut *file, &record)?;
            file.write_all(b"\n")?;
        }
        open.as_mut().map_or(Ok(()), Write::flush)?;
        self.0 = Ok(open);
        Ok(())
    }
}
