//! A peer for the benchmarks: times its own work and says how long it took.
//!
//! Reads a line of JSON on its standard input, answers with a line on its standard output, until its input ends. It measures
//! inside, so neither the pipe nor the parsing of a command is in a figure. A command that cannot be done ends it with status 1
//! and one line on standard error.

mod store;
mod vote;

use serde::Deserialize;
use serde_json::{json, Value};
use std::io::{self, BufRead, Write};
use std::process::ExitCode;

pub type Failure = Box<dyn std::error::Error>;

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Command {
    /// Take what the votes are made of; answers with the bytes that it makes of it, in hexadecimal digits.
    PrepareVote(vote::Input),
    /// Make `calls` votes, the clock around each `inner` of them.
    Vote { calls: usize, inner: usize },
    /// Only the two signatures of a vote, the same way.
    Sign { calls: usize, inner: usize },
    /// Connect, and take the fence that is described.
    PrepareStore(store::Input),
    /// Store `calls` records, the clock around each.
    Store { calls: usize },
}

struct Peer {
    voting: Option<vote::Voting>,
    storing: Option<store::Storing>,
}

impl Peer {
    fn answer(&mut self, command: Command) -> Result<Value, Failure> {
        Ok(match command {
            Command::PrepareVote(input) => {
                let voting = vote::Voting::new(input)?;
                let (record, transaction) = voting.vote()?;
                self.voting = Some(voting);
                json!({"record": hex(&record), "transaction": hex(&transaction)})
            }
            Command::Vote { calls, inner } => {
                let voting = self.voting.as_ref().ok_or("vote came before prepare_vote")?;
                json!({"nanoseconds": voting.timed(calls, inner)?})
            }
            Command::Sign { calls, inner } => {
                let voting = self.voting.as_ref().ok_or("sign came before prepare_vote")?;
                json!({"nanoseconds": voting.timed_signatures(calls, inner)?})
            }
            Command::PrepareStore(input) => {
                self.storing = Some(store::Storing::new(input)?);
                json!({})
            }
            Command::Store { calls } => {
                let storing = self.storing.as_mut().ok_or("store came before prepare_store")?;
                json!({"nanoseconds": storing.timed(calls)?})
            }
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn unhex(digits: &str) -> Result<Vec<u8>, Failure> {
    if digits.len() % 2 != 0 {
        return Err("an odd number of hexadecimal digits".into());
    }
    let pairs = (0..digits.len()).step_by(2);
    Ok(pairs.map(|at| u8::from_str_radix(&digits[at..at + 2], 16)).collect::<Result<_, _>>()?)
}

fn serve() -> Result<(), Failure> {
    let mut peer = Peer { voting: None, storing: None };
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let answer = peer.answer(serde_json::from_str(&line?)?)?;
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("tower-peer: {problem}");
            ExitCode::FAILURE
        }
    }
}
