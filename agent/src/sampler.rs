//! Decides which gauges are due.
