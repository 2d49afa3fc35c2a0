"""A gateway program that a job starts: knows OpenTelemetry, knows nothing of Sonde.

Its endpoint and its parent come from the environment, as the OpenTelemetry
specification has it. With `--until FILE` it works until that file exists;
`--marks FILE` gets a line once the first span has been taken. It prints the
context that it was given as JSON. `--fails yes`: exit code 3.
"""

import json
import os
import sys
import time

from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
provider = TracerProvider(resource=Resource.create({"service.name": "register-reader"}))
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
tracer = provider.get_tracer("program")
carried = {name.lower(): value for name, value in os.environ.items()
           if name in ("TRACEPARENT", "TRACESTATE", "BAGGAGE")}
parent = propagate.extract(carried)
with tracer.start_as_current_span("open bus", context=parent):
    pass
provider.force_flush()
if "--marks" in options:
    with open(options["--marks"], "a") as marks:
        marks.write(f"{os.getpid()}\n")
with tracer.start_as_current_span("measure", context=parent):
    with tracer.start_as_current_span("read register"):
        while "--until" in options and not os.path.exists(options["--until"]):
            time.sleep(0.02)
    print(json.dumps(carried), flush=True)
provider.shutdown()
sys.exit(3 if "--fails" in options else 0)
