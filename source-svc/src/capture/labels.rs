//! Types whose values rows show otherwise without an event: a label of an enum that is
//! renamed, attributes of a composite type that come and go.
//!
//! ```text
//! <type>.<n>.<sum>_…   in hex: the sum over its first n labels, or over its attributes
//! ```
//!
//! Labels are taken in the order of their oids, so one that is added comes last and
//! changes nothing of the sum over those before.

use std::collections::{BTreeMap, HashMap};

use tokio_postgres::Client;

use crate::error::SourceError;

/// The types of a table's columns, and of what they are made of: of each the sums up to
/// each label.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<u32, Vec<u64>>);

impl Labels {
    /// As they travel.
    pub fn text(&self) -> String {
        let told = |(oid, sums): (&u32, &Vec<u64>)| {
            let sum = sums.last().copied().unwrap_or_default();
            format!("{oid:x}.{:x}.{sum:x}", sums.len())
        };
        self.0.iter().map(told).collect::<Vec<_>>().join("_")
    }

    /// Whether a type that was told, and is used still, shows its values otherwise now.
    pub fn differ_from(&self, told: &str) -> bool {
        told.split('_').filter(|told| !told.is_empty()).any(|told| {
            let mut numbers = told.split('.').map(|number| u64::from_str_radix(number, 16));
            let mut next = || numbers.next().and_then(Result::ok);
            let (Some(oid), Some(count), Some(sum)) = (next(), next(), next()) else { return true };
            let Ok(oid) = u32::try_from(oid) else { return true };
            let Some(sums) = self.0.get(&oid) else { return false };
            let now = match usize::try_from(count) {
                Ok(0) => Some(0),
                Ok(count) => sums.get(count - 1).copied(),
                Err(_) => None,
            };
            now != Some(sum)
        })
    }
}

/// Those of these tables, by namespace and name; of tables that have any.
pub async fn of(
    client: &Client,
    namespaces: &[&str],
    names: &[&str],
) -> Result<HashMap<(String, String), Labels>, SourceError> {
    // What is below 16384 is the server's own.
    let query = "WITH RECURSIVE used AS ( \
           SELECT c.oid AS relation, a.atttypid AS type \
           FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
           JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid \
           WHERE (n.nspname::text, c.relname::text) IN \
               (SELECT * FROM unnest($1::text[], $2::text[])) \
             AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384 \
           UNION SELECT u.relation, inner_type.oid \
           FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.type CROSS JOIN LATERAL ( \
             SELECT t.typbasetype AS oid WHERE t.typtype = 'd' \
             UNION ALL SELECT t.typelem WHERE t.typcategory = 'A' \
             UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r \
               WHERE r.rngtypid = t.oid OR r.rngmultitypid = t.oid \
             UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a \
               WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 \
                 AND NOT a.attisdropped) inner_type \
           WHERE inner_type.oid >= 16384) \
         SELECT n.nspname::text, c.relname::text, t.oid, CASE t.typtype \
           WHEN 'e' THEN ARRAY(SELECT (sum(hashtext(e.oid || ' ' || e.enumlabel)::int8) \
               OVER (ORDER BY e.oid))::int8 \
             FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.oid) \
           ELSE ARRAY[(SELECT hashtext(string_agg(a.attnum || ' ' || a.atttypid, ',' \
               ORDER BY a.attnum))::int8 \
             FROM pg_catalog.pg_attribute a \
             WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped)] END \
         FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.type \
         JOIN pg_catalog.pg_class c ON c.oid = u.relation \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE t.typtype IN ('e', 'c')";
    let doing = "reading the labels of the tables' types";
    let rows = client.query(query, &[&namespaces, &names]).await;
    let rows = rows.map_err(SourceError::postgres(doing))?;
    let mut found: HashMap<(String, String), Labels> = HashMap::new();
    for row in &rows {
        let sums = row.get::<_, Vec<Option<i64>>>(3).into_iter();
        let sums = sums.map(|sum| sum.unwrap_or_default().cast_unsigned()).collect();
        found.entry((row.get(0), row.get(1))).or_default().0.insert(row.get(2), sums);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(types: &[(u32, &[u64])]) -> Labels {
        Labels(types.iter().map(|(oid, sums)| (*oid, sums.to_vec())).collect())
    }

    #[test]
    fn labels_that_are_added_are_no_difference_and_renamed_ones_are() {
        let told = labels(&[(20, &[7, 9]), (30, &[u64::MAX])]);
        let text = told.text();
        assert_eq!(text, "14.2.9_1e.1.ffffffffffffffff");
        assert!(!told.differ_from(&text) && !told.differ_from(""));
        assert!(!labels(&[(20, &[7, 9, 4]), (30, &[u64::MAX]), (40, &[1])]).differ_from(&text));
        // Nothing of the table is of the type any more.
        assert!(!labels(&[(20, &[7, 9])]).differ_from(&text));
        for other in [&[7, 8][..], &[7], &[6, 8, 9], &[]] {
            assert!(labels(&[(20, other)]).differ_from(&text), "{other:?}");
        }
        assert!(told.differ_from("nonsense"));
        assert!(!labels(&[(20, &[3])]).differ_from(&labels(&[(20, &[])]).text()));
    }
}
