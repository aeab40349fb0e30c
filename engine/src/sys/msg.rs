//! `sendmsg` and `recvmsg` of datagram trains: who, from where, marked how, cut into what.

use super::address::{self, Family, NAME_BYTES};
use super::control::{RECEIVE_CONTROL_BYTES, ReceiveControl, SEND_CONTROL_BYTES, SendControl};
use bytes::BytesMut;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Where a train goes and how its datagrams are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransmitTarget {
    /// The peer; IPv4 and v4-mapped IPv6 mean the same.
    pub remote: SocketAddr,
    /// Address to send from, for hosts with several; `None` lets the route decide.
    pub src_ip: Option<IpAddr>,
    /// The two ECN bits (RFC 3168), or `None` to leave the socket's default.
    pub ecn: Option<u8>,
    /// Bytes per datagram if the payload holds several; the last may be shorter.
    pub segment_size: Option<usize>,
}

impl TransmitTarget {
    fn control(&self, segmented: bool) -> SendControl {
        let segment_size = self.segment_size.filter(|_| segmented);
        SendControl {
            peer_is_v4: self.remote.ip().to_canonical().is_ipv4(),
            src_ip: self.src_ip,
            ecn: self.ecn,
            // A size above `u16` exceeds any payload, so the train is one datagram anyway.
            segment_size: segment_size.and_then(|size| u16::try_from(size).ok()),
        }
    }
}

#[derive(Debug)]
#[repr(C, align(8))]
struct Aligned<const BYTES: usize>([u8; BYTES]);

/// The header, vector, name and control data of one send, at one address for its whole life.
#[derive(Debug)]
pub(crate) struct Envelope {
    header: libc::msghdr,
    vector: libc::iovec,
    name: [u8; NAME_BYTES],
    control: Aligned<SEND_CONTROL_BYTES>,
}

impl Envelope {
    /// Makes an empty envelope, boxed because [`seal`](Self::seal) points into it.
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self {
            header: empty_header(),
            vector: empty_vector(),
            name: [0; NAME_BYTES],
            control: Aligned([0; SEND_CONTROL_BYTES]),
        })
    }

    /// Addresses `payload` to `target` and returns the header to give to the kernel.
    ///
    /// The pointer holds while neither the envelope nor the payload is moved, changed or freed.
    pub(crate) fn seal(
        &mut self,
        payload: &[u8],
        target: &TransmitTarget,
        family: Family,
        segmented: bool,
    ) -> *const libc::msghdr {
        let name_len = address::encode(target.remote, family, &mut self.name);
        let control_len = target.control(segmented).encode(&mut self.control.0);
        // The kernel only reads through the vector of a send (sendmsg(2)).
        self.vector.iov_base = payload.as_ptr().cast_mut().cast();
        self.vector.iov_len = payload.len();
        self.header.msg_name = self.name.as_mut_ptr().cast();
        self.header.msg_namelen = name_len as libc::socklen_t;
        self.header.msg_iov = &raw mut self.vector;
        self.header.msg_iovlen = 1;
        self.header.msg_control = self.control.0.as_mut_ptr().cast();
        self.header.msg_controllen = control_len as _;
        &raw const self.header
    }
}

/// Sends `payload` now, never waiting; returns the bytes the kernel took.
///
/// # Errors
/// `EAGAIN` when the send buffer is full, and the rest of sendmsg(2).
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    envelope: &mut Envelope,
    payload: &[u8],
    target: &TransmitTarget,
    family: Family,
    segmented: bool,
) -> io::Result<usize> {
    let header = envelope.seal(payload, target, family, segmented);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `header` points into `envelope` and `payload`, both borrowed until the call returns;
    // the kernel reads them and keeps no pointer after a plain sendmsg.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), header, flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// What came with a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// The sender, v4-mapped ones as IPv4.
    pub(crate) remote: SocketAddr,
    /// Local address, ECN, stride.
    pub(crate) control: ReceiveControl,
}

impl Arrival {
    /// Reads name and control bytes; `None` if the datagram must be dropped.
    ///
    /// Dropped is what lost bytes on the way in (`MSG_TRUNC`), lost control data, so that the
    /// stride is unknown (`MSG_CTRUNC`), or has no readable sender.
    pub(crate) fn read(name: &[u8], control: &[u8], flags: i32, family: Family) -> Option<Self> {
        if flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
            return None;
        }
        Some(Self { remote: address::decode(name)?, control: ReceiveControl::decode(control, family) })
    }
}

/// Name and control buffers of plain receives, used again and again.
#[derive(Debug)]
pub(crate) struct Inbound {
    name: [u8; NAME_BYTES],
    control: Aligned<RECEIVE_CONTROL_BYTES>,
}

impl Inbound {
    /// Makes empty buffers.
    pub(crate) fn new() -> Self {
        Self { name: [0; NAME_BYTES], control: Aligned([0; RECEIVE_CONTROL_BYTES]) }
    }

    /// Receives one train into the spare room of the empty `slot`, never waiting.
    ///
    /// # Errors
    /// `EAGAIN` when nothing is there, and the rest of recvmsg(2).
    pub(crate) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        slot: &mut BytesMut,
        family: Family,
    ) -> io::Result<Option<Arrival>> {
        debug_assert!(slot.is_empty(), "a receive starts at the head of its slot");
        let room = slot.spare_capacity_mut();
        let room_bytes = room.len();
        let mut vector = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room_bytes };
        let mut header = empty_header();
        header.msg_name = self.name.as_mut_ptr().cast();
        header.msg_namelen = NAME_BYTES as libc::socklen_t;
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        header.msg_control = self.control.0.as_mut_ptr().cast();
        header.msg_controllen = RECEIVE_CONTROL_BYTES as _;
        // SAFETY: `header` points at `vector`, at the spare room of `slot` and at the buffers of
        // `self`, all borrowed mutably here and untouched until the call returns.
        let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
        let len = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        // SAFETY: the kernel wrote `len` bytes from the head of the spare room, whose size bounds
        // `len` since MSG_TRUNC was not passed in; the slot was empty, so they are its first bytes.
        unsafe { slot.set_len(len.min(room_bytes)) };
        let name = &self.name[..NAME_BYTES.min(header.msg_namelen as usize)];
        let control_len = RECEIVE_CONTROL_BYTES.min(header.msg_controllen);
        let control = &self.control.0[..control_len];
        Ok(Arrival::read(name, control, header.msg_flags, family))
    }
}

/// Returns a header with no pointers in it.
pub(crate) fn empty_header() -> libc::msghdr {
    // SAFETY: `msghdr` is plain data of integers and raw pointers, for which all zero is valid;
    // written so because some C libraries have private padding fields in it.
    unsafe { std::mem::zeroed() }
}

fn empty_vector() -> libc::iovec {
    libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }
}
