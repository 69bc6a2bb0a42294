//! Change capture: load, then changes, into Parquet and Iceberg tables, read
//! back by engines that are not ours.

mod doubt;
mod handoff;
mod kill;
mod kinds;
mod random;
mod refusals;
mod reload;
mod soft;

use tests::follow::{Followed, Into};
