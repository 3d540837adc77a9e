//! Events as lines, in the forms of `tracing-subscriber`, in a fifth of the time: there is one a
//! call. Text: `TIME LEVEL TARGET: MESSAGE KEY=VALUE ...`; JSON: `timestamp`, `level`, `fields` and
//! `target`. There are no spans.

use std::fmt::{self, Debug, Write};
use std::time::SystemTime;

use humantime::format_rfc3339_micros;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::LogFormat;

/// The field that holds an event's message.
const MESSAGE: &str = "message";

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
        let time = format_rfc3339_micros(SystemTime::now());
        match self.0 {
            LogFormat::Text => text(&mut out, time, event),
            LogFormat::Json => json(&mut out, time, event),
        }
    }
}

fn text(out: &mut Writer<'_>, time: impl fmt::Display, event: &Event<'_>) -> fmt::Result {
    let meta = event.metadata();
    write!(out, "{time} {:>5} {}:", meta.level(), meta.target())?;
    let mut fields = TextFields {
        out,
        result: Ok(()),
    };
    event.record(&mut fields);
    fields.result?;
    out.write_char('\n')
}

struct TextFields<'w, 'a> {
    out: &'w mut Writer<'a>,
    result: fmt::Result,
}

impl TextFields<'_, '_> {
    /// Writes a field's name, then its value.
    fn field(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        if self.result.is_err() {
            return;
        }
        self.result = begin(self.out, field.name()).and_then(|()| value(self.out));
    }
}

/// Writes what stands before a value: its name, unless it is the message.
fn begin(out: &mut Writer<'_>, name: &str) -> fmt::Result {
    out.write_char(' ')?;
    if name != MESSAGE {
        out.write_str(name.trim_start_matches("r#"))?;
        out.write_char('=')?;
    }
    Ok(())
}

impl Visit for TextFields<'_, '_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        let message = field.name() == MESSAGE;
        self.field(field, |out| {
            if message {
                Escaping(out).write_str(value)
            } else if is_plain(value) {
                out.write_char('"')?;
                out.write_str(value)?;
                out.write_char('"')
            } else {
                write!(out, "{value:?}")
            }
        });
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, |out| write!(out, "{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, |out| write!(out, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, |out| write!(out, "{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.field(field, |out| write!(Escaping(out), "{value:?}"));
    }
}

/// Printable ASCII that `Debug` writes as it is.
fn is_plain(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\')
}

/// Writes through, with control characters as escapes, so that nobody can write a line, or move a
/// terminal's cursor, in our name.
struct Escaping<W>(W);

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let is_control = |char: char| char.is_control() && char != '\t';
        let mut rest = text;
        while let Some(at) = rest.find(is_control) {
            self.0.write_str(&rest[..at])?;
            let mut after = rest[at..].chars();
            if let Some(char) = after.next() {
                write!(self.0, "{}", char.escape_default())?;
            }
            rest = after.as_str();
        }
        self.0.write_str(rest)
    }
}

fn json(out: &mut Writer<'_>, time: impl fmt::Display, event: &Event<'_>) -> fmt::Result {
    let meta = event.metadata();
    write!(
        out,
        r#"{{"timestamp":"{time}","level":"{}","fields":{{"#,
        meta.level()
    )?;
    let mut fields = JsonFields {
        out,
        text: String::new(),
        first: true,
        result: Ok(()),
    };
    event.record(&mut fields);
    fields.result?;
    // Targets are ours, and need no escapes.
    writeln!(out, r#"}},"target":"{}"}}"#, meta.target())
}

struct JsonFields<'w, 'a> {
    out: &'w mut Writer<'a>,
    /// Where a value becomes text before it is escaped.
    text: String,
    first: bool,
    result: fmt::Result,
}

impl JsonFields<'_, '_> {
    /// Writes a field whose value is JSON already.
    fn field(&mut self, field: &Field, value: impl fmt::Display) {
        if self.result.is_ok() {
            let comma = if self.first { "" } else { "," };
            self.first = false;
            let name = field.name().trim_start_matches("r#");
            self.result = write!(self.out, r#"{comma}"{name}":{value}"#);
        }
    }

    fn string(&mut self, field: &Field, value: &str) {
        if is_plain(value) {
            self.field(field, format_args!("\"{value}\""));
        } else {
            self.field(field, serde_json::Value::from(value));
        }
    }
}

impl Visit for JsonFields<'_, '_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.string(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field, serde_json::Value::from(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        self.result = self.result.and_then(|()| write!(text, "{value:?}"));
        self.string(field, &text);
        self.text = text;
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
