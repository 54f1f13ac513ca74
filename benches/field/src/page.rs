//! The page: one picture of all means, and two for each workload, its time and its memory, as SVG.
//!
//! A picture of a workload has its threads from left to right and, upwards, how many times as much as the subject each
//! allocator takes; the subject is the thick line at 1. Scales are logarithmic: twice as much and half as much are equally
//! far from it. The colours are an allocator's own on every page; a style sheet in the file turns them over where the
//! reader's screen is dark.

use crate::results::{Cell, Metric, Results};
use crate::stats::Estimate;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fmt::Write;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Point = (i32, i32);

const WIDTH: i32 = 1240;
const MARGIN: i32 = 32;
/// Of the title and the legend.
const HEAD: i32 = 150;
/// Of the pictures of means: what is around the bars, and each bar.
const MEANS: i32 = 84;
const BAR: i32 = 24;
/// Of a workload's two pictures, and how many workloads stand side by side.
const PANEL: i32 = 250;
const COLUMNS: i32 = 2;
const FOOT: i32 = 40;
/// What is further from the subject than this is drawn at the edge.
const FURTHEST: f64 = 16.0;

/// A colour on a light page, and what it becomes on a dark one.
type Colour = (RGBColor, RGBColor);
const PAPER: Colour = (RGBColor(255, 255, 255), RGBColor(13, 17, 23));
const INK: Colour = (RGBColor(31, 35, 40), RGBColor(230, 237, 243));
const FAINT: Colour = (RGBColor(101, 109, 118), RGBColor(141, 150, 160));
const LINES: Colour = (RGBColor(225, 228, 232), RGBColor(45, 51, 59));
const SUBJECT: Colour = (RGBColor(10, 92, 214), RGBColor(88, 166, 255));
/// By name, so that an allocator keeps its colour whatever it is shown beside.
const RIVALS: [(&str, Colour); 8] = [
    ("mimalloc3", (RGBColor(209, 72, 15), RGBColor(255, 138, 76))),
    ("mimalloc2", (RGBColor(224, 158, 20), RGBColor(242, 193, 78))),
    ("jemalloc", (RGBColor(176, 37, 127), RGBColor(240, 106, 184))),
    ("snmalloc", (RGBColor(26, 127, 55), RGBColor(63, 185, 80))),
    ("rpmalloc", (RGBColor(123, 63, 196), RGBColor(180, 140, 242))),
    ("tcmalloc", (RGBColor(14, 138, 138), RGBColor(57, 197, 207))),
    ("rusty_alloc", (RGBColor(138, 90, 43), RGBColor(198, 154, 107))),
    ("malloc", (RGBColor(111, 120, 129), RGBColor(154, 164, 175))),
];

/// The page as the text of an SVG file.
pub fn draw(results: &Results) -> anyhow::Result<String> {
    let workloads = results.workloads();
    let rows = (workloads.len() as i32 + COLUMNS - 1) / COLUMNS;
    let panels = HEAD + MEANS + BAR * results.rivals.len() as i32;
    let height = panels + rows * PANEL + FOOT;
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (WIDTH as u32, height as u32)).into_drawing_area();
        area.fill(&PAPER.0)?;
        head(&area, results)?;
        let wide = (WIDTH - 2 * MARGIN) / 4;
        for (nth, metric) in [Metric::Cpu, Metric::Peak, Metric::Settled, Metric::P999].into_iter().enumerate() {
            means(&area, results, metric, (MARGIN + nth as i32 * wide, HEAD), wide - 20)?;
        }
        let wide = (WIDTH - 2 * MARGIN) / COLUMNS;
        for (nth, (name, cells)) in workloads.iter().enumerate() {
            let (row, column) = (nth as i32 / COLUMNS, nth as i32 % COLUMNS);
            let corner = (MARGIN + column * wide, panels + row * PANEL);
            panel(&area, results, name, cells, corner, wide - 28)?;
        }
        let foot = "Each dot is the median of the rounds' pairs with its 95 % interval; made by `cargo field`.";
        write(&area, foot, (MARGIN, height - FOOT / 2), 12, FAINT, HPos::Left)?;
        area.present()?;
    }
    Ok(with_style(&text))
}

