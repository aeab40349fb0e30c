//! Bytes of a peer as Request frames: never a panic, and what is accepted keeps its limits and survives the round trip.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transport::wire::{Request, Frames, Message, REQUEST_BYTES_MAX, encode};

fuzz_target!(|bytes: &[u8]| {
    let mut frames = Frames::new(REQUEST_BYTES_MAX);
    frames.handle_bytes(bytes);
    while let Ok(Some(message)) = frames.poll_message::<Request>() {
        assert_eq!(message.check(), Ok(()));
        let mut again = Frames::new(REQUEST_BYTES_MAX);
        again.handle_bytes(&encode(&message));
        assert_eq!(again.poll_message::<Request>(), Ok(Some(message)));
    }
});
