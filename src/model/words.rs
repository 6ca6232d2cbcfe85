//! The macro `words`, which defines enumerations in which each value has a word.

/// Defines an enumeration in which each value has a word: its name in scripts, tables and stored records. The
/// word of a value must never change, because existing scripts, dashboards and records contain it.
macro_rules! words {
    (
        $(#[$about:meta])*
        pub enum $name:ident { $($(#[$about_value:meta])* $value:ident = $word:literal,)+ }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$about_value])* $value,)+
        }

        impl $name {
            /// All values, in the order of their definition.
            pub const ALL: &'static [$name] = &[$($name::$value,)+];

            /// Returns the word that tables, JSON and metrics use for the value.
            pub const fn word(self) -> &'static str {
                match self {
                    $($name::$value => $word,)+
                }
            }

            /// Returns the value with this word.
            pub fn from_word(word: &str) -> Option<$name> {
                match word {
                    $($word => Some($name::$value),)+
                    _ => None,
                }
            }
        }
    };
}

pub(crate) use words;
