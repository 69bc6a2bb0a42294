//! The messages of pgoutput, protocol version 1
//! (`src/backend/replication/logical/proto.c`). Pure: bytes in, views of them
//! out, no panic on any input.
//!
//! ```text
//! B  begin       i64 commit lsn · i64 time · i32 xid
//! C  commit      i8 flags · i64 commit lsn · i64 end lsn · i64 time
//! R  relation    i32 oid · namespace\0 · name\0 · i8 identity · i16 n · n × column
//! I  insert      i32 oid · 'N' tuple
//! U  update      i32 oid · ['K' or 'O' tuple] · 'N' tuple
//! D  delete      i32 oid · 'K' or 'O' tuple
//! T  truncate    i32 n · i8 options · n × i32 oid
//! Y, O, M        type, origin, message: of no use here
//!
//! column: i8 flags · name\0 · i32 type · i32 modifier
//! tuple:  i16 n · n × { 'n' | 'u' | 't' i32 length · text | 'b' … }
//! ```

use proto::lsn::Lsn;

/// One message.
#[derive(Debug, PartialEq)]
pub enum Message<'a> {
    /// A transaction begins. Microseconds since 2000-01-01 UTC.
    Begin { commit_lsn: Lsn, commit_time: i64, xid: u32 },
    /// It is complete.
    Commit { commit_lsn: Lsn, end_lsn: Lsn },
    /// What the rows of a relation look like from here on.
    Relation(Relation<'a>),
    /// A new row.
    Insert { relation: u32, new: Tuple<'a> },
    /// A row in place of another. Without `old`, its identity is the same.
    Update { relation: u32, old: Option<Tuple<'a>>, new: Tuple<'a> },
    /// A row that is gone; of its columns, at least those of its identity.
    Delete { relation: u32, old: Tuple<'a> },
    /// Every row of these relations is gone.
    Truncate { relations: Vec<u32> },
    /// Of no use here.
    Other,
}

/// A relation's row type.
#[derive(Debug, PartialEq)]
pub struct Relation<'a> {
    /// Its `pg_class.oid`.
    pub oid: u32,
    /// `pg_catalog` is the empty one.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its replica identity is FULL.
    pub full: bool,
    /// In attnum order.
    pub columns: Vec<Column<'a>>,
}

/// A column of a relation.
#[derive(Debug, PartialEq, Eq)]
pub struct Column<'a> {
    /// Its name.
    pub name: &'a str,
    /// It is one of the replica identity's.
    pub key: bool,
    /// `atttypid`.
    pub type_oid: u32,
    /// `atttypmod`.
    pub type_modifier: i32,
}

/// A row's values, in the order of the relation's columns: looked through once
/// when it is read, so that what it yields is there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tuple<'a> {
    count: u16,
    values: &'a [u8],
}

/// A value of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datum<'a> {
    /// NULL.
    Null,
    /// Stored apart from the row and not changed: what it is, is not said.
    Unchanged,
    /// As the type's output function makes it.
    Text(&'a [u8]),
}

/// The bytes are not a message of pgoutput.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Malformed(String);

impl Tuple<'_> {
    /// Columns in it.
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<'a> Tuple<'a> {
    /// The values, in order.
    pub fn iter(&self) -> impl Iterator<Item = Datum<'a>> + use<'a> {
        let mut reader = Reader { rest: self.values };
        (0..self.count).map_while(move |_| reader.datum().ok())
    }
}

