//! Decides what an uplink does next.
