use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const INT: u32 = 23;
const TEXT: u32 = 25;

fn published(columns: &[(i16, &str, u32)]) -> Vec<Published> {
    let column = |(attnum, name, type_oid): &(i16, &str, u32)| Published {
        name: (*name).to_owned(),
        attnum: *attnum,
        type_oid: *type_oid,
        type_modifier: -1,
        delimiter: b',',
        generated: String::new(),
        toastable: false,
    };
    columns.iter().map(column).collect()
}

fn message<'a>(columns: &[(&'a str, u32)]) -> Relation<'a> {
    let column = |(name, type_oid): &(&'a str, u32)| Column {
        name,
        key: false,
        type_oid: *type_oid,
        type_modifier: -1,
    };
    let columns = columns.iter().map(column).collect();
    Relation { oid: 1, namespace: "public", name: "t", full: false, columns }
}

const RENAMED: Fate = Fate::Touched { renamed: true, widened: false };

/// The places that a message has, among ints.
fn places(
    fates: &[Fate],
    now: &[(i16, &str)],
    names: &[&str],
) -> Result<Vec<Option<usize>>, String> {
    let now: Vec<_> = now.iter().map(|(attnum, name)| (*attnum, *name, INT)).collect();
    let now = published(&now);
    let names: Vec<_> = names.iter().map(|name| (*name, INT)).collect();
    let forms = Forms::new(&now, &Since::Fates(fates.to_vec()));
    let form = forms.read(&now, &message(&names))?;
    Ok((0..now.len()).map(|at| form.place(at)).collect())
}

#[test]
fn without_knowing_what_was_any_difference_of_the_columns_is_one() {
    let known = published(&[(1, "a", INT), (2, "b", INT)]);
    let same = message(&[("a", INT), ("b", INT)]);
    for since in [Since::Unknown, Since::Same] {
        let forms = Forms::new(&known, &since);
        assert_eq!(forms.read(&known, &same), Ok(Form { columns: 2, places: None }));
        for other in [
            &[("a", INT)][..],
            &[("a", INT), ("b", INT), ("c", INT)],
            &[("a", INT), ("d", INT)],
            &[("a", INT), ("b", TEXT)],
        ] {
            assert!(forms.read(&known, &message(other)).is_err(), "{other:?}");
        }
    }
}

#[test]
fn rows_from_before_and_after_are_told_apart() {
    let added = [Fate::Same, Fate::Same, Fate::New];
    let now = [(1, "id"), (2, "a"), (3, "b")];
    assert_eq!(places(&added, &now, &["id", "a"]), Ok(vec![Some(0), Some(1), None]));
    assert_eq!(places(&added, &now, &["id", "a", "b"]), Ok(vec![Some(0), Some(1), Some(2)]));
    let dropped = [Fate::Same, Fate::Gone, Fate::Same];
    let now = [(1, "id"), (3, "b")];
    assert_eq!(places(&dropped, &now, &["id", "a", "b"]), Ok(vec![Some(0), Some(2)]));
    assert_eq!(places(&dropped, &now, &["id", "b"]), Ok(vec![Some(0), Some(1)]));
    // A swap by a third name, whatever it was.
    let now = [(1, "id"), (2, "b"), (3, "a")];
    for names in [["id", "a", "b"], ["id", "x", "b"], ["id", "b", "a"]] {
        let fates = [Fate::Same, RENAMED, RENAMED];
        assert_eq!(places(&fates, &now, &names), Ok(vec![Some(0), Some(1), Some(2)]), "{names:?}");
    }
    // Dropped, and another one of its name.
    let anew = [Fate::Same, Fate::Gone, Fate::Same, Fate::New];
    let now = [(1, "id"), (3, "c"), (4, "b")];
    assert_eq!(places(&anew, &now, &["id", "b", "c"]), Ok(vec![Some(0), Some(2), None]));
    assert_eq!(places(&anew, &now, &["id", "c", "b"]), Ok(vec![Some(0), Some(1), Some(2)]));
}

#[test]
fn what_can_be_read_in_two_ways_is_not_read() {
    // b dropped, c renamed to b, another c added: then or now?
    let fates = [Fate::Same, Fate::Gone, RENAMED, Fate::New];
    let now = [(1, "id"), (3, "b"), (4, "c")];
    assert!(places(&fates, &now, &["id", "b", "c"]).is_err());
    assert_eq!(places(&fates, &now, &["id", "b"]), Ok(vec![Some(0), Some(1), None]));
    // A column that nothing is known of.
    assert!(places(&[Fate::Same, Fate::Same], &[(1, "id"), (2, "a")], &["id", "a", "z"]).is_err());
    assert!(places(&[Fate::Same, Fate::Same], &[(1, "id"), (2, "a")], &["id", "z"]).is_err());
}

