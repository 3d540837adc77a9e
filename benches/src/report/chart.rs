//! Charts as SVG: lines over an axis in numbers, drawn with nothing else.

use std::fmt::Write;

/// One line of a chart.
#[derive(Debug, Clone)]
pub struct Line {
    /// What it shows; lines of one name have one colour and one entry in the legend.
    pub name: String,
    /// Its points, in the units of the axes, in order of x.
    pub points: Vec<(f64, f64)>,
}

/// How an axis counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// From zero, evenly.
    Linear,
    /// By powers of ten.
    Log,
    /// Shares of one, by how little is left to one: 0.9, 0.99 and 0.999 are equally far apart.
    Nines,
}

/// A chart.
#[derive(Debug, Clone)]
pub struct Chart {
    /// What stands above it.
    pub title: String,
    /// What stands at the axes.
    pub x_label: String,
    /// The same of the vertical one.
    pub y_label: String,
    /// How they count.
    pub x: Scale,
    /// The same of the vertical one.
    pub y: Scale,
    /// What is drawn.
    pub lines: Vec<Line>,
}

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 42.0;

/// Classes of the page's style, one a name; further names begin again.
const COLOURS: usize = 8;

impl Chart {
    /// The drawing; `None` if no line has a point.
    pub fn svg(&self) -> Option<String> {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x = Axis::over(self.x, points().map(|point| point.0))?;
        let y = Axis::over(self.y, points().map(|point| point.1))?;
        let at_x = |value| LEFT + x.place(value) * (WIDTH - LEFT - RIGHT);
        let at_y = |value| HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{0}\">\
             <text class=\"title\" x=\"{LEFT}\" y=\"16\">{0}</text>",
            escape(&self.title)
        );
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for (value, label) in y.ticks() {
            let at = at_y(value);
            let _ = write!(
                svg,
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/>\
                 <text class=\"tick\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
                LEFT - 6.0,
                at + 3.5
            );
        }
        for (value, label) in x.ticks() {
            let at = at_x(value);
            let _ = write!(
                svg,
                "<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom}\"/>\
                 <text class=\"tick\" text-anchor=\"middle\" x=\"{at:.1}\" y=\"{:.1}\">{label}</text>",
                bottom + 15.0
            );
        }
        let _ = write!(
            svg,
            "<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>\
             <text class=\"label\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
             <text class=\"label\" text-anchor=\"middle\" transform=\"translate(12 {:.1}) rotate(-90)\">{}</text>",
            f64::midpoint(LEFT, right),
            HEIGHT - 8.0,
            escape(&self.x_label),
            f64::midpoint(TOP, bottom),
            escape(&self.y_label)
        );
        self.draw(&mut svg, at_x, at_y);
        svg.push_str("</svg>");
        Some(svg)
    }

    /// The lines and their legend.
    fn draw(&self, svg: &mut String, at_x: impl Fn(f64) -> f64, at_y: impl Fn(f64) -> f64) {
        let mut names: Vec<&str> = Vec::new();
        let mut legend = LEFT;
        for line in self.lines.iter().filter(|line| !line.points.is_empty()) {
            let known = names.iter().position(|name| *name == line.name);
            let colour = known.unwrap_or(names.len()) % COLOURS;
            if known.is_none() {
                names.push(&line.name);
                let _ = write!(
                    svg,
                    "<path class=\"line c{colour}\" d=\"M{legend:.1} 31h14\"/>\
                     <text class=\"tick\" x=\"{:.1}\" y=\"34.5\">{}</text>",
                    legend + 18.0,
                    escape(&line.name)
                );
                legend += 32.0 + 6.4 * line.name.chars().count() as f64;
            }
            let mut path = String::new();
            for (number, (x, y)) in line.points.iter().enumerate() {
                let step = if number == 0 { 'M' } else { 'L' };
                let _ = write!(path, "{step}{:.1} {:.1}", at_x(*x), at_y(*y));
            }
            if let [(x, y)] = line.points[..] {
                let _ = write!(
                    svg,
                    "<circle class=\"dot c{colour}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>",
                    at_x(x),
                    at_y(y)
                );
            } else {
                let _ = write!(svg, "<path class=\"line c{colour}\" d=\"{path}\"/>");
            }
        }
    }
}

/// The part of a scale that is drawn, in the scale's own measure.
#[derive(Debug)]
struct Axis {
    scale: Scale,
    from: f64,
    to: f64,
}

