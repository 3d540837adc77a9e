//! What is written to standard error, and the count of what it did not take.

use std::io::{self, Write};

use super::{LogFormat, format};

/// Where lines go.
pub(super) struct Out {
    to: Box<dyn Write + Send>,
    format: LogFormat,
    /// Lines that were lost, which is not said yet.
    lost: u64,
    /// What was written last ended within a line.
    is_torn: bool,
}

impl Out {
    pub(super) fn new(to: impl Write + Send + 'static, format: LogFormat) -> Self {
        Self {
            to: Box::new(to),
            format,
            lost: 0,
            is_torn: false,
        }
    }

    /// Writes lines, beside which so many were lost. Where nobody can read a log, nobody can be told:
    /// what cannot be written (the disk is full) is lost too, and said once something can.
    pub(super) fn write(&mut self, lines: &[u8], lost: u64) {
        let rest = self.put(lines);
        let unwritten = rest.iter().filter(|byte| **byte == b'\n').count();
        self.lost += lost + unwritten as u64;
        if self.lost > 0 && rest.is_empty() {
            let notice = format::lost(self.format, self.lost);
            if self.put(notice.as_bytes()).is_empty() {
                self.lost = 0;
            }
        }
        let _ = self.to.flush();
    }

    /// Writes lines for as long as that works, on a line of their own, and returns the rest.
    fn put<'l>(&mut self, lines: &'l [u8]) -> &'l [u8] {
        if self.is_torn && !write_some(&mut self.to, b"\n").is_empty() {
            return lines;
        }
        let rest = write_some(&mut self.to, lines);
        let written = &lines[..lines.len() - rest.len()];
        self.is_torn = written.last().is_some_and(|last| *last != b'\n');
        rest
    }
}

/// Writes bytes for as long as that works, and returns the rest.
fn write_some<'b>(to: &mut impl Write, mut bytes: &'b [u8]) -> &'b [u8] {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => break,
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, MutexGuard};

    use serde_json::Value;

    use super::*;

    /// A disk, and how many bytes it still takes.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Disk {
        fn has_room_for(&self, bytes: usize) {
            self.inner().1 = bytes;
        }

        fn text(&self) -> String {
            String::from_utf8(self.inner().0.clone()).unwrap()
        }

        fn inner(&self) -> MutexGuard<'_, (Vec<u8>, usize)> {
            self.0.lock().unwrap()
        }
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (text, room) = &mut *self.inner();
            let taken = bytes.len().min(*room);
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            text.extend_from_slice(&bytes[..taken]);
            *room -= taken;
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_a_full_disk_does_not_take_is_counted_and_no_line_grows_out_of_a_torn_one() {
        let disk = Disk::default();
        let mut out = Out::new(disk.clone(), LogFormat::Text);
        disk.has_room_for(6);
        out.write(b"one\ntwo\nthree\n", 0);
        assert_eq!(disk.text(), "one\ntw");
        // Nothing at all is taken now.
        out.write(b"four\n", 1);
        assert_eq!(disk.text(), "one\ntw");
        // Nor is there room for the notice, which is torn in its turn.
        disk.has_room_for(10);
        out.write(b"five\n", 0);
        assert!(disk.text().starts_with("one\ntw\nfive\n"));
        disk.has_room_for(1000);
        out.write(b"six\n", 0);
        out.write(b"seven\n", 0);
        let text = disk.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 7, "{text}");
        assert_eq!((lines[0], lines[1], lines[2]), ("one", "tw", "five"));
        assert_eq!((lines[4], lines[6]), ("six", "seven"));
        assert!(lines[5].contains("  WARN "), "{text}");
        assert!(lines[5].contains("4 lines were lost"), "{text}");
        assert!(lines[5].ends_with(" lost=4"), "{text}");
    }

    #[test]
    fn that_lines_were_lost_is_an_event_like_any_other_for_whoever_reads_json() {
        let disk = Disk::default();
        disk.has_room_for(1000);
        Out::new(disk.clone(), LogFormat::Json).write(b"{}\n", 3);
        let text = disk.text();
        let event: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
        assert_eq!(event["level"], "WARN");
        assert_eq!(event["fields"]["lost"], 3);
        assert_eq!(event["target"], "culvert_process::log");
        let message = event["fields"]["message"].as_str().unwrap();
        assert!(message.contains("3 lines were lost"), "{message}");
        let time = event["timestamp"].as_str().unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
    }
}
