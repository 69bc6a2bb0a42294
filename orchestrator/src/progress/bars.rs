//! Progress as bars: one for each table that is being read, one line over
//! everything below them.

use std::collections::HashMap;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::human;
use super::table::{Table, remaining};

/// Positions of a bar.
const STEPS: u64 = 1000;
/// Redraws per second.
const REFRESH_HZ: u8 = 10;

pub(super) struct Bars {
    multi: MultiProgress,
    bars: HashMap<usize, ProgressBar>,
    total: ProgressBar,
    style: ProgressStyle,
}

impl Bars {
    pub(super) fn new() -> Self {
        let target = ProgressDrawTarget::stderr_with_hz(REFRESH_HZ);
        let multi = MultiProgress::with_draw_target(target);
        let total = multi.add(ProgressBar::no_length().with_style(style("{msg}")));
        let style = style("{prefix:28!} {bar:24.cyan/blue} {percent:>3}%  {msg}");
        Bars { multi, bars: HashMap::new(), total, style: style.progress_chars("━╸─") }
    }

    /// A table begins.
    pub(super) fn add(&mut self, index: usize, table: &Table) {
        let bar = ProgressBar::new(STEPS).with_style(self.style.clone());
        bar.set_prefix(table.name().to_owned());
        let bar = self.multi.insert_before(&self.total, bar);
        bar.tick();
        self.bars.insert(index, bar);
    }

    pub(super) fn show(&self, index: usize, table: &Table) {
        let Some(bar) = self.bars.get(&index) else { return };
        let (fraction, seconds) = (table.fraction(), table.seconds());
        let mut message = format!(
            "{} rows  {}",
            human::count(table.rows + table.kept_rows),
            human::rate(table.bytes, seconds)
        );
        if let Some(left) = remaining(fraction, seconds) {
            message.push_str(&format!("  eta {}", human::seconds(left)));
        }
        bar.set_message(message);
        bar.set_position((fraction * STEPS as f64) as u64);
    }

    pub(super) fn remove(&mut self, table: usize) {
        if let Some(bar) = self.bars.remove(&table) {
            bar.finish_and_clear();
            self.multi.remove(&bar);
        }
    }

    pub(super) fn line(&self, line: &str) {
        // A closed stderr leaves nobody to tell.
        let _ = self.multi.println(line);
    }

    pub(super) fn total(&self, line: &str) {
        self.total.set_message(line.to_owned());
    }

    pub(super) fn clear(&mut self) {
        for (_, bar) in self.bars.drain() {
            bar.finish_and_clear();
        }
        self.total.finish_and_clear();
        // A closed stderr leaves nobody to tell.
        let _ = self.multi.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is one of ours")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_valid() {
        let mut bars = Bars::new();
        let table = Table::new("public.t".into());
        bars.add(0, &table);
        bars.show(0, &table);
        bars.remove(0);
        bars.clear();
    }
}
