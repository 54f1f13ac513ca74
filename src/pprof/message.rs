//! A message of Protocol Buffers that is being made, in a buffer of fixed size: as much as this module writes of them.
//!
//! A field is a varint of its number and kind; a number is a varint, seven bits a byte, lowest first; what has a length has
//! that before it. Zeros are left out, as the format wants it.
//!
//! Invariant: `len` bytes are written, and what its maker puts in fits.

use super::Sink;

const NUMBER: u32 = 0;
const BYTES: u32 = 2;

/// See the module's documentation.
pub(super) struct Message<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

/// The bytes of a number, and how many they are.
fn varint(mut number: u64) -> ([u8; 10], usize) {
    let mut bytes = [0; 10];
    let mut len = 0;
    loop {
        bytes[len] = number as u8 & 0x7f | if number > 0x7f { 0x80 } else { 0 };
        len += 1;
        number >>= 7;
        if number == 0 {
            return (bytes, len);
        }
    }
}

impl<const N: usize> Message<N> {
    pub(super) const fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn put(mut self, number: u64) -> Self {
        let (bytes, len) = varint(number);
        self.bytes[self.len..self.len + len].copy_from_slice(&bytes[..len]);
        self.len += len;
        self
    }

    pub(super) fn number(self, field: u32, number: u64) -> Self {
        if number == 0 { self } else { self.put((field << 3 | NUMBER) as u64).put(number) }
    }

    /// Field and length of something that is written behind it.
    pub(super) fn head(self, field: u32, len: usize) -> Self {
        self.put((field << 3 | BYTES) as u64).put(len as u64)
    }

    /// A field of many numbers.
    pub(super) fn packed(self, field: u32, numbers: impl Iterator<Item = u64> + Clone) -> Self {
        let len = numbers.clone().map(|number| varint(number).1).sum();
        numbers.fold(self.head(field, len), Self::put)
    }

    /// Writes it as a field of the message around it.
    pub(super) fn send<E>(self, field: u32, sink: Sink<'_, E>) -> Result<(), E> {
        sink(Message::<64>::new().head(field, self.len).bytes())?;
        sink(self.bytes())
    }
}
