//! The clients that people use, on a served pool: nbdinfo, nbdcopy, libnbd, qemu-img, qemu-io, fio.
//!
//! Each test starts a server of its own and stops it in order afterwards. A client that is not installed is a failure.
//! All of it runs over io_uring, and what depends on how bytes travel over threads too. One file a client.

mod bench;
mod devices;
mod fio;
mod libnbd;
mod nbdcopy;
mod nbdinfo;
mod qemu_image;
mod qemu_io;

/// Makes tests of functions that take the value of `--io`.
macro_rules! tests {
    ($io:ident: $($client:ident::$name:ident),+ $(,)?) => {
        mod $io {
            $(#[test]
            fn $name() {
                crate::$client::$name(stringify!($io));
            })+
        }
    };
}

tests! { ring:
    devices::devices_under_a_served_pool_grow,
    devices::what_is_discarded_leaves_the_device_too,
    fio::mixed_sizes_on_four_connections,
    fio::trims_and_writes,
    libnbd::contexts_tell_holes_and_sharing,
    libnbd::corners_are_answered,
    libnbd::four_handles_with_64_requests_each,
    nbdcopy::a_disk_goes_in_and_out,
    nbdcopy::a_sparse_terabyte_goes_in_and_out,
    nbdinfo::an_export_can_what_it_says,
    nbdinfo::a_snapshot_cannot_be_written,
    nbdinfo::exports_are_described,
    nbdinfo::maps_show_holes_and_sharing,
    qemu_image::a_disk_is_converted,
    qemu_image::an_image_lies_on_an_export,
    qemu_image::reads_and_writes_are_measured,
    qemu_io::discarded_space_goes_back_while_idle,
    qemu_io::writes_zeroes_and_discards,
}

tests! { threads:
    devices::devices_under_a_served_pool_grow,
    devices::what_is_discarded_leaves_the_device_too,
    fio::mixed_sizes_on_four_connections,
    libnbd::corners_are_answered,
    libnbd::four_handles_with_64_requests_each,
    nbdcopy::a_disk_goes_in_and_out,
    nbdinfo::exports_are_described,
    qemu_io::writes_zeroes_and_discards,
}
