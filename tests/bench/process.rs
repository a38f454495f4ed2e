//! Processes of our own: started, asked, measured, ended.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A process; ends when dropped.
pub(crate) struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// This program under another name.
    pub(crate) fn start(arguments: &[String]) -> Self {
        Self::spawn(&std::env::current_exe().expect("we are a program"), arguments)
    }

    /// Any program.
    pub(crate) fn spawn(program: &Path, arguments: &[String]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("starts");
        let input = child.stdin.take().expect("is piped");
        let output = BufReader::new(child.stdout.take().expect("is piped"));
        Self { child, input, output }
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.output.read_line(&mut line).expect("a line");
        assert!(read > 0, "a process of the benchmark has ended early");
        line.trim().to_owned()
    }

    /// Asks it and gives its answer.
    pub(crate) fn ask(&mut self, question: &str) -> String {
        writeln!(self.input, "{question}").expect("asked");
        self.line()
    }

    /// How many transactions a relay has had, and how many seconds they took together.
    pub(crate) fn commits(&mut self) -> (u32, f64) {
        let answer = self.ask("commits");
        let numbers = answer.split_once(' ').map(|(count, sum)| (count.parse(), sum.parse()));
        // The floor has nothing to say.
        numbers.map_or((0, 0.0), |(count, sum)| (count.unwrap_or(0), sum.unwrap_or(0.0)))
    }

    /// Fails if it has ended.
    pub(crate) fn must_live(&mut self) {
        let ended = self.child.try_wait().expect("its state");
        assert!(ended.is_none(), "a process of the benchmark has ended early: {ended:?}");
    }

    /// CPU seconds so far, of all its threads.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it lives");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // Fields 14 and 15 of the whole line: user and system time in ticks of 10 ms.
        let ticks = |index: usize| fields[index].parse::<f64>().expect("a number");
        (ticks(11) + ticks(12)) / 100.0
    }

    /// Resident memory now, in MiB.
    pub(crate) fn memory_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("says its memory");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
    }
}

/// Answers whatever it is asked, and ends this process when whoever started it has ended.
pub(crate) fn end_with_parent(answer: impl Fn() -> String + Send + 'static) {
    std::thread::spawn(move || {
        let mut question = String::new();
        while std::io::stdin().read_line(&mut question).is_ok_and(|read| read > 0) {
            writeln!(std::io::stdout(), "{}", answer()).expect("answered");
        }
        std::process::exit(1);
    });
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