#[test]
fn a_decimal_that_got_wider_is_the_same_and_one_that_got_narrower_is_not() {
    let modifier = |precision: i32, scale: i32| (precision << 16 | scale) + 4;
    let mut now = published(&[(1, "n", 1700)]);
    now[0].type_modifier = modifier(12, 2);
    let forms =
        Forms::new(&now, &Since::Fates(vec![Fate::Touched { renamed: false, widened: true }]));
    let mut then = message(&[("n", 1700)]);
    for (is, precision, scale) in [(true, 10, 2), (true, 12, 2), (false, 14, 2), (false, 10, 3)] {
        then.columns[0].type_modifier = modifier(precision, scale);
        assert_eq!(forms.read(&now, &then).is_ok(), is, "{precision}, {scale}");
    }
    then.columns[0].type_modifier = -1;
    assert!(forms.read(&now, &then).is_err());
}

/// A table whose columns come, go and change their names; all of them ever.
#[derive(Clone)]
struct Model {
    columns: Vec<Modelled>,
}

#[derive(Clone)]
struct Modelled {
    name: String,
    type_oid: u32,
    version: u32,
    dropped: bool,
}

impl Model {
    fn live(&self) -> impl Iterator<Item = (usize, &Modelled)> {
        self.columns.iter().enumerate().filter(|(_, column)| !column.dropped)
    }

    fn step(&mut self, random: &mut StdRng, version: u32) {
        // Few names, so that they come again.
        let free: Vec<String> = ["a", "b", "c", "d", "e", "f"]
            .into_iter()
            .filter(|name| self.live().all(|(_, column)| column.name != *name))
            .map(str::to_owned)
            .collect();
        let live: Vec<usize> = self.live().map(|(at, _)| at).collect();
        let any = |from: usize, random: &mut StdRng| random.random_range(0..from.max(1));
        match random.random_range(0..4) {
            0 if !free.is_empty() => self.columns.push(Modelled {
                name: free[any(free.len(), random)].clone(),
                type_oid: if random.random_range(0..3) == 0 { TEXT } else { INT },
                version,
                dropped: false,
            }),
            1 if live.len() > 1 => {
                let column = &mut self.columns[live[any(live.len(), random)]];
                (column.dropped, column.version) = (true, version);
            }
            2 | 3 if !free.is_empty() && !live.is_empty() => {
                let column = &mut self.columns[live[any(live.len(), random)]];
                (column.name, column.version) = (free[any(free.len(), random)].clone(), version);
            }
            _ => {}
        }
    }
}

#[test]
fn whatever_was_done_to_columns_a_row_is_read_right_or_not_at_all() {
    let mut random = StdRng::seed_from_u64(14);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let mut model = Model { columns: Vec::new() };
        for version in 0..6 {
            model.step(&mut random, version);
        }
        let then = model.clone();
        let mut forms_of_then = vec![then.clone()];
        for version in 10..10 + random.random_range(0..6) {
            model.step(&mut random, version);
            forms_of_then.push(model.clone());
        }
        let now = &model;
        let fate = |(at, column): (usize, &Modelled)| match (then.columns.get(at), column.dropped) {
            (Some(then), true) if then.dropped => Some(Fate::Never),
            (Some(_), true) => Some(Fate::Gone),
            (Some(then), false) if then.version == column.version => Some(Fate::Same),
            (Some(then), false) => {
                Some(Fate::Touched { renamed: then.name != column.name, widened: false })
            }
            (None, false) => Some(Fate::New),
            (None, true) => None,
        };
        let fates: Option<Vec<Fate>> = now.columns.iter().enumerate().map(fate).collect();
        // One that came and went is not certain.
        let Some(fates) = fates else { continue };
        let columns: Vec<_> =
            now.live().map(|(at, c)| (at as i16 + 1, c.name.as_str(), c.type_oid)).collect();
        let published = published(&columns);
        let forms = Forms::new(&published, &Since::Fates(fates));
        for model in &forms_of_then {
            let live: Vec<_> = model.live().collect();
            let columns: Vec<_> =
                live.iter().map(|(_, column)| (column.name.as_str(), column.type_oid)).collect();
            let Ok(form) = forms.read(&published, &message(&columns)) else {
                refused += 1;
                continue;
            };
            read += 1;
            for (place, column) in published.iter().enumerate() {
                let right = live.iter().position(|(at, _)| *at as i16 + 1 == column.attnum);
                assert_eq!(form.place(place), right, "{columns:?} now {published:?}");
            }
        }
    }
    assert!(read > 20_000 && refused > 500, "{read} read, {refused} refused");
}
