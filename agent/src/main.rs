//! `sonde`: arguments to one function per subcommand.

fn main() {}
