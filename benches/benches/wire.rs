//! The wire codec: what a read request, a data head and a directory page cost to encode, and to validate and decode.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use transport::wire::{
    Attr, Entry, FileId, Frames, Kind, Message, RESPONSE_BYTES_MAX, Request, Response, Timestamp, encode,
};

const PAGE_ENTRIES: usize = 512;

fn attr(ino: u64) -> Attr {
    let time = Timestamp { seconds: 1_700_000_000, nanoseconds: 123_456_789 };
    Attr {
        id: FileId { ino, birth_ns: 1 },
        kind: Kind::File,
        mode: 0o644,
        nlink: 1,
        uid: 1_000,
        gid: 1_000,
        rdev: 0,
        size: 10_240,
        blocks: 24,
        atime: time,
        mtime: time,
        ctime: time,
        version: ino,
    }
}

fn page() -> Response {
    let entry = |n: usize| Entry {
        name: format!("frame.{n:06}.exr").into_bytes(),
        cookie: n as u64 + 1,
        attr: attr(n as u64 + 2),
    };
    Response::Page { entries: (0..PAGE_ENTRIES).map(entry).collect(), end: false }
}

fn decode<M: Message>(bytes: &[u8]) -> M {
    let mut frames = Frames::new(RESPONSE_BYTES_MAX);
    frames.handle_bytes(bytes);
    frames.poll_message().expect("our own bytes are valid").expect("the message is whole")
}

fn codec(criterion: &mut Criterion) {
    let request = Request::Read { handle: 7, offset: 1 << 30, length: 1 << 20 };
    let head = Response::Data { data: 1 << 20, size: 1 << 40, version: 3 };
    let listing = page();
    let mut group = criterion.benchmark_group("wire");
    group.bench_function("encode/read", |b| b.iter(|| encode(black_box(&request))));
    group.bench_function("encode/data", |b| b.iter(|| encode(black_box(&head))));
    let (request, head, page) = (encode(&request), encode(&head), encode(&listing));
    group.bench_function("decode/read", |b| b.iter(|| decode::<Request>(black_box(&request))));
    group.bench_function("decode/data", |b| b.iter(|| decode::<Response>(black_box(&head))));
    group.throughput(Throughput::Elements(PAGE_ENTRIES as u64));
    group.bench_function("encode/page", |b| {
        b.iter_batched(|| listing.clone(), |page| encode(&page), BatchSize::SmallInput)
    });
    group.bench_function("decode/page", |b| b.iter(|| decode::<Response>(black_box(&page))));
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
