//! Promises of the delivery machine, under invented time.
