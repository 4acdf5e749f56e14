//! One vote as a validator written in Rust makes it: record, encode and sign the tower, build and sign the transaction.

use crate::{unhex, Failure};
use ed25519_dalek::{Signer, SigningKey};
use serde::{Deserialize, Serialize, Serializer};
use solana_hash::Hash;
use solana_instruction::{AccountMeta, Instruction};
use solana_message::Message;
use solana_pubkey::Pubkey;
use solana_vote_interface::instruction::VoteInstruction;
use solana_vote_interface::state::{serde_tower_sync, BlockTimestamp, Lockout, TowerSync, VoteState1_14_11, MAX_LOCKOUT_HISTORY};
use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Instant;

const RECORD_HEADER: usize = 4 + 64 + 8; // version, signature, length of the body
const TRANSACTION_HEADER: usize = 1 + 64; // count of signatures, signature

#[derive(Deserialize)]
pub struct Input {
    seed: String,
    vote_account: String,
    blockhash: String,
    bank_hash: String,
    block_id: String,
    timestamp: i64,
    /// Voted for before the clock starts, in a row.
    slots: Vec<u64>,
    slot: u64,
    threshold_depth: usize,
    threshold_size: f64,
}

/// The lockouts of a voter.
#[derive(Clone)]
struct Stack {
    votes: VecDeque<Lockout>,
    root: Option<u64>,
}

impl Stack {
    /// The rule of the vote program for one more vote.
    fn record(&mut self, slot: u64) {
        while self.votes.back().is_some_and(|vote| !vote.is_locked_out_at_slot(slot)) {
            self.votes.pop_back();
        }
        if self.votes.len() == MAX_LOCKOUT_HISTORY {
            self.root = self.votes.pop_front().map(|vote| vote.slot());
        }
        self.votes.push_back(Lockout::new(slot));
        let depth = self.votes.len();
        for (index, vote) in self.votes.iter_mut().enumerate() {
            if depth > index + vote.confirmation_count() as usize {
                vote.increase_confirmation_count(1);
            }
        }
    }
}

/// The signed part of a saved tower.
#[derive(Serialize)]
struct Tower<'a> {
    node_pubkey: Pubkey,
    threshold_depth: usize,
    threshold_size: f64,
    vote_state: VoteState1_14_11,
    last_vote: LastVote<'a>,
    last_timestamp: BlockTimestamp,
}

#[derive(Serialize)]
#[allow(dead_code)] // the other kinds give the last one its tag
enum LastVote<'a> {
    Vote,
    VoteStateUpdate,
    CompactVoteStateUpdate,
    #[serde(serialize_with = "tower_sync")]
    TowerSync(&'a TowerSync),
}

fn tower_sync<S: Serializer>(vote: &&TowerSync, serializer: S) -> Result<S::Ok, S::Error> {
    serde_tower_sync::serialize(vote, serializer)
}

#[derive(Serialize)]
#[allow(dead_code)]
enum SavedTower<'a> {
    V1_17_14,
    Current(Signature, #[serde(with = "serde_bytes")] &'a [u8]),
}

#[derive(Serialize)]
struct Signature(#[serde(with = "serde_bytes_array")] [u8; 64]);

/// 64 bytes without a length before them.
mod serde_bytes_array {
    use serde::ser::{SerializeTuple, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8; 64], serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(bytes.len())?;
        for byte in bytes {
            tuple.serialize_element(byte)?;
        }
        tuple.end()
    }
}

pub struct Voting {
    key: SigningKey,
    identity: Pubkey,
    vote_account: Pubkey,
    blockhash: Hash,
    bank_hash: Hash,
    block_id: Hash,
    before: Stack,
    input: Input,
}

fn key(digits: &str) -> Result<[u8; 32], Failure> {
    unhex(digits)?.try_into().map_err(|_| "a key or a hash has 32 bytes".into())
}

impl Voting {
    pub fn new(input: Input) -> Result<Self, Failure> {
        let signing = SigningKey::from_bytes(&key(&input.seed)?);
        let mut before = Stack { votes: VecDeque::with_capacity(MAX_LOCKOUT_HISTORY + 1), root: None };
        for slot in &input.slots {
            before.record(*slot);
        }
        Ok(Self {
            identity: Pubkey::new_from_array(signing.verifying_key().to_bytes()),
            key: signing,
            vote_account: Pubkey::new_from_array(key(&input.vote_account)?),
            blockhash: Hash::new_from_array(key(&input.blockhash)?),
            bank_hash: Hash::new_from_array(key(&input.bank_hash)?),
            block_id: Hash::new_from_array(key(&input.block_id)?),
            before,
            input,
        })
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }

    /// The record for the store, and the transaction.
    pub fn vote(&self) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        let mut stack = self.before.clone();
        stack.record(self.input.slot);
        let timestamp = self.input.timestamp;
        let mut vote = TowerSync::new(stack.votes.clone(), stack.root, self.bank_hash, self.block_id);
        vote.timestamp = Some(timestamp);
        let record = self.record(stack, &vote)?;
        Ok((record, self.transaction(vote)?))
    }

    fn record(&self, stack: Stack, vote: &TowerSync) -> Result<Vec<u8>, Failure> {
        let tower = Tower {
            node_pubkey: self.identity,
            threshold_depth: self.input.threshold_depth,
            threshold_size: self.input.threshold_size,
            vote_state: VoteState1_14_11 { votes: stack.votes, root_slot: stack.root, ..VoteState1_14_11::default() },
            last_vote: LastVote::TowerSync(vote),
            last_timestamp: BlockTimestamp { slot: self.input.slot, timestamp: self.input.timestamp },
        };
        let data = bincode::serialize(&tower)?;
        let signature = Signature(self.sign(&data));
        Ok(bincode::serialize(&SavedTower::Current(signature, &data))?)
    }

    fn transaction(&self, vote: TowerSync) -> Result<Vec<u8>, Failure> {
        let accounts = vec![AccountMeta::new(self.vote_account, false), AccountMeta::new_readonly(self.identity, true)];
        let data = bincode::serialize(&VoteInstruction::TowerSync(vote))?;
        let instruction = Instruction { program_id: solana_vote_interface::program::id(), accounts, data };
        let message = Message::new_with_blockhash(&[instruction], Some(&self.identity), &self.blockhash).serialize();
        let mut transaction = Vec::with_capacity(65 + message.len());
        transaction.push(1); // one signature
        transaction.extend_from_slice(&self.sign(&message));
        transaction.extend_from_slice(&message);
        Ok(transaction)
    }

    /// Nanoseconds of one vote, so many times; each is the average of `inner` votes.
    pub fn timed(&self, calls: usize, inner: usize) -> Result<Vec<f64>, Failure> {
        timed(calls, inner, || self.vote())
    }

    /// The same for the two signatures in a vote alone.
    pub fn timed_signatures(&self, calls: usize, inner: usize) -> Result<Vec<f64>, Failure> {
        let (record, transaction) = self.vote()?;
        let (body, message) = (&record[RECORD_HEADER..], &transaction[TRANSACTION_HEADER..]);
        timed(calls, inner, || Ok((self.sign(black_box(body)), self.sign(black_box(message)))))
    }
}

fn timed<T>(calls: usize, inner: usize, work: impl Fn() -> Result<T, Failure>) -> Result<Vec<f64>, Failure> {
    let mut taken = Vec::with_capacity(calls);
    for _ in 0..calls {
        let began = Instant::now();
        for _ in 0..inner {
            black_box(work()?);
        }
        taken.push(began.elapsed().as_nanos() as f64 / inner as f64);
    }
    Ok(taken)
}