fn head(area: &Area<'_>, results: &Results) -> anyhow::Result<()> {
    let subject = &results.rivals[0].name;
    write(area, &format!("{} against the field", capital(subject)), (MARGIN, 42), 26, INK, HPos::Left)?;
    let setup = &results.setup;
    let about = format!(
        "{} rounds at scale {} on {} processors, {}{}. How many times as much as {subject} each allocator takes: less is better.",
        setup.rounds,
        setup.scale,
        setup.processors,
        setup.processor,
        setup.pages()
    );
    write(area, &about, (MARGIN, 70), 13, FAINT, HPos::Left)?;
    let wide = (WIDTH - 2 * MARGIN) / 5;
    for (nth, rival) in results.rivals.iter().enumerate() {
        let (x, y) = (MARGIN + nth as i32 % 5 * wide, 100 + nth as i32 / 5 * 24);
        let colour = colour(results, nth);
        area.draw(&PathElement::new([(x, y), (x + 22, y)], colour.0.stroke_width(weight(nth) + 1)))?;
        area.draw(&Circle::new((x + 11, y), 4, colour.0.filled()))?;
        let state = if rival.missing.is_some() { "not built" } else { &rival.version };
        // A long version would run into the next.
        let text: String = format!("{} {state}", rival.name).chars().take(30).collect();
        write(area, &text, (x + 30, y), 13, INK, HPos::Left)?;
    }
    Ok(())
}

/// A bar for each allocator's mean, the least on top.
fn means(area: &Area<'_>, results: &Results, metric: Metric, corner: Point, wide: i32) -> anyhow::Result<()> {
    let (left, top) = corner;
    write(area, metric.title().0, (left, top + 14), 15, INK, HPos::Left)?;
    write(area, "geometric mean of all workloads and threads", (left, top + 33), 12, FAINT, HPos::Left)?;
    let own = Estimate { value: 1.0, low: 1.0, high: 1.0 };
    let mean = |nth| if nth == 0 { Some(own) } else { results.mean(nth, metric, None) };
    let mut means: Vec<(usize, Estimate)> =
        (0..results.rivals.len()).filter_map(|nth| Some((nth, mean(nth)?))).collect();
    means.sort_by(|one, other| one.1.value.total_cmp(&other.1.value));
    let most = means.iter().map(|(_, mean)| mean.high).fold(1.0, f64::max).min(FURTHEST);
    let (names, figures) = (82, 44);
    let scale = |value: f64| (value.min(most) / most * f64::from(wide - names - figures)) as i32;
    for (row, (nth, mean)) in means.into_iter().enumerate() {
        let y = top + 54 + row as i32 * BAR;
        let (colour, ink) = (colour(results, nth), if nth == 0 { SUBJECT } else { INK });
        let (x, end) = (left + names, left + names + scale(mean.value));
        write(area, &results.rivals[nth].name, (x - 8, y), 13, ink, HPos::Right)?;
        let bar = colour.0.mix(if nth == 0 { 1.0 } else { 0.6 });
        area.draw(&Rectangle::new([(x, y - 8), (end, y + 8)], bar.filled()))?;
        if nth != 0 {
            let interval = [(left + names + scale(mean.low), y), (left + names + scale(mean.high), y)];
            area.draw(&PathElement::new(interval, INK.0.stroke_width(1)))?;
        }
        let end = left + names + scale(mean.high.max(mean.value));
        write(area, &figure(mean.value), (end + 6, y), 13, ink, HPos::Left)?;
    }
    Ok(())
}

