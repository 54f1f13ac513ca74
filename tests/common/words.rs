//! How messages say where something was written.

/// So many bytes.
pub fn bytes(count: usize) -> String {
    if count == 1 { "1 byte".into() } else { format!("{count} bytes") }
}

/// So many bytes behind an allocation's last.
pub fn past_end(by: usize) -> String {
    let by = if by == 0 { "right".into() } else { bytes(by) };
    format!("write {by} past the end of 0x")
}

/// So many bytes into what was freed.
pub fn into_freed(by: usize) -> String {
    let by = if by == 0 { "at its beginning".into() } else { format!("{} into it", bytes(by)) };
    format!(" after it was freed, {by}: ")
}
