//! Wiring and shutdown order.
