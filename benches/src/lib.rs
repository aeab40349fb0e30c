//! Criterion benches, one hot path each: the wire codec, the L1 cache beside its rivals, the ring round trip, the
//! datagram path beside other runtimes.
