//! Events as lines, in the forms of `tracing-subscriber`, in a third of the time: there is one a
//! call. Text: `TIME LEVEL TARGET: MESSAGE KEY=VALUE ...`; JSON: `timestamp`, `level`, `fields` and
//! `target`. There are no spans.
//!
//! A line is put together in a string of its own and handed on whole: each piece that passed
//! through the library's writer would cost more than it takes to write.

use std::cell::Cell;
use std::fmt::{self, Debug, Write};
use std::time::SystemTime;

use humantime::format_rfc3339_micros;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::LogFormat;

/// The field that holds an event's message.
const MESSAGE: &str = "message";

/// The target of what the log says of itself.
const TARGET: &str = "culvert_process::log";

/// Most bytes of room that a thread keeps for its next line.
const MAX_KEPT: usize = 16 * 1024;

thread_local! {
    /// Where a thread's lines are put together.
    static LINE: Cell<String> = const { Cell::new(String::new()) };
}

/// One line for each event, in this form.
pub(super) struct EventLines(pub(super) LogFormat);

impl<S, N> FormatEvent<S, N> for EventLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // Taken, and not borrowed: showing a value may say something in its turn.
        let mut line = LINE.take();
        let written = match self.0 {
            LogFormat::Text => text(&mut line, event),
            LogFormat::Json => json(&mut line, event),
        };
        let written = written.and_then(|()| out.write_str(&line));
        if line.capacity() <= MAX_KEPT {
            line.clear();
            LINE.set(line);
        }
        written
    }
}

fn now() -> impl fmt::Display {
    format_rfc3339_micros(SystemTime::now())
}

fn text(line: &mut String, event: &Event<'_>) -> fmt::Result {
    let meta = event.metadata();
    write!(line, "{}", now())?;
    line.push_str(match *meta.level() {
        Level::ERROR => " ERROR ",
        Level::WARN => "  WARN ",
        Level::INFO => "  INFO ",
        Level::DEBUG => " DEBUG ",
        Level::TRACE => " TRACE ",
    });
    line.push_str(meta.target());
    line.push(':');
    let mut fields = TextFields {
        line,
        result: Ok(()),
    };
    event.record(&mut fields);
    fields.result?;
    line.push('\n');
    Ok(())
}

struct TextFields<'l> {
    line: &'l mut String,
    result: fmt::Result,
}

impl TextFields<'_> {
    /// Writes what stands before a value: its name, unless it is the message.
    fn begin(&mut self, field: &Field) -> &mut String {
        self.line.push(' ');
        if field.name() != MESSAGE {
            self.line.push_str(name(field));
            self.line.push('=');
        }
        self.line
    }
}

/// Names that are Rust's own words come with a mark.
fn name(field: &Field) -> &'static str {
    let name = field.name();
    name.strip_prefix("r#").unwrap_or(name)
}

