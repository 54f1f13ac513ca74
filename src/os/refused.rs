//! Why the system refuses, as it says in `errno`, and in words: libc's own may allocate, and go by the language that is set.

use core::fmt;

/// The system does not, for this reason, one of `errno`'s.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused(pub(crate) i32);

impl Refused {
    pub(crate) const TOO_LONG: Self = Self(libc::ENAMETOOLONG);
}

impl fmt::Display for Refused {
    #[unsafe(link_section = ".millpond_cold")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match self.0 {
            libc::ENOENT => "no such file or folder",
            libc::ENOTDIR => "a file where a folder should be",
            libc::EISDIR => "it is a folder",
            libc::EACCES => "permission denied",
            libc::EPERM => "not permitted",
            libc::EROFS => "the file system is read-only",
            libc::ENOSPC => "no space left",
            libc::EDQUOT => "the quota is used up",
            libc::EFBIG => "the file is too large",
            libc::EMFILE | libc::ENFILE => "too many open files",
            libc::ENAMETOOLONG => "the path is too long",
            libc::ELOOP => "too many symbolic links",
            libc::ENXIO => "nobody reads it, or there is no such device",
            libc::EPIPE => "nobody reads it",
            libc::EBADF => "it is closed",
            libc::EIO => "input or output has failed",
            libc::ENOMEM => "no memory",
            _ => return write!(f, "errno {}", self.0),
        };
        write!(f, "{reason} (errno {})", self.0)
    }
}
