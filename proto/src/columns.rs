//! Which column of which relation a field of a DoPut's Arrow schema is: what
//! lasts when the column is renamed.
//!
//! Optional for a source. Without both keys, or with another relation than a
//! table was last filled from, names decide.

/// Key of the schema's metadata: the relation that the columns are of. Any
/// text that no other relation has, or ever had. From PostgreSQL:
/// `<system identifier>/<oid of the database>/<oid of the relation>`.
pub const RELATION: &str = "tidewater.relation";

/// Key of a field's metadata: a decimal 32-bit integer that no other column of
/// the relation has, or ever had. From PostgreSQL: `attnum`.
pub const COLUMN: &str = "tidewater.column";
