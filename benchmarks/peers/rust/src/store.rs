//! The fenced transaction of the tower store through etcd-client, over mutual TLS.

use crate::{unhex, Failure};
use etcd_client::{Certificate, Client, Compare, CompareOp, ConnectOptions, Identity, TlsOptions, Txn, TxnOp};
use serde::Deserialize;
use std::fs;
use std::time::Instant;
use tokio::runtime::{Builder, Runtime};

#[derive(Deserialize)]
pub struct Input {
    endpoint: String,
    ca_cert: String,
    cert: String,
    key: String,
    /// Of the keys, as `<identity>/tower`; the instance key exists.
    identity: String,
    instance: String,
    instance_revision: i64,
    record: String,
}

pub struct Storing {
    runtime: Runtime,
    client: Client,
    instance_key: String,
    tower_key: String,
    instance: Vec<u8>,
    instance_revision: i64,
    record: Vec<u8>,
    revision: i64,
}

impl Storing {
    pub fn new(input: Input) -> Result<Self, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let tls = TlsOptions::new()
            .domain_name("localhost")
            .ca_certificate(Certificate::from_pem(fs::read(&input.ca_cert)?))
            .identity(Identity::from_pem(fs::read(&input.cert)?, fs::read(&input.key)?));
        let options = ConnectOptions::new().with_tls(tls);
        let client = runtime.block_on(Client::connect([input.endpoint], Some(options)))?;
        Ok(Self {
            runtime,
            client,
            instance_key: format!("{}/instance", input.identity),
            tower_key: format!("{}/tower", input.identity),
            instance: unhex(&input.instance)?,
            instance_revision: input.instance_revision,
            record: unhex(&input.record)?,
            revision: 0,
        })
    }

    fn store(&mut self) -> Result<(), Failure> {
        let (held, tower) = (self.instance_key.as_str(), self.tower_key.as_str());
        let transaction = Txn::new()
            .when([
                Compare::mod_revision(held, CompareOp::Equal, self.instance_revision),
                Compare::value(held, CompareOp::Equal, self.instance.clone()),
                Compare::mod_revision(tower, CompareOp::Equal, self.revision),
            ])
            .and_then([TxnOp::put(tower, self.record.clone(), None)])
            .or_else([TxnOp::get(held, None), TxnOp::get(tower, None)]);
        let answer = self.runtime.block_on(self.client.txn(transaction))?;
        if !answer.succeeded() {
            return Err("a fenced transaction was refused".into());
        }
        self.revision = answer.header().ok_or("an answer without a header")?.revision();
        Ok(())
    }

    /// Nanoseconds of each of so many stores.
    pub fn timed(&mut self, calls: usize) -> Result<Vec<f64>, Failure> {
        let mut taken = Vec::with_capacity(calls);
        for _ in 0..calls {
            let began = Instant::now();
            self.store()?;
            taken.push(began.elapsed().as_nanos() as f64);
        }
        Ok(taken)
    }
}
