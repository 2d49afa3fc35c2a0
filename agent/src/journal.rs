//! The agent's own log: stderr (journald's `<N>` prefixes, or for people on a
//! terminal) and, from `log.send` up, OTLP log records. Others call the `log` macros.
