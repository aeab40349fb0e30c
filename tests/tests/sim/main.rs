//! The simulator's scenarios. How to replay a seed: the front page of the crate `tests`.

mod weather;
