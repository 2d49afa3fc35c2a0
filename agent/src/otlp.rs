//! Batches to OTLP bytes and back.