/// Reads one message, which is all of `bytes`.
pub fn parse(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut reader = Reader { rest: bytes };
    let kind = reader.u8()?;
    let message = match kind {
        b'B' => {
            let (commit_lsn, commit_time) = (reader.lsn()?, reader.i64()?);
            Message::Begin { commit_lsn, commit_time, xid: reader.u32()? }
        }
        b'C' => {
            reader.u8()?;
            let (commit_lsn, end_lsn) = (reader.lsn()?, reader.lsn()?);
            reader.i64()?;
            Message::Commit { commit_lsn, end_lsn }
        }
        b'R' => Message::Relation(reader.relation()?),
        b'I' => {
            let relation = reader.u32()?;
            reader.mark(b"N")?;
            Message::Insert { relation, new: reader.tuple()? }
        }
        b'U' => {
            let relation = reader.u32()?;
            let old = match reader.mark(b"KON")? {
                b'N' => None,
                _ => {
                    let old = reader.tuple()?;
                    reader.mark(b"N")?;
                    Some(old)
                }
            };
            Message::Update { relation, old, new: reader.tuple()? }
        }
        b'D' => {
            let relation = reader.u32()?;
            reader.mark(b"KO")?;
            Message::Delete { relation, old: reader.tuple()? }
        }
        b'T' => Message::Truncate { relations: reader.truncated()? },
        // An origin, a type, a logical message: whatever is in it.
        b'O' | b'Y' | b'M' => return Ok(Message::Other),
        other => return Err(Malformed(format!("a message of type {:?}", char::from(other)))),
    };
    match reader.rest.len() {
        0 => Ok(message),
        more => Err(Malformed(format!("{more} bytes follow a message {:?}", char::from(kind)))),
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(ends_early)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or_else(ends_early)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_be_bytes)
    }

    fn lsn(&mut self) -> Result<Lsn, Malformed> {
        self.array().map(|bytes| Lsn(u64::from_be_bytes(bytes)))
    }

    /// One byte, of those allowed.
    fn mark(&mut self, allowed: &[u8]) -> Result<u8, Malformed> {
        let mark = self.u8()?;
        if allowed.contains(&mark) {
            return Ok(mark);
        }
        Err(Malformed(format!("a row marked {:?}", char::from(mark))))
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        let end = self.rest.iter().position(|byte| *byte == 0).ok_or_else(ends_early)?;
        let text = self.take(end)?;
        self.take(1)?;
        std::str::from_utf8(text).map_err(|_| Malformed("a name that is not UTF-8".to_owned()))
    }

    fn relation(&mut self) -> Result<Relation<'a>, Malformed> {
        let (oid, namespace, name) = (self.u32()?, self.text()?, self.text()?);
        let full = self.u8()? == b'f';
        let count = self.u16()?;
        let mut columns = Vec::with_capacity(usize::from(count).min(self.rest.len()));
        for _ in 0..count {
            let key = self.u8()? & 1 == 1;
            let name = self.text()?;
            let (type_oid, type_modifier) = (self.u32()?, self.u32()?.cast_signed());
            columns.push(Column { name, key, type_oid, type_modifier });
        }
        Ok(Relation { oid, namespace, name, full, columns })
    }

    fn tuple(&mut self) -> Result<Tuple<'a>, Malformed> {
        let count = self.u16()?;
        let start = self.rest;
        for _ in 0..count {
            self.datum()?;
        }
        Ok(Tuple { count, values: &start[..start.len() - self.rest.len()] })
    }

    fn datum(&mut self) -> Result<Datum<'a>, Malformed> {
        match self.u8()? {
            b'n' => Ok(Datum::Null),
            b'u' => Ok(Datum::Unchanged),
            b't' => {
                let length = self.u32()?;
                self.take(length as usize).map(Datum::Text)
            }
            other => Err(Malformed(format!("a value of kind {:?}", char::from(other)))),
        }
    }

    fn truncated(&mut self) -> Result<Vec<u32>, Malformed> {
        let count = self.u32()?;
        self.u8()?;
        if count as usize > self.rest.len() / 4 {
            return Err(ends_early());
        }
        (0..count).map(|_| self.u32()).collect()
    }
}