impl Axis {
    /// One that has room for all `values`.
    fn over(scale: Scale, values: impl Iterator<Item = f64>) -> Option<Self> {
        let (mut from, mut to) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.map(|value| measure(scale, value)) {
            (from, to) = (from.min(value), to.max(value));
        }
        if !from.is_finite() || !to.is_finite() {
            return None;
        }
        match scale {
            Scale::Linear => {
                from = from.min(0.0);
                to = to.max(from + 1e-9) * 1.05;
            }
            Scale::Log => (from, to) = (from.floor(), to.ceil().max(from.floor() + 1.0)),
            Scale::Nines => (from, to) = (from.floor(), to.max(from.floor() + 1.0)),
        }
        Some(Self { scale, from, to })
    }

    /// Where a value lies, 0 to 1.
    fn place(&self, value: f64) -> f64 {
        (measure(self.scale, value) - self.from) / (self.to - self.from)
    }

    /// Values to name, and their names.
    fn ticks(&self) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Linear => {
                let step = step((self.to - self.from) / 5.0);
                let count = ((self.to - self.from) / step) as usize;
                (0..=count)
                    .map(|number| self.from + step * number as f64)
                    .map(|value| (value, number(value)))
                    .collect()
            }
            Scale::Log => (self.from as i32..=self.to as i32)
                .map(|power| 10_f64.powi(power))
                .map(|value| (value, number(value)))
                .collect(),
            Scale::Nines => [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999]
                .into_iter()
                .filter(|share| measure(self.scale, *share) <= self.to + 1e-9)
                .map(|share| (share, format!("{}", (share * 1e5_f64).round() / 1e3)))
                .collect(),
        }
    }
}

fn measure(scale: Scale, value: f64) -> f64 {
    match scale {
        Scale::Linear => value,
        // What is nothing has no place among powers of ten; a thousandth is near enough.
        Scale::Log => value.max(1e-3).log10(),
        Scale::Nines => -(1.0 - value.min(0.999_999_9)).log10(),
    }
}

/// The next 1, 2 or 5 with zeros at or above `least`.
fn step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let factor = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|factor| factor * power >= least);
    factor.unwrap_or(10.0) * power
}

/// A tick's number, short.
fn number(value: f64) -> String {
    let short = |value: f64, unit: &str| {
        let text = format!("{:.2}", value);
        let text = text.trim_end_matches('0').trim_end_matches('.');
        format!("{text}{unit}")
    };
    match value.abs() {
        large if large >= 1e6 => short(value / 1e6, "M"),
        large if large >= 1e4 => short(value / 1e3, "k"),
        small if small > 0.0 && small < 0.01 => format!("{value}"),
        _ => short(value, ""),
    }
}

/// Text that is safe in HTML and in attributes.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_of_nothing_is_none_and_of_one_point_a_dot() {
        let mut chart = Chart {
            title: "a <b>".into(),
            x_label: "s".into(),
            y_label: "ms".into(),
            x: Scale::Linear,
            y: Scale::Log,
            lines: Vec::new(),
        };
        assert_eq!(chart.svg(), None);
        chart.lines.push(Line {
            name: "one".into(),
            points: vec![(0.0, 0.0)],
        });
        let svg = chart.svg().unwrap();
        assert!(svg.contains("<circle") && svg.contains("a &lt;b&gt;") && !svg.contains("NaN"));
    }

    #[test]
    fn ticks_are_round_numbers_that_the_axis_reaches() {
        let linear = Axis::over(Scale::Linear, [0.0, 9500.0].into_iter()).unwrap();
        let names: Vec<_> = linear.ticks().into_iter().map(|tick| tick.1).collect();
        assert_eq!(names, ["0", "2000", "4000", "6000", "8000"]);
        let nines = Axis::over(Scale::Nines, [0.0, 0.999].into_iter()).unwrap();
        let names: Vec<_> = nines.ticks().into_iter().map(|tick| tick.1).collect();
        assert_eq!(names, ["0", "50", "90", "99", "99.9"]);
        let log = Axis::over(Scale::Log, [0.3, 40.0].into_iter()).unwrap();
        let names: Vec<_> = log.ticks().into_iter().map(|tick| tick.1).collect();
        assert_eq!(names, ["0.1", "1", "10", "100"]);
    }
}
