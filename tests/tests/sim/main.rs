//! The simulator's scenarios. How to replay a seed: the front page of the crate `tests`.

mod change;
mod entrance;
mod fairness;
mod hostile;
mod impostor;
mod outage;
mod weather;
