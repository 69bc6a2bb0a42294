//! Progress as bars: one for each table that is being read, one line over
//! everything below them.
//!
//! All of it is one block that is drawn as a whole: tables come and go all the
//! time, and bars drawn one by one would leave remains of those that went.

use console::{Alignment, Term, pad_str, style, truncate_str};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::human;
use super::table::{Table, remaining};

/// Columns of a table's name and of its bar.
const NAME: usize = 28;
const BAR: usize = 24;
/// Redraws per second.
const REFRESH_HZ: u8 = 10;

pub(super) struct Bars {
    block: ProgressBar,
    term: Term,
    /// By table, in the order in which they began.
    bars: Vec<(usize, String)>,
    total: String,
}

impl Bars {
    pub(super) fn new() -> Self {
        let target = ProgressDrawTarget::stderr_with_hz(REFRESH_HZ);
        let block = ProgressBar::with_draw_target(None, target).with_style(whole_block());
        Bars { block, term: Term::stderr(), bars: Vec::new(), total: String::new() }
    }

    /// Shows a table as it is now.
    pub(super) fn show(&mut self, index: usize, table: &Table) {
        let line = bar(table);
        match self.bars.iter_mut().find(|(known, _)| *known == index) {
            Some((_, shown)) => *shown = line,
            None => self.bars.push((index, line)),
        }
    }

    /// A table is no longer being read.
    pub(super) fn remove(&mut self, table: usize) {
        self.bars.retain(|(known, _)| *known != table);
    }

    /// The line over everything.
    pub(super) fn total(&mut self, line: String) {
        self.total = line;
    }

    /// Draws the block, unless that was done just now.
    pub(super) fn draw(&self) {
        let (height, width) = self.term.size();
        let lines = block(&self.bars, &self.total, height.into(), width.into());
        self.block.set_message(lines.join("\n"));
    }

    /// Says something above the block.
    pub(super) fn line(&self, line: &str) {
        self.block.println(line);
    }

    pub(super) fn clear(&self) {
        self.block.finish_and_clear();
    }
}

fn whole_block() -> ProgressStyle {
    ProgressStyle::with_template("{msg}").expect("the template is one of ours")
}

/// "public.trips   ━━━━━━╸──────  58%  583,590 rows  84.2 MB/s  eta 0.6 s"
fn bar(table: &Table) -> String {
    let (fraction, seconds) = (table.fraction(), table.seconds());
    let full = (fraction * BAR as f64) as usize;
    // The tip is shown until the bar is full.
    let tip = if full < BAR { "╸" } else { "" };
    let rest = "─".repeat(BAR.saturating_sub(full + 1));
    let mut line = format!(
        "{} {}{} {:>3}%  {} rows  {}",
        pad_str(table.name(), NAME, Alignment::Left, Some("…")),
        style(format!("{}{tip}", "━".repeat(full))).cyan().for_stderr(),
        style(rest).blue().for_stderr(),
        (fraction * 100.0) as u64,
        human::count(table.rows + table.kept_rows),
        human::rate(table.bytes, seconds)
    );
    if let Some(left) = remaining(fraction, seconds) {
        line.push_str(&format!("  eta {}", human::seconds(left)));
    }
    line
}

/// What fits into a terminal: the total always, and as many bars as leave a
/// line for what was said before.
fn block(bars: &[(usize, String)], total: &str, height: usize, width: usize) -> Vec<String> {
    let room = height.saturating_sub(2).max(1);
    let (shown, more) = match bars.len() <= room {
        true => (bars.len(), None),
        false => (room - 1, Some(format!("… and {} more", bars.len() - (room - 1)))),
    };
    let bars = bars[..shown].iter().map(|(_, line)| line.as_str());
    let lines = bars.chain(more.as_deref()).chain([total]);
    lines.map(|line| truncate_str(line, width, "…").into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_valid() {
        whole_block();
    }

    #[test]
    fn a_bar_fills_with_its_table() {
        let table = Table::new("a_very_long_schema_name.a_table".into());
        let line = bar(&table);
        assert!(line.starts_with("a_very_long_schema_name.a_t… "), "{line}");
        assert!(line.contains(&"─".repeat(BAR - 1)) && line.contains("  0%  0 rows"), "{line}");
        let mut done = Table::new("public.t".into());
        done.done = true;
        assert!(bar(&done).contains(&format!("{} 100%", "━".repeat(BAR))), "{}", bar(&done));
    }

    #[test]
    fn the_block_fits_into_the_terminal() {
        let bars: Vec<_> = (0..5).map(|index| (index, format!("table {index} ━━━"))).collect();
        assert_eq!(block(&bars, "total", 40, 100).len(), 6);
        let small = block(&bars, "total", 5, 8);
        assert_eq!(small, ["table 0…", "table 1…", "… and 3…", "total"]);
        assert_eq!(block(&[], "total", 0, 80), ["total"]);
        assert_eq!(block(&bars, "total", 1, 80), ["… and 5 more", "total"]);
    }
}