impl Visit for TextFields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        let line = self.begin(field);
        if field.name() == MESSAGE {
            let start = line.len();
            line.push_str(value);
            escape(line, start);
        } else if is_plain(value) {
            push_quoted(line, value);
        } else {
            let result = write!(line, "{value:?}");
            self.result = self.result.and(result);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        push_digits(self.begin(field), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        push_digits(self.begin(field), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.begin(field)
            .push_str(if value { "true" } else { "false" });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let line = self.begin(field);
        let start = line.len();
        let result = write!(line, "{value:?}");
        escape(line, start);
        self.result = self.result.and(result);
    }
}

fn push_digits(line: &mut String, number: impl itoa::Integer) {
    line.push_str(itoa::Buffer::new().format(number));
}

/// What is [plain](is_plain), in quotes.
fn push_quoted(line: &mut String, plain: &str) {
    line.push('"');
    line.push_str(plain);
    line.push('"');
}

/// Printable ASCII that `Debug` writes as it is.
fn is_plain(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\')
}

/// Turns control characters behind `start` into escapes, so that nobody can write a line, or move
/// a terminal's cursor, in our name.
fn escape(line: &mut String, start: usize) {
    let is_control = |char: char| char.is_control() && char != '\t';
    // Nearly always all is plain, which takes a look at each byte.
    let plain = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t');
    if line.as_bytes()[start..].iter().all(plain) || !line[start..].contains(is_control) {
        return;
    }
    let raw = line.split_off(start);
    for char in raw.chars() {
        match is_control(char) {
            true => line.extend(char.escape_default()),
            false => line.push(char),
        }
    }
}

fn json(line: &mut String, event: &Event<'_>) -> fmt::Result {
    let meta = event.metadata();
    write!(line, r#"{{"timestamp":"{}""#, now())?;
    line.push_str(r#","level":""#);
    line.push_str(meta.level().as_str());
    line.push_str(r#"","fields":{"#);
    let mut fields = JsonFields {
        line,
        first: true,
        result: Ok(()),
    };
    event.record(&mut fields);
    fields.result?;
    // Targets are ours, and need no escapes.
    line.push_str(r#"},"target":""#);
    line.push_str(meta.target());
    line.push_str("\"}\n");
    Ok(())
}

/// The line that says that so many are missing. It is made where no event can be: whoever writes the
/// log cannot wait for it.
pub(super) fn lost(format: LogFormat, lost: u64) -> String {
    let now = now();
    let message = format!(
        "{lost} lines were lost: the log could not be written, or not as fast as they came"
    );
    match format {
        LogFormat::Text => format!("{now}  WARN {TARGET}: {message} lost={lost}\n"),
        LogFormat::Json => {
            format!(
                r#"{{"timestamp":"{now}","level":"WARN","fields":{{"message":"{message}","lost":{lost}}},"target":"{TARGET}"}}"#
            ) + "\n"
        }
    }
}

struct JsonFields<'l> {
    line: &'l mut String,
    first: bool,
    result: fmt::Result,
}

impl JsonFields<'_> {
    /// Writes what stands before a value.
    fn begin(&mut self, field: &Field) -> &mut String {
        if !std::mem::take(&mut self.first) {
            self.line.push(',');
        }
        self.line.push('"');
        self.line.push_str(name(field));
        self.line.push_str("\":");
        self.line
    }

    /// Writes a field whose value is JSON already.
    fn field(&mut self, field: &Field, value: impl fmt::Display) {
        let result = write!(self.begin(field), "{value}");
        self.result = self.result.and(result);
    }
}

impl Visit for JsonFields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if is_plain(value) {
            push_quoted(self.begin(field), value);
        } else {
            self.field(field, serde_json::Value::from(value));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        push_digits(self.begin(field), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        push_digits(self.begin(field), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field, serde_json::Value::from(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let line = self.begin(field);
        line.push('"');
        let start = line.len();
        let result = write!(line, "{value:?}");
        if is_plain(&line[start..]) {
            line.push('"');
        } else {
            // With its quotes.
            let value = serde_json::Value::from(line.split_off(start));
            line.pop();
            line.push_str(&value.to_string());
        }
        self.result = self.result.and(result);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Out(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Out {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    /// What a log of this form says of a few events.
    fn said(format: impl FnOnce(Out) -> Box<dyn Subscriber + Send + Sync>) -> String {
        let out = Out::default();
        let subscriber = format(out.clone());
        tracing::subscriber::with_default(subscriber, || {
            let error = io::Error::other("it \"broke\"\nhere");
            tracing::info!(target: "culvert::access", call = %"ab12", path = "/a b", status = 200,
                none = None::<u64>, ok = true, less = -1, quoted = "x\"y\n", odd = ?Some("q"));
            tracing::warn!(%error, r#type = 1.5, "went {}\n\u{1b}[2J away", "wrong");
        });
        String::from_utf8(out.0.lock().unwrap().clone()).unwrap()
    }

    fn builder(
        out: Out,
    ) -> tracing_subscriber::fmt::SubscriberBuilder<
        tracing_subscriber::fmt::format::DefaultFields,
        tracing_subscriber::fmt::format::Format,
        tracing_subscriber::filter::LevelFilter,
        Out,
    > {
        tracing_subscriber::fmt().with_ansi(false).with_writer(out)
    }

    /// Without the time, whose form is the same as long as it is of the same length.
    fn without_times(text: &str) -> Vec<(usize, &str)> {
        let lines = text.lines();
        lines
            .map(|line| (line.find(' ').unwrap(), line.split_once(' ').unwrap().1))
            .collect()
    }

    #[test]
    fn text_is_that_of_the_library_but_for_control_characters() {
        let ours = said(|out| {
            Box::new(
                builder(out)
                    .event_format(EventLines(LogFormat::Text))
                    .finish(),
            )
        });
        let theirs = said(|out| Box::new(builder(out).finish()));
        assert_eq!(ours.lines().count(), 2, "{ours}");
        assert!(!ours.contains('\u{1b}'), "{ours}");
        let (ours, theirs) = (without_times(&ours), without_times(&theirs));
        assert_eq!(ours[0], theirs[0]);
        let start = r"went wrong\n\u{1b}[2J away error=";
        assert!(ours[1].1.contains(start), "{}", ours[1].1);
    }

    #[test]
    fn json_means_what_the_library_writes() {
        let ours = said(|out| {
            Box::new(
                builder(out)
                    .event_format(EventLines(LogFormat::Json))
                    .finish(),
            )
        });
        let theirs = said(|out| Box::new(builder(out).json().finish()));
        let parsed = |text: &str| -> Vec<Value> {
            let lines = text.lines();
            lines
                .map(|line| {
                    let mut line: Value = serde_json::from_str(line).unwrap();
                    let time = line["timestamp"].take();
                    assert!(humantime::parse_rfc3339(time.as_str().unwrap()).is_ok());
                    line
                })
                .collect()
        };
        assert_eq!(parsed(&ours), parsed(&theirs));
        assert_eq!(parsed(&ours)[0]["fields"]["status"], json!(200));
    }
}
