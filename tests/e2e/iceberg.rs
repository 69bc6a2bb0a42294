//! Iceberg tables: every catalog with every store, read by engines that are
//! not ours.

mod proof;
