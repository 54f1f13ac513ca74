//! The tables in the terminal: a metric's ratios for each cell, their means, and where the subject is behind.

use crate::results::{Cell, Metric, Results};
use crate::stats::Estimate;
use comfy_table::{CellAlignment, ContentArrangement, Table, TableComponent, presets};
use std::fmt::Write;

/// By how much the subject may be behind the best rival.
pub const MARGIN: f64 = 0.05;

/// Every cell's ratios of a metric, and the means below; the best rival of each row has a star.
pub fn cells(results: &Results, metric: Metric) -> String {
    let mut table = new_table(results, &["workload", "thr"]);
    for cell in &results.cells {
        let level = cell.level(0, metric).map_or_else(|| state(cell, 0).into(), number);
        let best = cell.best(metric).map(|(rival, _)| rival);
        let mut row = vec![cell.workload.clone(), cell.threads.to_string(), level];
        row.extend((1..results.rivals.len()).map(|rival| match cell.ratio(rival, metric) {
            Some(ratio) => format(ratio, best == Some(rival)),
            None if results.rivals[rival].missing.is_some() => "missing".into(),
            None => state(cell, rival).into(),
        }));
        table.add_row(row);
    }
    for threads in results.threads() {
        table.add_row(mean_row(results, metric, Some(threads)));
    }
    table.add_row(mean_row(results, metric, None));
    finish(table)
}

/// The means of all metrics.
pub fn means(results: &Results) -> String {
    let mut table = new_table(results, &["geometric mean of"]);
    for metric in Metric::ALL {
        let mut row = vec![metric.title().0.to_owned()];
        row.push("1".into());
        row.extend(mean_cells(results, metric, None));
        table.add_row(row);
    }
    finish(table)
}

/// The cells where the subject takes more than the best rival by more than the margin, the worst first.
pub fn behind(results: &Results, metric: Metric) -> Vec<String> {
    let mut cells: Vec<(&Cell, usize, Estimate)> = results
        .cells
        .iter()
        .filter_map(|cell| cell.best(metric).map(|(rival, ratio)| (cell, rival, ratio)))
        .filter(|(_, _, ratio)| ratio.value < 1.0 / (1.0 + MARGIN))
        .collect();
    cells.sort_by(|one, other| one.2.value.total_cmp(&other.2.value));
    let line = |(cell, rival, ratio): (&Cell, usize, Estimate)| {
        let Estimate { value, low, high } = ratio;
        let name = &results.rivals[rival].name;
        let unsure = if high >= 1.0 / (1.0 + MARGIN) { ", within what noise explains" } else { "" };
        format!("{} at {}: {name} takes {value:.2} [{low:.2}, {high:.2}] of it{unsure}", cell.workload, cell.threads)
    };
    cells.into_iter().map(line).collect()
}

/// Who could not be built or has failed, and why.
pub fn troubles(results: &Results) -> Vec<String> {
    let mut lines = Vec::new();
    for rival in &results.rivals {
        if let Some(why) = &rival.missing {
            lines.push(format!("{}: {why}", rival.name));
        }
    }
    for cell in &results.cells {
        for (runs, rival) in cell.runs.iter().zip(&results.rivals) {
            if let Some(why) = runs.failures.first() {
                let (count, times) = (runs.failures.len(), if runs.failures.len() == 1 { "" } else { "s" });
                let mut line =
                    format!("{} at {}, {}: failed {count} time{times}", cell.workload, cell.threads, rival.name);
                write!(line, ": {why}").expect("a string takes all");
                lines.push(line);
            }
        }
    }
    lines
}

fn new_table(results: &Results, first: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Disabled);
    table.remove_style(TableComponent::HorizontalLines).remove_style(TableComponent::MiddleIntersections);
    let names = results.rivals.iter().map(|rival| rival.name.as_str());
    table.set_header(first.iter().copied().chain(names));
    table
}

