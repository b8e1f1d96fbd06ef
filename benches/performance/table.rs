//! The table of figures and budgets.

use crate::sample::{Budget, Sample, Verdict};

/// Prints each row as soon as it is known.
pub struct Table {
    text: String,
    worst: Verdict,
}

impl Table {
    pub fn new() -> Self {
        let mut table = Self { text: String::new(), worst: Verdict::Met };
        table.line("| figure | budget | hsmkey | | others |\n|---|---|---|---|---|");
        table
    }

    /// A figure with its budget.
    pub fn row(
        &mut self,
        figure: &str,
        budget: &str,
        measured: &str,
        verdict: impl Into<Verdict>,
        others: &str,
    ) {
        let verdict = verdict.into();
        self.worst = self.worst.max(verdict);
        let said = match verdict {
            Verdict::Met => "met",
            Verdict::Unclear => "unclear",
            Verdict::Missed => "MISSED",
        };
        self.line(&format!("| {figure} | {budget} | {measured} | {said} | {others} |"));
    }

    /// A ratio with its budget.
    pub fn ratio(&mut self, figure: &str, budget: Budget, sample: &Sample, others: &str) {
        let measured = format!("{:.3} ± {:.3}", sample.median(), sample.margin());
        let limit = match budget {
            Budget::Least(least) => format!(">= {least}"),
            Budget::Most(most) => format!("<= {most}"),
        };
        self.row(figure, &limit, &measured, sample.verdict(budget), others);
    }

    /// A figure without one.
    pub fn note(&mut self, figure: &str, measured: &str, others: &str) {
        self.line(&format!("| {figure} | | {measured} | | {others} |"));
    }

    fn line(&mut self, line: &str) {
        println!("{line}");
        self.text += line;
        self.text.push('\n');
    }

    /// The whole of it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The worst of the verdicts.
    pub fn worst(&self) -> Verdict {
        self.worst
    }
}
