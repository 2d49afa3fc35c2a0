//! Readings of many ticks become one metrics batch.
