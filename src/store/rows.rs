//! Rows that are bound to a statement as one array of a composite type, in PostgreSQL's binary form.
//!
//! The server reads such an array about five times as fast as the same rows in JSON, and a single row no
//! slower. The types are made by a migration and never altered (see there), as what is sent names its columns by
//! their places: [`ArgRow::COLUMNS`] says which they are, and `tests/plans.rs` compares that with the schema.
//!
//! Their numbers differ from one database to the next, and Diesel looks them up only at the price of serializing
//! everything twice. So none is said: a statement casts its parameter (`$1::arg_event[]`), and PostgreSQL, from 14
//! on, takes an array whose type it does not know as its header for one of the type that it expects.

use diesel::pg::PgTypeMetadata;

/// A number that no type of PostgreSQL's own has, which it would insist on.
const OF_NO_TYPE: u32 = u32::MAX;

/// For a parameter: whatever the statement's text says.
const AS_IN_THE_TEXT: u32 = 0;

/// What Diesel is told of the types of rows, and of their arrays.
pub fn unnumbered() -> PgTypeMetadata {
    PgTypeMetadata::new(OF_NO_TYPE, AS_IN_THE_TEXT)
}

/// What is written as a row of a composite type.
pub trait ArgRow {
    /// The type's name.
    const TYPE: &'static str;
    /// Its columns, in their order.
    const COLUMNS: &'static [&'static str];
}

/// The name and the columns of an [`ArgRow`].
pub type Columns = (&'static str, &'static [&'static str]);

/// [`ArgRow::TYPE`] and [`ArgRow::COLUMNS`] together.
#[must_use]
pub const fn columns_of<T: ArgRow>() -> Columns {
    (T::TYPE, T::COLUMNS)
}

/// Says how something is written as a row of a composite type: a name for the type in Rust and its name in SQL, and
/// for each column, in the order of the type, what its type and its value are. Up to 64 columns.
macro_rules! arg_row {
    (
        $(#[$doc:meta])*
        $visibility:vis $sql:ident($name:literal) of $of:ty, |$row:ident| {
            $($column:ident: $type:ty = $value:expr),+ $(,)?
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, diesel::sql_types::SqlType, diesel::query_builder::QueryId)]
        $visibility struct $sql;

        impl diesel::sql_types::HasSqlType<$sql> for diesel::pg::Pg {
            fn metadata(_: &mut Self::MetadataLookup) -> diesel::pg::PgTypeMetadata {
                $crate::store::unnumbered()
            }
        }

        impl $crate::store::ArgRow for $of {
            const TYPE: &'static str = $name;
            const COLUMNS: &'static [&'static str] = &[$(stringify!($column)),+];
        }

        impl diesel::serialize::ToSql<$sql, diesel::pg::Pg> for $of {
            fn to_sql<'b>(
                &'b self,
                out: &mut diesel::serialize::Output<'b, '_, diesel::pg::Pg>,
            ) -> diesel::serialize::Result {
                let $row = self;
                diesel::serialize::WriteTuple::<($($type,)+)>::write_tuple(&($($value,)+), out)
            }
        }
    };
}
pub(crate) use arg_row;
