//! Change capture: load, then changes, into Parquet and Iceberg tables, read
//! back by engines that are not ours.

mod apart;
mod continuous;
mod doubt;
mod faults;
mod handoff;
mod heavy;
mod kill;
mod kinds;
mod lag;
mod random;
mod refusals;
mod reload;
mod seeds;
mod soft;
mod standby;
mod strict;
mod together;
mod values;

use tests::follow::{Followed, Into};