fn ends_early() -> Malformed {
    Malformed("a message that ends early".to_owned())
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn insert() -> Vec<u8> {
        let mut bytes = b"I\0\0\x40\x01N\0\x03t\0\0\0\x02".to_vec();
        bytes.extend(b"42nu");
        bytes
    }

    fn relation() -> Vec<u8> {
        let mut bytes = b"R\0\0\x40\x01public\0orders\0d\0\x02".to_vec();
        bytes.extend(b"\x01id\0\0\0\0\x17\xff\xff\xff\xff");
        bytes.extend("\0größe\0".as_bytes());
        bytes.extend(b"\0\0\x06\xa4\0\x0a\0\x06");
        bytes
    }

    #[test]
    fn a_row_is_read_value_by_value() {
        let bytes = insert();
        let Message::Insert { relation, new } = parse(&bytes).unwrap() else { panic!() };
        assert_eq!((relation, new.len()), (0x4001, 3));
        let values: Vec<_> = new.iter().collect();
        assert_eq!(values, [Datum::Text(b"42"), Datum::Null, Datum::Unchanged]);
    }

    #[test]
    fn a_relation_has_names_types_and_modifiers() {
        let bytes = relation();
        let Message::Relation(relation) = parse(&bytes).unwrap() else { panic!() };
        assert_eq!((relation.namespace, relation.name), ("public", "orders"));
        assert_eq!(
            relation.columns,
            [
                Column { name: "id", key: true, type_oid: 23, type_modifier: -1 },
                Column { name: "größe", key: false, type_oid: 1700, type_modifier: 0xa_0006 },
            ]
        );
    }

    #[test]
    fn transactions_carry_where_they_lie() {
        let mut begin = b"B".to_vec();
        begin.extend([0, 0, 0, 1, 0, 0, 0, 2]);
        begin.extend(7i64.to_be_bytes());
        begin.extend([0, 0, 2, 0]);
        let read = parse(&begin).unwrap();
        let commit_lsn = Lsn(0x1_0000_0002);
        assert_eq!(read, Message::Begin { commit_lsn, commit_time: 7, xid: 0x200 });
        let mut commit = b"C\0".to_vec();
        commit.extend(16u64.to_be_bytes());
        commit.extend(48u64.to_be_bytes());
        commit.extend(7i64.to_be_bytes());
        let read = parse(&commit).unwrap();
        assert_eq!(read, Message::Commit { commit_lsn: Lsn(16), end_lsn: Lsn(48) });
    }

    #[test]
    fn an_update_may_carry_the_old_row_and_a_delete_must() {
        let row = b"\0\x01t\0\0\0\x01a";
        let message = |head: &[u8], parts: &[&[u8]]| {
            let mut bytes = [head, b"\0\0\0\x05"].concat();
            parts.iter().for_each(|part| bytes.extend(*part));
            bytes
        };
        for (mark, has_old) in [(&b"K"[..], true), (b"O", true), (b"", false)] {
            let old: &[&[u8]] = if has_old { &[mark, row] } else { &[] };
            let bytes = message(b"U", &[old, &[b"N", row]].concat());
            let Message::Update { old, .. } = parse(&bytes).unwrap() else { panic!() };
            assert_eq!(old.is_some(), has_old);
        }
        assert!(parse(&message(b"D", &[b"K", row])).is_ok());
        assert!(parse(&message(b"D", &[b"N", row])).is_err());
        let truncate = message(b"T\0\0\0\x01\x03", &[]);
        assert_eq!(parse(&truncate).unwrap(), Message::Truncate { relations: vec![5] });
        // A count that the bytes do not bear out.
        assert!(parse(b"T\xff\xff\xff\xff\0\0\0\0\x05").is_err());
    }

    #[test]
    fn any_bytes_are_read_without_a_panic() {
        let mut random = StdRng::seed_from_u64(1);
        for round in 0..20_000 {
            let mut bytes = if round % 2 == 0 { insert() } else { relation() };
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            bytes.truncate(random.random_range(0..=bytes.len()));
            if let Ok(Message::Insert { new, .. }) = parse(&bytes) {
                assert_eq!(new.iter().count(), new.len());
            }
        }
    }
}
