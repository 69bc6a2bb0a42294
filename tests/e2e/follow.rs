//! Change capture: load, then changes, into Parquet and Iceberg tables, read
//! back by engines that are not ours.

mod doubt;
mod handoff;
mod heavy;
mod kill;
mod kinds;
mod random;
mod refusals;
mod reload;
mod seeds;
mod soft;
mod strict;

use tests::follow::{Followed, Into};
