//! Wiring and shutdown order, nothing else.
//!
//! What lives for the whole run: the spool (its folder is locked) and the door.
//! What a reload replaces as one: a [`Generation`] of telemetry, uplinks and
//! gauges. A new generation starts only after the old one has put everything
//! into the spool, so a reload loses nothing.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry::trace::{Span, SpanKind, Status as SpanStatus, Tracer as _};
use tokio::signal::unix::{Signal as UnixSignal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::config::{self, Config, UplinkName};
use crate::frame::Signal;
use crate::identity::Identity;
use crate::spool::{self, Spool, StartError, Subscription};
use crate::status::UplinkStatus;
use crate::trace::{self, Telemetry};
use crate::uplink::{self, Stop, Uplink};
