//! A server of tasks: clients ask stores for values through channels and get each answer by a channel of its own. Tasks
//! move between tokio's threads, so what one thread allocates another frees.

use super::sizes::total;
use crate::child::measure::measure;
use crate::child::workloads::{Crew, Outcome};
use fastrand::Rng;
use std::collections::HashMap;
use tokio::sync::{mpsc, oneshot};

const REQUESTS: u64 = 400_000;
const CLIENTS: u64 = 64;
const STORES: usize = 8;
/// Requests that wait for a store, at most.
const QUEUE: usize = 64;

struct Request {
    name: String,
    value: Vec<u8>,
    answer: oneshot::Sender<Vec<u8>>,
}

pub fn run(crew: &Crew) -> Outcome {
    let ops = crew.scaled(REQUESTS).max(CLIENTS);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(crew.threads).build();
    let runtime = runtime.expect("threads to run on");
    let (checksum, cost) = measure(|| runtime.block_on(serve(ops)));
    Outcome { ops, checksum, cost }
}

async fn serve(requests: u64) -> u64 {
    let (senders, stores): (Vec<_>, Vec<_>) = (0..STORES)
        .map(|_| {
            let (sender, receiver) = mpsc::channel(QUEUE);
            (sender, tokio::spawn(keep(receiver)))
        })
        .unzip();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let share = Crew::part(requests, CLIENTS as usize, client as usize);
            tokio::spawn(ask(client, share.end - share.start, senders.clone()))
        })
        .collect();
    drop(senders);
    let mut sum = 0u64;
    for client in clients {
        sum = sum.wrapping_add(client.await.expect("no panic"));
    }
    for store in stores {
        sum = sum.wrapping_add(store.await.expect("no panic"));
    }
    sum
}

/// A store: answers each request with the value that it replaces.
async fn keep(mut requests: mpsc::Receiver<Request>) -> u64 {
    let mut values: HashMap<String, Vec<u8>> = HashMap::new();
    while let Some(Request { name, value, answer }) = requests.recv().await {
        let old = values.insert(name, value).unwrap_or_default();
        answer.send(old).expect("the client waits for it");
    }
    total(values.values().map(|value| value.len() as u64))
}

/// A client: its names are its own, so it knows what the answers must be.
async fn ask(client: u64, requests: u64, stores: Vec<mpsc::Sender<Request>>) -> u64 {
    let mut rng = Rng::with_seed(client);
    let mut known: HashMap<String, usize> = HashMap::new();
    let mut sum = 0u64;
    for _ in 0..requests {
        let nth = rng.usize(..256);
        let name = format!("client {client}, value {nth}");
        let value = vec![nth as u8; rng.usize(16..1500)];
        let (answer, answered) = oneshot::channel();
        let expected = known.insert(name.clone(), value.len()).unwrap_or(0);
        let request = Request { name, value, answer };
        assert!(stores[nth % STORES].send(request).await.is_ok(), "the store is gone");
        let old = answered.await.expect("the store answers");
        assert!(old.len() == expected && old.iter().all(|&byte| byte == nth as u8), "a value was damaged");
        sum = sum.wrapping_add(old.len() as u64);
    }
    sum
}
