//! Whether a command's span is sent, and the context that the command gets:
//! OpenTelemetry's variables and defaults (specification 1.50, "General SDK
//! Configuration"). Pure but for the random ids.

use crate::frame::TraceContext;
use crate::trace::propagation::Carried;

/// What becomes of the span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It is sent.
    Sampled(TraceContext),
    /// It is not, and the command is told so.
    Left(TraceContext),
    /// There is none, and the environment stays as it is: `OTEL_SDK_DISABLED`,
    /// or the kernel gave no random ids.
    None,
}

impl Decision {
    /// The span's context, for the command's environment.
    pub(super) fn context(&self) -> Option<&TraceContext> {
        match self {
            Decision::Sampled(context) | Decision::Left(context) => Some(context),
            Decision::None => None,
        }
    }
}

/// Decides by the parent and by the environment.
pub(super) fn decide<'a>(parent: &Carried, get: impl Fn(&str) -> Option<&'a str>) -> Decision {
    if get("OTEL_SDK_DISABLED").is_some_and(|flag| flag.eq_ignore_ascii_case("true")) {
        return Decision::None;
    }
    let mut random = [0; 24];
    if getrandom::fill(&mut random).is_err() {
        return Decision::None;
    }
    let mut context = TraceContext {
        trace_id: [0; 16],
        span_id: [0; 8],
        flags: 0,
        state: "".into(),
    };
    let (trace_id, span_id) = random.split_at(16);
    context.trace_id.copy_from_slice(trace_id);
    context.span_id.copy_from_slice(span_id);
    if let Some(parent) = &parent.context {
        context.trace_id = parent.trace_id;
        context.state = parent.state.clone();
        // All but `sampled`, which is decided here.
        context.flags = parent.flags & !1;
    }
    let sampler = get("OTEL_TRACES_SAMPLER").filter(|name| !name.is_empty());
    let sampler = sampler.unwrap_or("parentbased_always_on");
    let of_parent = parent.context.as_ref().map(|parent| parent.flags & 1 == 1);
    let (rule, of_parent) = match sampler.strip_prefix("parentbased_") {
        Some(root) => (root, of_parent),
        None => (sampler, None),
    };
    let sampled = of_parent.unwrap_or_else(|| match rule {
        "always_off" => false,
        "traceidratio" => {
            let ratio = get("OTEL_TRACES_SAMPLER_ARG").and_then(|ratio| ratio.parse().ok());
            within_ratio(&context.trace_id, ratio.unwrap_or(1.0))
        }
        _ => true,
    });
    match sampled {
        true => {
            context.flags |= 1;
            Decision::Sampled(context)
        }
        false => Decision::Left(context),
    }
}

/// As the SDKs do it, so that all of a trace's services decide alike: the
/// lower half of the trace id against the ratio.
fn within_ratio(trace_id: &[u8; 16], ratio: f64) -> bool {
    // The largest place rounds to the bound of 1.
    if ratio >= 1.0 {
        return true;
    }
    let mut low = [0; 8];
    low.copy_from_slice(&trace_id[8..]);
    let place = u64::from_be_bytes(low) >> 1;
    let bound = ratio.clamp(0.0, 1.0) * (1_u64 << 63) as f64;
    (place as f64) < bound
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(flags: u8) -> Carried {
        Carried {
            context: Some(TraceContext {
                trace_id: [1; 16],
                span_id: [2; 8],
                flags,
                state: "v=1".into(),
            }),
            baggage: "".into(),
        }
    }

    fn decided(parent: &Carried, variables: &[(&str, &'static str)]) -> Decision {
        decide(parent, |name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| *value)
        })
    }

    fn is_sampled(parent: &Carried, sampler: &'static str) -> bool {
        let variables = [
            ("OTEL_TRACES_SAMPLER", sampler),
            ("OTEL_TRACES_SAMPLER_ARG", "0"),
        ];
        matches!(decided(parent, &variables), Decision::Sampled(_))
    }

    #[test]
    fn the_parents_flag_is_honoured_and_its_trace_goes_on() {
        let Decision::Sampled(own) = decided(&parent(1), &[]) else {
            panic!("not sampled")
        };
        assert_eq!((own.trace_id, own.flags, &*own.state), ([1; 16], 1, "v=1"));
        assert_ne!(own.span_id, [2; 8]);
        let Decision::Left(own) = decided(&parent(0), &[]) else {
            panic!("sampled")
        };
        assert_eq!((own.trace_id, own.flags), ([1; 16], 0));
    }

    #[test]
    fn the_samplers_are_opentelemetrys() {
        let none = Carried::default();
        for (sampler, root, sampled, unsampled) in [
            ("", true, true, false),
            ("always_on", true, true, true),
            ("always_off", false, false, false),
            ("traceidratio", false, false, false),
            ("parentbased_always_on", true, true, false),
            ("parentbased_always_off", false, true, false),
            ("parentbased_traceidratio", false, true, false),
        ] {
            assert_eq!(is_sampled(&none, sampler), root, "{sampler}");
            assert_eq!(is_sampled(&parent(1), sampler), sampled, "{sampler}");
            assert_eq!(is_sampled(&parent(0), sampler), unsampled, "{sampler}");
        }
    }

    #[test]
    fn a_ratio_keeps_about_that_part() {
        let kept = (0..=255_u8).filter(|n| within_ratio(&[*n; 16], 0.25));
        assert_eq!(kept.count(), 64);
        assert!(within_ratio(&[255; 16], 1.0));
        assert!(!within_ratio(&[0; 16], 0.0));
    }

    #[test]
    fn a_disabled_sdk_leaves_the_environment_alone() {
        let decision = decided(&parent(1), &[("OTEL_SDK_DISABLED", "true")]);
        assert_eq!(decision.context(), None);
    }
}
