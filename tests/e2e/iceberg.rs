//! Iceberg tables: one suite over every catalog with every store, read back by
//! engines that are not ours.

mod bad_input;
mod bounds;
mod check;
mod clear;
mod commits;
mod deltas;
mod faults;
mod foreign;
mod forms;
mod glue;
mod hive;
mod java;
mod jdbc;
mod meanwhile;
mod partitions;
mod proof;
mod pruning;
mod refusals;
mod renames;
mod replace;
mod rest;
mod samples;
mod shop;
mod types;
mod uploads;

use anyhow::{Context, Result};
use tests::iceberg::pair::{Catalog, Pair, Store};
use tests::iceberg::table::Table;
use tests::iceberg::verify;
use tests::iceberg::warehouse::Warehouse;
use tests::postgres::Database;
use tests::run::{Outcome, Project};

use crate::bad_input::{SOON, shows_no_secret};

/// Subjects with one pair, a module of tests for each pair.
macro_rules! suite {
    ($subjects:ident with $($name:ident: $catalog:ident, $store:ident;)*) => {$(
        mod $name {
            use super::*;

            const PAIR: Pair = Pair::new(Catalog::$catalog, Store::$store);

            suite!(@$subjects);
        }
    )*};
    (@tables) => {
        suite! { @test
            shop::a_full_refresh_of_the_shop_equals_postgresql,
            types::every_type_arrives_as_postgresql_prints_it,
            replace::a_second_sync_replaces_everything_in_one_commit,
            replace::readers_see_the_old_content_or_the_new,
            foreign::what_another_writer_appended_is_read_then_replaced,
            foreign::a_table_that_another_writer_rewrote_is_replaced,
            pruning::engines_that_prune_lose_no_row,
            bounds::no_row_at_the_edge_of_a_bound_is_lost,
            commits::every_commit_tells_what_it_removed_once_and_what_there_is,
            commits::an_empty_table_is_a_table_and_a_full_one_can_become_empty,
            commits::a_sync_killed_between_staging_and_commit_changes_nothing,
            forms::without_normalization_a_row_is_json_beside_its_identifier,
            forms::keys_are_identifier_fields_where_they_may_be_and_are_wanted,
            forms::new_tables_have_the_format_version_that_is_asked_for,
            forms::columns_are_added_by_name_and_dropped_ones_become_null,
            forms::columns_widen_in_place_and_other_types_are_columns_of_their_own,
            renames::renamed_columns_stay_their_fields_and_earlier_snapshots_keep_the_names,
            renames::a_renamed_partition_column_keeps_its_partitions,
            renames::beside_rows_of_json_a_partition_column_is_followed,
            renames::a_stale_catalog_is_told_what_was_renamed,
            meanwhile::a_column_added_at_the_source_during_a_sync_comes_with_the_next,
            bad_input::a_partition_column_of_another_type_is_refused_and_the_table_unchanged,
            bad_input::a_table_of_others_is_not_touched,
            bad_input::a_partition_that_cannot_be_is_refused,
            partitions::every_transform_puts_every_row_where_readers_look_for_it,
            partitions::uuids_are_partition_values,
            partitions::rows_of_json_have_their_partition_columns_beside_them,
            partitions::chunks_share_partitions_and_bounded_files,
            clear::clear_destination_removes_the_selected_tables_with_their_files,
            renames::a_table_made_anew_goes_by_names_and_is_followed_from_then_on,
            meanwhile::what_others_change_during_a_sync_is_neither_lost_nor_taken_for_ours,
            partitions::a_table_is_partitioned_anew_by_the_sync_after_the_change,
            check::check_tries_catalog_and_warehouse_and_leaves_nothing,
            deltas::appends_and_row_deltas_equal_the_same_changes_of_a_map,
        }
    };
    (@faults) => {
        suite! { @test
            faults::a_swap_without_an_answer_is_made_once,
            faults::a_catalog_that_vanishes_before_in_or_after_a_commit_has_it_once,
            faults::a_catalog_that_never_answers_is_an_error_in_time,
            faults::what_others_commit_before_our_swap_is_built_upon,
        }
    };
    (@buckets) => {
        suite! { @test
            refusals::a_bucket_that_is_missing_is_named_and_leaves_no_table,
            refusals::a_warehouse_that_may_not_be_written_is_told_and_the_table_unchanged,
            refusals::a_wrong_secret_is_told_and_the_table_unchanged,
        }
    };
    (@test $($($path:ident)::+),* $(,)?) => {
        $(suite! { @one [$($path)::+] $($path)::+ })*
    };
    (@one [$function:path] $module:ident::$test:ident) => {
        #[test]
        fn $test() -> Result<()> {
            $function(PAIR)
        }
    };
}

