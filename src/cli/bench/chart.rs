//! Line charts as SVG.

use std::fmt::Write as _;

/// Size of the drawing and its margins, in the units of its view box.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 34.0;

/// A named line; `class` is its style in the page.
pub struct Line {
    /// Its name in the legend.
    pub name: &'static str,
    /// Its class in the page's style sheet.
    pub class: &'static str,
    /// Its points, x rising.
    pub points: Vec<(f64, f64)>,
}

/// A chart with y from 0.
pub struct Chart {
    /// What the y axis shows.
    pub y: &'static str,
    /// What the x axis shows.
    pub x: &'static str,
    /// Labelled places on the x axis.
    pub x_ticks: Vec<(f64, String)>,
    /// From the left to the right end of the x axis.
    pub range: (f64, f64),
    /// A part of the x axis that is set off, such as the warm-up.
    pub shaded: Option<(f64, f64)>,
    /// The lines.
    pub lines: Vec<Line>,
}

impl Chart {
    /// The SVG element.
    pub fn svg(&self) -> String {
        let step = self.step();
        let top = (self.highest() / step).ceil().max(1.0) * step;
        let x_of = |x: f64| LEFT + (x - self.range.0) / (self.range.1 - self.range.0) * (WIDTH - LEFT - RIGHT);
        let y_of = |y: f64| HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM);
        let bottom = y_of(0.0);
        let mut svg =
            format!(r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{} by {}">"#, self.y, self.x);
        // Writing to a string does not fail.
        if let Some((from, to)) = self.shaded {
            let (left, width) = (x_of(from), x_of(to) - x_of(from));
            let height = bottom - TOP;
            let _ = write!(
                svg,
                r#"<rect class="shaded" x="{left:.1}" y="{TOP}" width="{width:.1}" height="{height:.1}"/>"#
            );
        }
        for tick in 0..=(top / step).round() as u32 {
            let value = f64::from(tick) * step;
            let (y, right, text) = (y_of(value), WIDTH - RIGHT, label(value, step));
            let _ = write!(svg, r#"<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1}" y2="{y:.1}"/>"#);
            let _ = write!(svg, r#"<text x="{}" y="{:.1}" text-anchor="end">{text}</text>"#, LEFT - 6.0, y + 4.0);
        }
        for (value, text) in &self.x_ticks {
            let _ = write!(
                svg,
                r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">{text}</text>"#,
                x_of(*value),
                bottom + 16.0
            );
        }
        for line in &self.lines {
            let points: Vec<_> = line.points.iter().map(|(x, y)| format!("{:.1},{:.1}", x_of(*x), y_of(*y))).collect();
            let _ = write!(svg, r#"<polyline class="{}" points="{}"/>"#, line.class, points.join(" "));
            if let [_] = points[..] {
                let (x, y) = line.points[0];
                let _ =
                    write!(svg, r#"<circle class="{}" cx="{:.1}" cy="{:.1}" r="3"/>"#, line.class, x_of(x), y_of(y));
            }
        }
        svg + "</svg>"
    }

    /// The names of axes and lines, for above the chart.
    pub fn legend(&self) -> String {
        let name = |line: &Line| format!(r#"<span class="{}">{}</span>"#, line.class, line.name);
        let names: Vec<_> = self.lines.iter().map(name).collect();
        format!("<p class=\"legend\">{} by {}: {}</p>", self.y, self.x, names.join(" "))
    }

    fn highest(&self) -> f64 {
        self.lines.iter().flat_map(|line| &line.points).map(|(_, y)| *y).fold(0.0, f64::max)
    }

    /// The distance of the grid's lines: 1, 2 or 5 times a power of ten, for three to six of them.
    fn step(&self) -> f64 {
        let rough = (self.highest() / 5.0).max(1e-3);
        let power = 10_f64.powf(rough.log10().floor());
        [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough).unwrap_or(rough)
    }
}

fn label(value: f64, step: f64) -> String {
    let digits = (-step.log10().floor()).clamp(0.0, 4.0) as usize;
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> Chart {
        let lines = vec![Line { name: "a", class: "p50", points }];
        Chart { y: "y", x: "x", x_ticks: vec![(0.0, "0".to_owned())], range: (0.0, 10.0), shaded: None, lines }
    }

    #[test]
    fn points_lie_within_the_axes() {
        let svg = chart(vec![(0.0, 0.0), (5.0, 47.0), (10.0, 50.0)]).svg();
        // 50 is the highest line of the grid: the top; 0 the bottom.
        assert!(svg.contains(r#"points="64.0,226.0 404.0,26.7 744.0,14.0""#), "{svg}");
        assert!(svg.contains(">50</text>") && !svg.contains(">60</text>"), "{svg}");
    }

    #[test]
    fn nothing_to_show_is_no_failure() {
        let svg = chart(Vec::new()).svg();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(chart(vec![(0.0, 0.0)]).svg().contains("<circle"));
    }

    #[test]
    fn steps_are_round() {
        for (highest, step) in [(1.0, 0.2), (47.0, 10.0), (0.3, 0.1), (12_345.0, 5000.0)] {
            assert!((chart(vec![(0.0, highest)]).step() / step - 1.0).abs() < 1e-9, "{highest}");
        }
    }
}
