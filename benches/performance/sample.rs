//! What many rounds say together, and when there were enough of them.

/// What a figure is to be.
#[derive(Clone, Copy)]
pub enum Budget {
    Least(f64),
    Most(f64),
}

/// What became of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Met,
    /// The figure misses it by less than the figure itself may be off: this machine has too much else to do to say.
    Unclear,
    Missed,
}

impl From<bool> for Verdict {
    fn from(met: bool) -> Self {
        if met { Self::Met } else { Self::Missed }
    }
}

impl Budget {
    /// How much better a figure is.
    fn room(self, figure: f64) -> f64 {
        match self {
            Self::Least(least) => figure - least,
            Self::Most(most) => most - figure,
        }
    }
}

/// One figure of each round.
#[derive(Default)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// Rounds until the figure is further from its budget than it may be off, on either side; `at_least` and `at_most` so many. All count.
    pub fn of(budget: Budget, at_least: usize, at_most: usize, mut round: impl FnMut() -> f64) -> Self {
        let mut sample = Self::default();
        while sample.0.len() < at_most {
            sample.add(round());
            if sample.0.len() >= at_least && budget.room(sample.median()).abs() > sample.margin() {
                break;
            }
        }
        sample
    }

    pub fn add(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// The figure.
    pub fn median(&self) -> f64 {
        median(self.0.clone())
    }

    /// How far that may be off: two standard errors of a median, from the median distance of the rounds from it, which one round that was
    /// disturbed does not change.
    pub fn margin(&self) -> f64 {
        let middle = self.median();
        let distance = median(self.0.iter().map(|figure| (figure - middle).abs()).collect());
        // The standard deviation of what is normally distributed is 1.4826 times that; that of a median is 1.2533 times a mean's.
        2.0 * 1.2533 * 1.4826 * distance / (self.0.len() as f64).sqrt()
    }

    pub fn verdict(&self, budget: Budget) -> Verdict {
        match budget.room(self.median()) {
            room if room >= 0.0 => Verdict::Met,
            room if room < -self.margin() => Verdict::Missed,
            _ => Verdict::Unclear,
        }
    }
}

/// Figures as ratios to a reference that is measured before each of them and after it: what else the machine has to do changes slowly, mostly.
pub struct Between<R> {
    reference: R,
    last: Option<f64>,
}

impl<R: FnMut() -> f64> Between<R> {
    pub fn new(reference: R) -> Self {
        Self { reference, last: None }
    }

    pub fn ratio(&mut self, figure: impl FnOnce() -> f64) -> f64 {
        let before = self.last.unwrap_or_else(&mut self.reference);
        let figure = figure();
        let after = (self.reference)();
        self.last = Some(after);
        figure * 2.0 / (before + after)
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
