//! SQL from a file, run through Diesel as a cached prepared statement.
//!
//! Diesel's own `sql_query` is prepared anew at each call, which costs a round trip and a plan.
//! A [`Statement`] is cached by its text instead. Its text names parameters as PostgreSQL does,
//! `$1` to `$9`, in any order and as often as it likes; on the way out they are numbered in the
//! order in which they stand, since that is what Diesel's builder can do. In a comment (`--`) they are not
//! parameters. No text has two dashes in a literal.
//!
//! So is a [`Fragment`] of a query that Diesel builds: with one of its `sql` the whole query is prepared anew.

use std::borrow::Cow;
use std::marker::PhantomData;

use diesel::expression::{
    AppearsOnTable, Expression, SelectableExpression, TypedExpressionType, ValidGrouping,
    is_aggregate,
};
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::serialize::ToSql;
use diesel::sql_types::{HasSqlType, SqlType, Untyped};

/// A statement and what is bound to its parameters.
pub struct Statement<'a> {
    text: Cow<'a, str>,
    binds: Vec<Box<dyn QueryFragment<Pg> + Send + 'a>>,
}

impl<'a> Statement<'a> {
    /// The statement with this text; its first line should be `-- room::function`, so that the
    /// database's activity view names the caller.
    pub fn new(text: impl Into<Cow<'a, str>>) -> Self {
        Self {
            text: text.into(),
            binds: Vec::new(),
        }
    }

    /// Binds the next parameter, beginning with `$1`.
    #[must_use]
    pub fn bind<ST, T>(mut self, value: T) -> Self
    where
        Pg: HasSqlType<ST>,
        T: ToSql<ST, Pg> + Send + 'a,
        ST: Send + QueryId + 'a,
    {
        self.binds.push(Box::new(Bound::<ST, T> {
            value,
            sql_type: PhantomData,
        }));
        self
    }

    /// Of this type: a query whose rows are read by the places of their columns, or an expression in a query, and
    /// then its text has no name in its first line.
    pub fn typed<Of>(self) -> Fragment<'a, Of> {
        Fragment {
            statement: self,
            of: PhantomData,
        }
    }
}

struct Bound<ST, T> {
    value: T,
    sql_type: PhantomData<ST>,
}

impl<ST, T> QueryFragment<Pg> for Bound<ST, T>
where
    Pg: HasSqlType<ST>,
    T: ToSql<ST, Pg>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_bind_param(&self.value)
    }
}

impl QueryFragment<Pg> for Statement<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        // Diesel comes by several times for each call, and texts are long: only dollars are looked for.
        let (mut rest, mut from) = (&*self.text, 0);
        while let Some(at) = rest[from..].find('$').map(|found| from + found) {
            let line = rest[..at].rfind('\n').map_or(0, |end| end + 1);
            if rest[line..at].contains("--") {
                from = at + 1;
                continue;
            }
            let number = rest[at + 1..]
                .chars()
                .next()
                .and_then(|c| c.to_digit(10))
                .unwrap_or(0);
            let bind = (number as usize)
                .checked_sub(1)
                .and_then(|index| self.binds.get(index));
            let Some(bind) = bind else {
                return Err(diesel::result::Error::QueryBuilderError(
                    format!("parameter ${number} has no value").into(),
                ));
            };
            out.push_sql(&rest[..at]);
            bind.walk_ast(out.reborrow())?;
            (rest, from) = (&rest[at + 2..], 0);
        }
        out.push_sql(rest);
        Ok(())
    }
}

impl QueryId for Statement<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for Statement<'_> {
    type SqlType = Untyped;
}

/// A [`Statement`] that stands in a query as an expression of this type, or is a query of it.
pub struct Fragment<'a, Of> {
    statement: Statement<'a>,
    of: PhantomData<fn() -> Of>,
}

impl<Of> QueryFragment<Pg> for Fragment<'_, Of> {
    fn walk_ast<'b>(&'b self, out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.statement.walk_ast(out)
    }
}

impl<Of> QueryId for Fragment<'_, Of> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Of> Query for Fragment<'_, Of> {
    type SqlType = Of;
}

impl<Of: SqlType + TypedExpressionType> Expression for Fragment<'_, Of> {
    type SqlType = Of;
}

// Whoever writes its text knows what it stands in.
impl<QS, Of: SqlType + TypedExpressionType> AppearsOnTable<QS> for Fragment<'_, Of> {}
impl<QS, Of: SqlType + TypedExpressionType> SelectableExpression<QS> for Fragment<'_, Of> {}

impl<G, Of> ValidGrouping<G> for Fragment<'_, Of> {
    type IsAggregate = is_aggregate::Never;
}

#[cfg(test)]
mod tests {
    use super::*;
    use diesel::sql_types::{Integer, Text};

    #[test]
    fn parameters_are_numbered_as_they_stand_and_comments_have_none() {
        let text = "-- room::it\n-- With $1.\nSELECT $2, 3 - $1 - -1 -- or $2\nWHERE $2 = $1 -- $1";
        let statement = Statement::new(text)
            .bind::<Integer, _>(7)
            .bind::<Text, _>("x");
        let said = diesel::debug_query::<Pg, _>(&statement).to_string();
        let out = "-- room::it\n-- With $1.\nSELECT $1, 3 - $2 - -1 -- or $2\nWHERE $3 = $4 -- $1";
        assert_eq!(said, format!("{out} -- binds: [\"x\", 7, \"x\", 7]"));
    }
}