suite! { tables with
    sqlite_on_files: Sqlite, Local;
    sqlite_on_s3: Sqlite, S3;
    postgres_on_files: Postgres, Local;
    postgres_on_s3: Postgres, S3;
    rest_on_s3: Rest, S3;
    glue_on_files: Glue, Local;
    glue_on_s3: Glue, S3;
    hive_on_files: Hive, Local;
    hive_on_s3: Hive, S3;
    java_rest_on_files: JavaRest, Local;
    java_rest_on_s3: JavaRest, S3;
}

// Those of SeaweedFS's REST catalog are its own.
suite! { buckets with
    buckets_of_sqlite: Sqlite, S3;
    buckets_of_postgres: Postgres, S3;
    buckets_of_glue: Glue, S3;
    buckets_of_hive: Hive, S3;
    buckets_of_java_rest: JavaRest, S3;
}

// A file of SQLite's is not on the way to anybody.
suite! { faults with
    faults_of_postgres: Postgres, Local;
    faults_of_rest: Rest, S3;
    faults_of_glue: Glue, Local;
    faults_of_hive: Hive, Local;
    faults_of_java_rest: JavaRest, Local;
}

/// A user's directory whose destination is a warehouse.
struct Lake {
    project: Project,
    warehouse: Warehouse,
}

impl Lake {
    /// With a new database made by `sql` and discovered.
    fn new(pair: Pair, label: &str, sql: &str) -> Result<Lake> {
        let database = Database::new(label)?;
        database.psql(sql)?;
        Lake::on(pair, &database)
    }

    /// With a database that is there.
    fn on(pair: Pair, database: &Database) -> Result<Lake> {
        let project = Project::new(database)?;
        let warehouse = Warehouse::start(pair)?;
        project.write("destination.json", &warehouse.destination())?;
        project.discover()?;
        Ok(Lake { project, warehouse })
    }

    /// The table of `public.<name>`.
    fn table(&self, name: &str) -> Table {
        self.warehouse.table_of(&self.project, "public", name)
    }

    /// The tables of these streams equal their relations, whoever reads.
    fn equals_source(&self, streams: &[&str]) -> Result<()> {
        verify::equals_source(&self.warehouse, &self.project, streams)
    }
}

/// One clear error in time, without a secret, with the way out.
fn refusal(
    project: &Project,
    outcome: Outcome,
    secrets: &[&str],
    named: &[&str],
) -> Result<String> {
    shows_no_secret(project, &outcome, secrets)?;
    assert!(outcome.took < SOON, "it took {:?}", outcome.took);
    let told = outcome.failed()?;
    let errors = told.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!(errors, 1, "one error, not {errors}:\n{told}");
    let (_, error) = told.split_once("error: ").context("an error")?;
    let (message, remedy) = error.split_once("\n  → ").context("no remedy")?;
    assert!(!message.trim().is_empty() && !remedy.trim().is_empty(), "{told}");
    for part in named {
        assert!(error.contains(part), "{part:?} is not named:\n{error}");
    }
    Ok(error.to_owned())
}
