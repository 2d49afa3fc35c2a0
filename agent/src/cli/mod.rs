//! One file a subcommand.

