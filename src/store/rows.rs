//! Rows that are bound to a statement as one array of a composite type, in PostgreSQL's binary form.
//!
//! The server reads such an array about five times as fast as the same rows in JSON, and a single row no
//! slower. The types are made by a migration and never altered (see there), as what is sent names its columns by
//! their places: [`ArgRow::COLUMNS`] says which they are, and `tests/plans.rs` compares that with the schema.

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

/// Says how something is written as a row of a composite type: its SQL type, and for each column, in the order of
/// the type, what its type and its value are. Up to 64 columns.
macro_rules! arg_row {
    (
        $(#[$doc:meta])*
        $visibility:vis $sql:ident($name:literal) of $of:ty, |$row:ident| {
            $($column:ident: $type:ty = $value:expr),+ $(,)?
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, diesel::sql_types::SqlType, diesel::query_builder::QueryId)]
        #[diesel(postgres_type(name = $name))]
        $visibility struct $sql;

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
