//! The figures of a measurement, as a table or as JSON.

use std::fmt;

use serde::Serialize;

/// One figure, beside its limit where it has one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What was measured.
    pub part: String,
    /// Which figure of it.
    pub figure: &'static str,
    /// The median of the runs.
    pub value: f64,
    /// In which unit.
    pub unit: &'static str,
    /// What limits it: the name, and the median of the same runs.
    pub limit: Option<(&'static str, f64)>,
    /// The median of the runs' ratios to that limit.
    pub ratio: Option<f64>,
    /// How often it was measured.
    pub runs: usize,
}

/// All figures, in the order in which they were first measured.
#[derive(Clone, Debug)]
pub struct Report {
    line_bytes: usize,
    figures: Vec<Figure>,
}

#[derive(Clone, Debug)]
struct Figure {
    part: String,
    name: &'static str,
    unit: &'static str,
    limit: Option<&'static str>,
    values: Vec<(f64, Option<f64>)>,
}

impl Report {
    pub(super) fn new(line_bytes: usize) -> Self {
        Self { line_bytes, figures: Vec::new() }
    }

    /// Adds what one run measured.
    pub(super) fn add(&mut self, part: &str, name: &'static str, unit: &'static str, value: f64) {
        self.push(part, name, unit, value, None);
    }

    /// Adds what one run measured beside its limit.
    pub(super) fn beside(
        &mut self,
        part: &str,
        name: &'static str,
        unit: &'static str,
        value: f64,
        limit: (&'static str, f64),
    ) {
        self.push(part, name, unit, value, Some(limit));
    }

    fn push(
        &mut self,
        part: &str,
        name: &'static str,
        unit: &'static str,
        value: f64,
        limit: Option<(&'static str, f64)>,
    ) {
        let limited_by = limit.map(|(by, _)| by);
        let same = |one: &&mut Figure| one.part == part && one.name == name && one.limit == limited_by;
        let measured = (value, limit.map(|(_, value)| value));
        match self.figures.iter_mut().find(same) {
            Some(figure) => figure.values.push(measured),
            None => self.figures.push(Figure {
                part: part.to_owned(),
                name,
                unit,
                limit: limited_by,
                values: vec![measured],
            }),
        }
    }

    /// The medians.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let row = |figure: &Figure| Row {
            part: figure.part.clone(),
            figure: figure.name,
            value: median(figure.values.iter().map(|(value, _)| *value)),
            unit: figure.unit,
            limit: figure.limit.map(|by| (by, median(figure.values.iter().filter_map(|(_, limit)| *limit)))),
            ratio: figure
                .limit
                .map(|_| median(figure.values.iter().filter_map(|(value, limit)| Some(value / (*limit)?)))),
            runs: figure.values.len(),
        };
        self.figures.iter().map(row).collect()
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A number with as many digits as a person reads.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "lines of {} bytes; medians\n", self.line_bytes)?;
        writeln!(
            f,
            "{:<34} {:<26} {:>10} {:<8} {:>10} {:<24} {:>6}",
            "part", "figure", "value", "unit", "limit", "limited by", "ratio"
        )?;
        for row in self.rows() {
            let (by, limit) = row.limit.map_or(("", String::new()), |(by, limit)| (by, number(limit)));
            let ratio = row.ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
            let Row { part, figure, unit, .. } = &row;
            writeln!(
                f,
                "{part:<34} {figure:<26} {:>10} {unit:<8} {limit:>10} {by:<24} {ratio:>6}",
                number(row.value)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median_of_its_runs_and_its_ratio_that_of_theirs() {
        let mut report = Report::new(800);
        for (value, limit) in [(10.0, 20.0), (30.0, 30.0), (20.0, 100.0)] {
            report.beside("accept", "events", "1/s", value, ("append", limit));
            report.add("accept", "cpu", "us", value * 2.0);
        }
        let rows = report.rows();
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].value, rows[0].limit, rows[0].ratio), (20.0, Some(("append", 30.0)), Some(0.5)));
        assert_eq!((rows[1].value, rows[1].ratio, rows[1].runs), (40.0, None, 3));
        assert!(report.to_string().contains("0.50"));
    }
}
