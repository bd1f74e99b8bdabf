//! Where log lines go: a thread of its own writes them, so that a slow reader of the log, or a stuck one, delays no
//! request, and many lines cost one write.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait; further ones are lost, and counted.
const WAITING: usize = 8192;

/// As many bytes are written at once, about.
const CHUNK: usize = 64 << 10;

/// After a write the thread sleeps so long, so that under load nobody has to wake it for each line.
const NAP: Duration = Duration::from_millis(1);

/// The process's log, for [`flush_log`].
static LOG: OnceLock<BackgroundWriter> = OnceLock::new();

enum Message {
    Line(Vec<u8>),
    Flush(Sender<()>),
}

/// Hands lines to a thread that writes them. Clones share the thread, which ends with the last of them.
#[derive(Clone, Debug)]
pub(super) struct BackgroundWriter {
    messages: Sender<Message>,
    lost: Arc<AtomicU64>,
}

impl BackgroundWriter {
    /// Starts the thread.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (messages, inbox) = bounded(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let count = lost.clone();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write(out, &inbox, &count))?;
        Ok(Self { messages, lost })
    }

    /// Waits until what was handed over by now is written, but not for ever.
    fn flush(&self, limit: Duration) {
        let (done, written) = bounded(1);
        if self.messages.send_timeout(Message::Flush(done), limit).is_ok() {
            let _ = written.recv_timeout(limit);
        }
    }
}

/// The process's log: stdout.
pub(super) fn process_log() -> io::Result<BackgroundWriter> {
    let writer = BackgroundWriter::start(io::stdout())?;
    Ok(LOG.get_or_init(|| writer).clone())
}

/// Waits, a second at most, until all lines that were logged are written. For the end of the process.
pub fn flush_log() {
    if let Some(writer) = LOG.get() {
        writer.flush(Duration::from_secs(1));
    }
}

fn write(mut out: impl Write, inbox: &Receiver<Message>, lost: &AtomicU64) {
    let mut chunk = Vec::with_capacity(CHUNK);
    while let Ok(first) = inbox.recv() {
        let mut flushed = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Line(line) => chunk.extend_from_slice(&line),
                Message::Flush(done) => flushed.push(done),
            }
            next = if chunk.len() < CHUNK { inbox.try_recv().ok() } else { None };
        }
        // Nobody is left to be told that the log can't be written.
        let _ = out.write_all(&chunk).and_then(|()| out.flush());
        chunk.clear();
        for done in flushed {
            let _ = done.send(());
        }
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(lines = lost, "log lines are lost: whoever reads the log is too slow");
        }
        std::thread::sleep(NAP);
    }
}

impl Write for &BackgroundWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.messages.try_send(Message::Line(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for BackgroundWriter {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Writes into memory once the gate is open.
    struct Gated {
        gate: Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.gate.recv();
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_reader_costs_lines_and_not_time() {
        let (open, gate) = bounded(1);
        let written = Arc::new(Mutex::new(Vec::new()));
        let writer = BackgroundWriter::start(Gated { gate, written: written.clone() }).unwrap();
        let count = WAITING * 2;
        for number in 0..count {
            (&writer).write_all(format!("{number:08}\n").as_bytes()).unwrap();
        }
        let lost = writer.lost.load(Ordering::Relaxed);
        assert!(lost > 0 && lost < count as u64, "{lost}");
        assert!(written.lock().unwrap().is_empty());
        drop(open);
        writer.flush(Duration::from_secs(20));
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        // Whole lines, in their order.
        let numbers: Vec<usize> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert!(numbers.is_sorted() && numbers[0] == 0);
        assert_eq!(numbers.len() as u64 + lost, count as u64);
    }
}
