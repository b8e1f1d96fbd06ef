//! The table of figures and budgets.

/// Prints each row as soon as it is known.
pub struct Table {
    met: bool,
}

impl Table {
    pub fn new() -> Self {
        println!("| figure | budget | hsmkey | | others |\n|---|---|---|---|---|");
        Self { met: true }
    }

    /// A figure with its budget.
    pub fn row(&mut self, figure: &str, budget: &str, measured: &str, met: bool, others: &str) {
        self.met &= met;
        let verdict = if met { "met" } else { "MISSED" };
        println!("| {figure} | {budget} | {measured} | {verdict} | {others} |");
    }

    /// A figure without one.
    pub fn note(&mut self, figure: &str, measured: &str, others: &str) {
        println!("| {figure} | | {measured} | | {others} |");
    }

    /// Whether every budget was met.
    pub fn is_met(&self) -> bool {
        self.met
    }
}

/// The middle one, or between the two in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// The middle one of the smaller half.
pub fn quartile(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.truncate(values.len().div_ceil(2));
    median(values)
}