/// Right-aligned but for the first column, without the spaces at the lines' ends.
fn finish(mut table: Table) -> String {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

fn mean_row(results: &Results, metric: Metric, threads: Option<usize>) -> Vec<String> {
    let at = threads.map_or_else(|| "all".into(), |threads| threads.to_string());
    let mut row = vec!["geometric mean".into(), at, "1".into()];
    row.extend(mean_cells(results, metric, threads));
    row
}

fn mean_cells(results: &Results, metric: Metric, threads: Option<usize>) -> Vec<String> {
    let best = results.best(metric, threads).map(|(rival, _)| rival);
    let mean = |rival| results.mean(rival, metric, threads);
    (1..results.rivals.len()).map(|rival| mean(rival).map_or("-".into(), |m| format(m, best == Some(rival)))).collect()
}

/// Why there is no figure.
fn state(cell: &Cell, allocator: usize) -> &'static str {
    if cell.runs[allocator].failures.is_empty() { "-" } else { "failed" }
}

/// As in `1.24 ±3%` with a star for the best, two blanks for the others.
fn format(ratio: Estimate, best: bool) -> String {
    let reach = 100.0 * ratio.reach() / ratio.value;
    let star = if best { '*' } else { ' ' };
    format!("{} ±{reach:.0}%{star}", number(ratio.value))
}

/// Three digits that say something.
fn number(value: f64) -> String {
    match value {
        value if value >= 99.95 => format!("{value:.0}"),
        value if value >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::{example, record};

    #[test]
    fn numbers_have_three_digits() {
        let numbers = [0.034, 1.0, 9.994, 9.996, 99.94, 99.96, 12345.6].map(number);
        assert_eq!(numbers, ["0.03", "1.00", "9.99", "10.0", "99.9", "100", "12346"]);
    }

    #[test]
    fn a_table_has_a_row_a_cell_and_its_means() {
        let text = cells(&example(), Metric::Cpu);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let find = |start: &[&str]| {
            let line = text.lines().map(words).find(|line| line.iter().zip(start).all(|(word, s)| word == s));
            line.unwrap_or_else(|| panic!("no {start:?} in\n{text}"))
        };
        assert_eq!(find(&["workload"]), ["workload", "thr", "millpond", "slow", "twin", "gone"]);
        assert_eq!(find(&["one", "8"]), ["one", "8", "120", "2.00", "±0%", "1.00", "±0%*", "missing"]);
        let mean = ["geometric", "mean", "all", "1", "2.00", "±0%", "1.00", "±0%*", "-"];
        assert_eq!(find(&["geometric", "mean", "all"]), mean);
        let starts = |line: &&str| line.trim_start().starts_with("one ") || line.trim_start().starts_with("two ");
        assert_eq!(text.lines().filter(starts).count(), 4);
        // No lines but those around the header and below.
        let lines = text.lines().filter(|line| !line.contains(char::is_alphanumeric)).count();
        assert_eq!(lines, 3, "{text}");
    }

    #[test]
    fn means_have_a_row_a_metric() {
        let text = means(&example());
        let line = text.lines().find(|line| line.starts_with(" peak memory")).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(line.split_whitespace().collect::<Vec<_>>()[2..], ["1", "0.50", "±0%*", "1.00", "±0%", "-"]);
        assert_eq!(text.lines().filter(|line| line.contains('±')).count(), Metric::ALL.len());
    }

    #[test]
    fn behind_is_who_takes_more_than_the_margin() {
        let mut results = example();
        assert!(behind(&results, Metric::Cpu).is_empty());
        let lines = behind(&results, Metric::Peak);
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0], "one at 1: slow takes 0.50 [0.50, 0.50] of it");
        // Five rounds that lie on both sides of the margin.
        for (round, time) in results.cells[0].runs[2].rounds.iter_mut().zip([80, 90, 112, 140, 150]) {
            *round = Some(record(time, 20));
        }
        let lines = behind(&results, Metric::Cpu);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].starts_with("one at 1: twin takes 0.93 [") && lines[0].ends_with("noise explains"),
            "{lines:?}"
        );
    }

    #[test]
    fn troubles_are_named() {
        let mut results = example();
        results.cells[1].add(1, Err("took more than 60 s".into()));
        let expected = ["gone: no compiler", "one at 8, slow: failed 1 time: took more than 60 s"];
        assert_eq!(troubles(&results), expected);
        assert_eq!(results.cells[1].ratio(1, Metric::Cpu).unwrap().value, 2.0);
    }
}
