//! A terminal of 100 × 40: what a command that runs on it leaves to be seen.
//!
//! It knows what progress bars are drawn with (returns, line feeds, cursor
//! movements, erasing lines, colors) and fails on anything else, rather than
//! to show what no terminal would.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

const ROWS: u16 = 40;
const COLUMNS: u16 = 100;

/// Runs `command` on the terminal until it ends: all its lines, those that
/// scrolled away among them, without trailing spaces and empty ones.
pub fn run(mut command: Command) -> Result<(ExitStatus, Vec<String>)> {
    let (ours, theirs) = open().context("opening a terminal")?;
    command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
    command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs);
    let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
    // It holds the other end, whose closing ends our reading.
    drop(command);
    let (mut bytes, mut chunk) = (Vec::new(), [0; 8192]);
    let mut ours = File::from(ours);
    // Linux says EIO when nobody holds the other end any more.
    while let Ok(read @ 1..) = ours.read(&mut chunk) {
        bytes.extend_from_slice(&chunk[..read]);
    }
    let status = child.wait()?;
    let mut screen = Screen::default();
    screen.show(&String::from_utf8(bytes)?)?;
    Ok((status, screen.lines()))
}

/// Both ends: ours, and the one that programs see.
fn open() -> Result<(OwnedFd, OwnedFd)> {
    let ours = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::grantpt(&ours)?;
    rustix::pty::unlockpt(&ours)?;
    let path = rustix::pty::ptsname(&ours, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let theirs = rustix::fs::open(path, flags, Mode::empty())?;
    let size = Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&theirs, size)?;
    Ok((ours, theirs))
}

/// Every line so far; the last [`ROWS`] of them are on the screen.
#[derive(Default)]
struct Screen {
    lines: Vec<Vec<char>>,
    row: usize,
    column: usize,
}

impl Screen {
    fn show(&mut self, text: &str) -> Result<()> {
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '\r' => self.column = 0,
                '\n' => self.row += 1,
                '\u{1b}' => {
                    if letters.next() != Some('[') {
                        bail!("an escape that is no control sequence");
                    }
                    let (mut number, mut end) = (String::new(), None);
                    while end.is_none() {
                        match letters.next().context("half a control sequence")? {
                            digit @ ('0'..='9' | ';') => number.push(digit),
                            letter => end = Some(letter),
                        }
                    }
                    self.control(&number, end.context("a control sequence")?)?;
                }
                letter => self.put(letter),
            }
        }
        Ok(())
    }

    fn control(&mut self, number: &str, end: char) -> Result<()> {
        let count = || number.parse::<usize>().unwrap_or(1).max(1);
        match end {
            // Not above the screen's first line.
            'A' => {
                let top = self.lines.len().saturating_sub(ROWS.into());
                self.row = self.row.saturating_sub(count()).max(top);
            }
            'B' => self.row += count(),
            'K' => match number {
                "2" => self.line().clear(),
                _ => {
                    let column = self.column;
                    self.line().truncate(column);
                }
            },
            'm' => {}
            other => bail!("an unknown control sequence: {number}{other}"),
        }
        Ok(())
    }

    fn put(&mut self, letter: char) {
        if self.column == usize::from(COLUMNS) {
            (self.row, self.column) = (self.row + 1, 0);
        }
        let column = self.column;
        let line = self.line();
        if line.len() <= column {
            line.resize(column + 1, ' ');
        }
        line[column] = letter;
        self.column += 1;
    }

    fn line(&mut self) -> &mut Vec<char> {
        if self.lines.len() <= self.row {
            self.lines.resize(self.row + 1, Vec::new());
        }
        &mut self.lines[self.row]
    }

    fn lines(&self) -> Vec<String> {
        let lines = self.lines.iter().map(|line| line.iter().collect::<String>());
        lines.map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect()
    }
}