/// A workload's name, its time on the left and its memory on the right.
fn panel(
    area: &Area<'_>,
    results: &Results,
    name: &str,
    cells: &[&Cell],
    corner: Point,
    wide: i32,
) -> anyhow::Result<()> {
    let (left, top) = corner;
    area.draw(&PathElement::new([(left, top), (left + wide, top)], LINES.0.stroke_width(1)))?;
    write(area, name, (left, top + 20), 15, INK, HPos::Left)?;
    write(area, &cells[0].about, (left, top + 39), 12, FAINT, HPos::Left)?;
    let half = wide / 2;
    picture(area, results, cells, Metric::Cpu, (left, top + 62), half - 14)?;
    picture(area, results, cells, Metric::Peak, (left + half, top + 62), half - 14)
}

fn picture(
    area: &Area<'_>,
    results: &Results,
    cells: &[&Cell],
    metric: Metric,
    corner: Point,
    wide: i32,
) -> anyhow::Result<()> {
    const TALL: i32 = 138;
    const AXIS: i32 = 34;
    let (left, top) = corner;
    write(area, metric.title().0, (left + AXIS, top - 2), 12, FAINT, HPos::Left)?;
    let (top, bottom) = (top + 10, top + TALL);

    let ratios: Vec<Vec<Option<Estimate>>> =
        (1..results.rivals.len()).map(|nth| cells.iter().map(|cell| cell.ratio(nth, metric)).collect()).collect();
    let (low, high) = range(ratios.iter().flatten().flatten());
    let height = |value: f64| {
        let share = (value.clamp(low, high) / low).ln() / (high / low).ln();
        bottom - (share * f64::from(bottom - top)) as i32
    };
    for tick in [0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0] {
        if tick < low || tick > high {
            continue;
        }
        let y = height(tick);
        area.draw(&PathElement::new([(left + AXIS, y), (left + wide, y)], LINES.0.stroke_width(1)))?;
        write(area, &format!("{}", (tick * 100.0_f64).round() / 100.0), (left + AXIS - 6, y), 11, FAINT, HPos::Right)?;
    }
    let step = (wide - AXIS) / cells.len().max(1) as i32;
    let middle = |place: usize| left + AXIS + step / 2 + place as i32 * step;
    for (place, cell) in cells.iter().enumerate() {
        let unit = if cell.threads == 1 { "thread" } else { "threads" };
        let text = if place == 0 { format!("{} {unit}", cell.threads) } else { cell.threads.to_string() };
        write(area, &text, (middle(place), bottom + 13), 11, FAINT, HPos::Center)?;
    }
    // Side by side at each place, so that none hides another.
    let spread = (step / (2 * results.rivals.len() as i32)).clamp(1, 8);
    for (nth, ratios) in ratios.iter().enumerate() {
        let colour = colour(results, nth + 1);
        let aside = spread * (2 * nth as i32 - ratios_middle(results)) / 2;
        let dots: Vec<(Point, Estimate)> = ratios
            .iter()
            .enumerate()
            .filter_map(|(place, ratio)| ratio.map(|ratio| ((middle(place) + aside, height(ratio.value)), ratio)))
            .collect();
        let line: Vec<Point> = dots.iter().map(|(point, _)| *point).collect();
        area.draw(&PathElement::new(line, colour.0.mix(0.45).stroke_width(1)))?;
        for (point, ratio) in dots {
            let interval = [(point.0, height(ratio.low)), (point.0, height(ratio.high))];
            area.draw(&PathElement::new(interval, colour.0.stroke_width(1)))?;
            area.draw(&Circle::new(point, 3, colour.0.filled()))?;
        }
    }
    let own = [(left + AXIS, height(1.0)), (left + wide, height(1.0))];
    area.draw(&PathElement::new(own, SUBJECT.0.stroke_width(3)))?;
    Ok(())
}

/// Twice the place that is in the middle of the rivals'.
fn ratios_middle(results: &Results) -> i32 {
    results.rivals.len() as i32 - 2
}

