//! Two macros for what differs between the shipped atomics and loom's: loom's constructors are not `const`.

/// Declares a function that is `const` in the shipped build and plain under the models.
macro_rules! const_fn {
    ($(#[$meta:meta])* $vis:vis const fn $($rest:tt)*) => {
        #[cfg(not(millpond_loom))]
        $(#[$meta])* $vis const fn $($rest)*
        #[cfg(millpond_loom)]
        $(#[$meta])* $vis fn $($rest)*
    };
}

/// An array whose every element is made anew by the same expression.
#[cfg(not(millpond_loom))]
macro_rules! array_of {
    ($element:expr; $len:expr) => {
        [const { $element }; $len]
    };
}

/// An array whose every element is made anew by the same expression.
#[cfg(millpond_loom)]
macro_rules! array_of {
    ($element:expr; $len:expr) => {
        core::array::from_fn::<_, { $len }, _>(|_| $element)
    };
}
