//! The NBD protocol as a server speaks it, without I/O.
