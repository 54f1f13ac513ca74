//! The heap as a value over a fake system: conservation under random use, exhaustion at every call, upkeep by a clock
//! that the tests move, adoption and repair of what vanished threads left, and misuse.

mod acts;
mod adoption;
mod asked;
mod exhaustion;
mod huge;
mod large;
mod limited;
mod misuse;
mod preempted;
mod random;
mod repair;
mod shards;
mod thinning;
mod time;
mod vanished;
mod world;