/// What the scale covers: all ratios, as far as they are not too far, and the surroundings of 1.
fn range<'a>(ratios: impl Iterator<Item = &'a Estimate>) -> (f64, f64) {
    let (mut low, mut high) = (0.8_f64, 1.6_f64);
    for ratio in ratios {
        low = low.min(ratio.value * 0.9);
        high = high.max(ratio.value * 1.1);
    }
    (low.max(1.0 / FURTHEST), high.min(FURTHEST))
}

/// Text whose middle, from top to bottom, is at `at`.
fn write(area: &Area<'_>, text: &str, at: Point, size: i32, colour: Colour, side: HPos) -> anyhow::Result<()> {
    let style = ("system-ui, sans-serif", size).into_text_style(area).color(&colour.0);
    let style = style.pos(Pos::new(side, VPos::Center));
    Ok(area.draw(&Text::new(text.to_owned(), at, style))?)
}

fn colour(results: &Results, nth: usize) -> Colour {
    let own = RIVALS.iter().find(|(name, _)| *name == results.rivals[nth].name);
    if nth == 0 { SUBJECT } else { own.map_or(FAINT, |(_, colour)| *colour) }
}

fn weight(nth: usize) -> u32 {
    if nth == 0 { 3 } else { 1 }
}

fn figure(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") }
}

fn capital(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + letters.as_str())
}

/// Puts a style sheet into the picture, by which each colour has its other self on a dark page. It names the colours as
/// they are written in the picture's attributes, so no element needs a name.
fn with_style(text: &str) -> String {
    let hex = |colour: RGBColor| format!("#{:02X}{:02X}{:02X}", colour.0, colour.1, colour.2);
    let mut style = String::from("<style>@media (prefers-color-scheme: dark) {");
    for (light, dark) in [PAPER, INK, FAINT, LINES, SUBJECT].into_iter().chain(RIVALS.map(|(_, colour)| colour)) {
        let (light, dark) = (hex(light), hex(dark));
        for what in ["fill", "stroke"] {
            write!(style, "\n[{what}=\"{light}\"] {{ {what}: {dark}; }}").expect("a string takes all");
        }
    }
    style.push_str("\n}</style>\n");
    // After the element that is opened first.
    let start = text.find("<svg").and_then(|start| text[start..].find('>').map(|end| start + end + 1)).unwrap_or(0);
    format!("{}\n{style}{}", &text[..start], text[start..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::example;

    #[test]
    fn a_page_names_everything_and_is_well_formed_enough() {
        let text = draw(&example()).unwrap();
        for wanted in
            ["Millpond against the field", "slow", "twin", "not built", "one", "two", "does something", "2.00"]
        {
            assert!(text.contains(wanted), "no {wanted:?}");
        }
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
        assert_eq!(text.matches("<svg").count(), 1);
        assert_eq!(text.matches("<style>").count(), text.matches("</style>").count());
        assert!(!text.contains("NaN") && !text.contains("inf"));
    }

    #[test]
    fn every_colour_of_the_page_has_its_other_self() {
        let text = draw(&example()).unwrap();
        let (style, drawn) = text.split_once("</style>").unwrap();
        let colours = drawn.split(['"']).filter(|part| part.len() == 7 && part.starts_with('#'));
        for colour in colours {
            assert!(style.contains(&format!("[fill=\"{colour}\"]")), "{colour} stays as it is");
        }
    }

    #[test]
    fn the_scale_covers_what_is_not_too_far() {
        let at = |value| Estimate { value, low: value, high: value };
        assert_eq!(range([].iter()), (0.8, 1.6));
        let (low, high) = range([at(0.5), at(3.0)].iter());
        assert!(low < 0.5 && high > 3.0);
        assert_eq!(range([at(0.001), at(1000.0)].iter()), (1.0 / FURTHEST, FURTHEST));
    }
}
