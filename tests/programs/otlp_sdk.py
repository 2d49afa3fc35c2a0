"""A program as people write it, with the OpenTelemetry SDK for Python.

Where it sends to is in OTEL_EXPORTER_OTLP_ENDPOINT. Prints its trace id.
"""

import logging

from opentelemetry import metrics, trace
from opentelemetry._logs import set_logger_provider
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

traces = TracerProvider()
traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(traces)
meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())])
metrics.set_meter_provider(meters)
logs = LoggerProvider()
logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
set_logger_provider(logs)
log = logging.getLogger("program")
log.addHandler(LoggingHandler(logger_provider=logs))
log.propagate = False

meter = metrics.get_meter("program")
done = meter.create_counter("program.done", unit="{item}")
took = meter.create_histogram("program.took", unit="s")
with trace.get_tracer("program").start_as_current_span("work") as span:
    with trace.get_tracer("program").start_as_current_span("step"):
        done.add(3, {"kind": "test"})
        took.record(0.25)
        log.warning("half way")
    print(f"{span.get_span_context().trace_id:032x}")

for provider in (traces, meters, logs):
    provider.shutdown()
