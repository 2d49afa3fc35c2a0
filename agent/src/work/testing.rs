//! Jobs for tests.

use std::time::Duration;

use super::job::{Concurrency, Job, Limits, Program, Word};

/// A job that runs `command`, with room for everything.
pub(crate) fn job(name: &str, command: &[&str]) -> Job {
    Job {
        name: name.into(),
        program: Program::Command(command.iter().map(|word| Word::parse(word)).collect()),
        arguments: [].into(),
        directory: "/".into(),
        environment: [].into(),
        timeout: Duration::from_secs(20),
        grace: Duration::from_secs(5),
        schedule: None,
        concurrency: Concurrency::Refuse,
        output_limit: 4096,
        limits: Limits::default(),
        remote: true,
        idempotent: false,
    }
}
