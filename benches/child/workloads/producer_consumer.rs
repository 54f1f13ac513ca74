//! One thread allocates, another frees, all the time in the same direction.
//!
//! Messages travel in batches through bounded channels and the emptied batches travel back, so that the channel
//! costs next to nothing a message. Half of the threads produce, each for its own consumer; a thread that is left
//! over does both in turn.

use super::{Crew, Outcome};
use crate::child::measure::measure;
use std::mem::MaybeUninit;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

const MESSAGES: u64 = 12_000_000;
/// Messages on their way between all producers and consumers, at most: whatever the number of threads, so that more
/// threads do not mean more memory, which the processor's caches would hold less of. Enough that a batch takes much
/// longer than waking the thread that waits for it, and few enough for the caches.
const IN_FLIGHT: usize = 64 << 10;
/// Batches that these travel in.
const BATCHES: usize = 4;

/// 96 bytes, of which only the tag is ever touched.
struct Message {
    tag: u64,
    _rest: MaybeUninit<[u64; 11]>,
}

type Batch = Vec<Box<Message>>;

impl Message {
    fn new(tag: u64) -> Box<Self> {
        Box::new(Self { tag, _rest: MaybeUninit::uninit() })
    }
}

enum Role {
    Producer { full: SyncSender<Batch>, empty: Receiver<Batch> },
    Consumer { full: Receiver<Batch>, empty: SyncSender<Batch> },
    Both(Batch),
}

pub fn run(crew: &Crew) -> Outcome {
    let messages = crew.scaled(MESSAGES);
    let lanes = crew.threads.div_ceil(2);
    let batch_len = (IN_FLIGHT / lanes / BATCHES).max(1);
    let roles = (0..lanes).flat_map(|_| lane(batch_len)).collect();
    let roles = alone_if_odd(roles, crew.threads, batch_len);
    let (sums, cost) = measure(|| {
        crew.each_with(roles, |index, role| {
            let mut tags = Crew::part(messages, lanes, index / 2);
            match role {
                Role::Producer { full, empty } => {
                    // Ends by dropping `full`, which tells the consumer.
                    for mut batch in empty {
                        if !fill(&mut batch, &mut tags) {
                            break;
                        }
                        full.send(batch).expect("the consumer outlives us");
                    }
                    0
                }
                Role::Consumer { full, empty } => {
                    let mut sum = 0u64;
                    for mut batch in full {
                        sum = sum.wrapping_add(drain(&mut batch));
                        // The producer may have gone: then nobody needs the batch.
                        let _ = empty.send(batch);
                    }
                    sum
                }
                Role::Both(mut batch) => {
                    let mut sum = 0u64;
                    while fill(&mut batch, &mut tags) {
                        sum = sum.wrapping_add(drain(&mut batch));
                    }
                    sum
                }
            }
        })
    });
    let checksum = sums.into_iter().fold(0, u64::wrapping_add);
    let expected = (u128::from(messages) * u128::from(messages - 1) / 2) as u64;
    assert_eq!(checksum, expected, "a message was lost or damaged");
    Outcome { ops: messages, checksum, cost }
}

fn lane(batch_len: usize) -> [Role; 2] {
    let (full_in, full_out) = sync_channel(BATCHES);
    let (empty_in, empty_out) = sync_channel(BATCHES);
    for _ in 0..BATCHES {
        let batch = Vec::with_capacity(batch_len);
        empty_in.send(batch).expect("there is room");
    }
    let producer = Role::Producer { full: full_in, empty: empty_out };
    let consumer = Role::Consumer { full: full_out, empty: empty_in };
    [producer, consumer]
}

fn alone_if_odd(mut roles: Vec<Role>, threads: usize, batch_len: usize) -> Vec<Role> {
    if threads % 2 == 1 {
        roles.truncate(threads - 1);
        roles.push(Role::Both(Vec::with_capacity(batch_len)));
    }
    roles
}

/// Allocates a batch of messages; says whether there were any left to send.
fn fill(batch: &mut Batch, tags: &mut std::ops::Range<u64>) -> bool {
    let messages = tags.take(batch.capacity());
    batch.extend(messages.map(Message::new));
    !batch.is_empty()
}

/// Frees a batch of messages, having read them.
fn drain(batch: &mut Batch) -> u64 {
    let tags = batch.drain(..).map(|message| message.tag);
    tags.fold(0, u64::wrapping_add)
}
