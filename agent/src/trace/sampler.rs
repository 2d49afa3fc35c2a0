//! Decides, when a span starts, whether it is sent.
//!
//! Spans that are not routine follow the OpenTelemetry SDK's standard samplers
//! as `trace.sampler` names them. Spans that carry [`ROUTINE`] follow
//! `trace.routine_ratio`. Those that are left out are still *recorded*, because
//! only its end shows whether a local trace failed or was slow, and then
//! [`super::tail`] keeps all of it.
//!
//! | the span | its local parent | decision |
//! |---|---|---|
//! | any | not sampled, but recording | recorded, not sampled |
//! | routine | sampled | sampled |
//! | routine | none | ratio: sampled, else recorded |
//! | all others | none, or in another process | the standard sampler; recorded if it says no |
//! | all others | | the standard sampler |
//!
//! A span that is kept although it was not sampled goes out with the `sampled`
//! flag 0 and the attribute `sonde.kept`. 0 is what it told its children and
//! every peer while it ran, so whoever followed it downstream recorded nothing:
//! to claim 1 afterwards would promise spans that nobody has. (The W3C's rule for a delayed
//! decision is the same: the flag is propagated as it came, and 0 by
//! default.) It also keeps counts right: whatever estimates totals from spans
//! with flag 1 and the ratio must not count these.
//!
//! `always_off` and `parentbased_always_off` switch routine spans off too, and
//! nothing is kept: whoever says off means it. So does `trace.exporter = "none"`.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use opentelemetry::trace::{Link, SpanKind, TraceContextExt, TraceId, TraceState};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::trace::{
    Sampler as Standard, SamplingDecision, SamplingResult, ShouldSample,
};

use super::ROUTINE;
use crate::config::{Exporter, Sampler, Tracing};

/// The agent's sampler: standard for work, by ratio for routine. A clone follows
/// the same rules, also after [`AgentSampler::reconfigure`].
#[derive(Clone, Debug)]
pub struct AgentSampler(Arc<RwLock<Rules>>);

#[derive(Debug)]
struct Rules {
    work: Box<dyn ShouldSample>,
    /// `None`: off.
    routine: Option<Standard>,
    slow: Duration,
    slow_work: Duration,
    exporter: Exporter,
}

impl AgentSampler {
    /// As `[trace]` says.
    pub fn new(config: &Tracing) -> Self {
        Self(Arc::new(RwLock::new(Rules::of(config))))
    }

    /// As `[trace]` says after a reload. Spans that are running were decided before.
    pub fn reconfigure(&self, config: &Tracing) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Rules::of(config);
    }

    /// A local trace whose root has these attributes is kept if it takes longer,
    /// although it was not sampled.
    pub fn slow(&self, attributes: &[KeyValue]) -> Duration {
        let rules = self.rules();
        if is_routine(attributes) {
            rules.slow
        } else {
            rules.slow_work
        }
    }

    /// Where spans go.
    pub fn exporter(&self) -> Exporter {
        self.rules().exporter
    }

    fn rules(&self) -> RwLockReadGuard<'_, Rules> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rules {
    fn of(config: &Tracing) -> Self {
        let nowhere = config.exporter == Exporter::default();
        let work: Box<dyn ShouldSample> = match config.sampler {
            _ if nowhere => Standard::AlwaysOff.into(),
            Sampler::AlwaysOn => Standard::AlwaysOn.into(),
            Sampler::AlwaysOff => Standard::AlwaysOff.into(),
            Sampler::Ratio(part) => Standard::TraceIdRatioBased(part).into(),
            Sampler::ParentAlwaysOn => Standard::parent_based(Standard::AlwaysOn).into(),
            Sampler::ParentAlwaysOff => Standard::parent_based(Standard::AlwaysOff).into(),
            Sampler::ParentRatio(part) => {
                Standard::parent_based(Standard::TraceIdRatioBased(part)).into()
            }
        };
        let off = nowhere
            || matches!(
                config.sampler,
                Sampler::AlwaysOff | Sampler::ParentAlwaysOff
            );
        Self {
            work,
            routine: (!off).then_some(Standard::TraceIdRatioBased(config.routine_ratio)),
            slow: config.slow,
            slow_work: config.slow_work,
            exporter: config.exporter,
        }
    }
}

/// What a parent decides for its children.
enum Parent {
    None,
    Remote,
    Sampled,
    /// Recorded in case it fails: its children are too.
    Recorded,
    Left,
}

impl ShouldSample for AgentSampler {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let standard = |sampler: &dyn ShouldSample| {
            sampler.should_sample(parent, trace_id, name, kind, attributes, links)
        };
        let rules = self.rules();
        match (parent_of(parent), &rules.routine) {
            (Parent::Recorded, _) => result(SamplingDecision::RecordOnly, parent),
            (Parent::Sampled, Some(_)) if is_routine(attributes) => {
                result(SamplingDecision::RecordAndSample, parent)
            }
            (Parent::None, Some(ratio)) if is_routine(attributes) => {
                let mut chosen = standard(ratio);
                if chosen.decision == SamplingDecision::Drop {
                    chosen.decision = SamplingDecision::RecordOnly;
                }
                chosen
            }
            (Parent::None, None) if is_routine(attributes) => {
                result(SamplingDecision::Drop, parent)
            }
            (Parent::None | Parent::Remote, Some(_)) => {
                let mut chosen = standard(rules.work.as_ref());
                if chosen.decision == SamplingDecision::Drop {
                    chosen.decision = SamplingDecision::RecordOnly;
                }
                chosen
            }
            _ => standard(rules.work.as_ref()),
        }
    }
}

fn parent_of(context: Option<&Context>) -> Parent {
    let Some(context) = context else {
        return Parent::None;
    };
    let span = context.span();
    let parent = span.span_context();
    if !parent.is_valid() {
        Parent::None
    } else if parent.is_remote() {
        Parent::Remote
    } else if parent.is_sampled() {
        Parent::Sampled
    } else if span.is_recording() {
        Parent::Recorded
    } else {
        Parent::Left
    }
}

fn is_routine(attributes: &[KeyValue]) -> bool {
    attributes
        .iter()
        .any(|kv| kv.key.as_str() == ROUTINE && kv.value == Value::Bool(true))
}

fn result(decision: SamplingDecision, parent: Option<&Context>) -> SamplingResult {
    SamplingResult {
        decision,
        attributes: Vec::new(),
        trace_state: parent.map_or_else(TraceState::default, |context| {
            context.span().span_context().trace_state().clone()
        }),
    }
}
