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

/// The field that holds an event's message.
const MESSAGE: &str = "message";

/// One line of text for each event.
pub(super) struct TextLines;

impl<S, N> FormatEvent<S, N> for TextLines
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
        let meta = event.metadata();
        let time = format_rfc3339_micros(SystemTime::now());
        write!(out, "{time} {:>5} {}:", meta.level(), meta.target())?;
        let mut fields = TextFields {
            out: &mut out,
            result: Ok(()),
        };
        event.record(&mut fields);
        fields.result?;
        out.write_char('\n')
    }
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
        let name = field.name();
        self.result = if name == MESSAGE {
            self.out.write_char(' ')
        } else {
            (|| {
                self.out.write_char(' ')?;
                self.out.write_str(name.trim_start_matches("r#"))?;
                self.out.write_char('=')
            })()
        }
        .and_then(|()| value(self.out));
    }
}

impl Visit for TextFields<'_, '_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        let message = field.name() == MESSAGE;
        self.field(field, |out| {
            if message {
                write!(out, "{}", Escaped(value))
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

/// Text without control characters: they are written as escapes, so that nobody can write a line,
/// or move a terminal's cursor, in our name.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

/// Writes through, with control characters as escapes.
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

/// One JSON object for each event.
pub(super) struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
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
        let meta = event.metadata();
        let time = format_rfc3339_micros(SystemTime::now());
        write!(
            out,
            r#"{{"timestamp":"{time}","level":"{}","fields":{{"#,
            meta.level()
        )?;
        let mut fields = JsonFields {
            out: &mut out,
            text: String::new(),
            first: true,
            result: Ok(()),
        };
        event.record(&mut fields);
        fields.result?;
        // Targets are ours, and need no escapes.
        writeln!(out, r#"}},"target":"{}"}}"#, meta.target())
    }
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
        let ours = said(|out| Box::new(builder(out).event_format(TextLines).finish()));
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
        let ours = said(|out| Box::new(builder(out).event_format(JsonLines).finish()));
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
