//! A block of memory that knows what was written into it.

/// Heap memory of a chosen size, of which only the first word is touched: the allocator is what is measured.
pub struct Block(Vec<u8>);

impl Block {
    /// The smallest block that can hold its tag.
    pub const MIN: usize = size_of::<u64>();

    #[inline]
    pub fn new(size: usize, tag: u64) -> Self {
        let mut bytes = Vec::with_capacity(size.max(Self::MIN));
        bytes.extend_from_slice(&tag.to_le_bytes());
        Self(bytes)
    }

    /// The tag as it stands in memory now.
    #[inline]
    pub fn tag(&self) -> u64 {
        u64::from_le_bytes(*self.0.first_chunk().expect("a tag was written"))
    }
}
