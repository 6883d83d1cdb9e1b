"""JSON logs and Prometheus metrics. Neither contains moderated text, keys or headers."""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Protocol, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from streamward.reasons import defect as defect  # imported here only, because the logging set-up needs no metrics
from streamward.schema import Decision

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
_NONE = "none"
_OUTCOMES = (
    "agreed_safe",
    "agreed_flagged",
    "only_first",
    "only_second",
    "rules_kept",
    "rules_violated",
    "failed",
    "refused",
)


class EngineCounts(Protocol):
    """The counts of an engine; see `streamward.engine.outputs.EngineStatistics`."""

    @property
    def computed_tokens(self) -> int: ...  # noqa: D102  # as EngineStatistics

    @property
    def reused_tokens(self) -> int: ...  # noqa: D102

    @property
    def prefix_hits(self) -> int: ...  # noqa: D102


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and the facts given as `extra`.

    Only the class of an exception is logged: its message and traceback could contain moderated text. That is why
    this is not python-json-logger, which writes both.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _PLAIN}
        if record.exc_info and record.exc_info[0] is not None:
            line["error_class"] = record.exc_info[0].__name__
        return json.dumps(line, ensure_ascii=True, default=str)


class TextFormatter(logging.Formatter):
    """Human-readable log lines with the same facts."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        facts = " ".join(f"{name}={value}" for name, value in vars(record).items() if name not in _PLAIN)
        error = ""
        if record.exc_info and record.exc_info[0] is not None:
            error = f" ({record.exc_info[0].__name__})"
        clock = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        return f"{clock} {record.levelname.lower():7} {record.getMessage()}{error} {facts}".rstrip()


def set_up_logging(level: str, *, is_json: bool, stream: TextIO | None = None) -> None:
    """Send all logs of this process to a stream, standard error by default."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if is_json else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("httpx").setLevel(logging.WARNING)  # httpx logs addresses at level info
    logging.getLogger("alembic").setLevel(logging.WARNING)  # the store logs migrations itself


class _SecondOpinions(Collector):
    """Counts of second opinions, read when metrics are."""

    def __init__(self, read: Callable[[], Mapping[str, float] | None]) -> None:
        self._read = read

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield the counters, and whether the guard is asked at all."""
        counts = self._read()
        if counts is None:
            return
        yield CounterMetricFamily(
            "streamward_second_opinion_texts", "Sentences and whole texts judged", counts["judged"]
        )
        asked = CounterMetricFamily("streamward_second_opinions", "Second opinions asked for", labels=["outcome"])
        for outcome in _OUTCOMES:
            asked.add_metric([outcome], counts[outcome])
        yield asked
        yield CounterMetricFamily("streamward_second_opinion_calls", "Requests to the second guard", counts["calls"])
        tokens = CounterMetricFamily("streamward_second_opinion_tokens", "Tokens of the second guard", labels=["kind"])
        for kind in ("prompt", "cached", "completion"):
            tokens.add_metric([kind], counts[f"{kind}_tokens"])
        yield tokens
        yield CounterMetricFamily(
            "streamward_second_opinion_seconds", "Time spent waiting for the second guard", counts["seconds"]
        )
        yield CounterMetricFamily(
            "streamward_second_opinion_openings",
            "Times that a second guard which does not answer was left alone",
            counts["openings"],
        )
        yield GaugeMetricFamily(
            "streamward_second_opinion_open", "Whether the second guard is left alone now", int(counts["is_open"])
        )


class _EngineTokens(Collector):
    """Counts of the engine, read when metrics are."""

    def __init__(self, read: Callable[[], EngineCounts | None]) -> None:
        self._read = read

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the counters."""
        counts = self._read()
        if counts is None:
            return
        tokens = CounterMetricFamily("streamward_engine_tokens", "Tokens by how the engine got them", labels=["source"])
        tokens.add_metric(["computed"], counts.computed_tokens)
        tokens.add_metric(["reused"], counts.reused_tokens)
        yield tokens
        yield CounterMetricFamily("streamward_prefix_hits", "Times a beginning was in the cache", counts.prefix_hits)


class Metrics:
    """Metrics of a service. Labels come from closed sets, or from the settings."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        """Start at zero.

        Args:
            registry: Where other parts add their own; by default a new one.
        """
        self.registry = registry or CollectorRegistry()
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self._requests = counter("requests", "Requests answered", "endpoint", "status")
        self._request_seconds = histogram("request_seconds", "Time to the end of an answer", "endpoint")
        self._decisions = counter(
            "decisions", "Decisions logged", "endpoint", "action", "side", "risk_level", "category"
        )
        self._rules = counter("rules_fired", "Decisions on texts that break a rule of the policy", "endpoint", "rule")
        self._decision_seconds = histogram("decision_seconds", "Time to a decision", "endpoint")
        self._guard_errors = counter("guard_errors", "Texts the guard could not judge", "endpoint", "code")
        self._tokens = counter("tokens", "Tokens judged", "endpoint")
        self._rejected = counter("rejected", "Requests refused before any work", "reason")
        self._audit_rows = counter("audit_rows", "Decisions written to the log")
        self._audit_failures = counter("audit_failures", "Decisions that could not be logged", "reason")
        self._reloads = counter("policy_reloads", "Policies read again", "outcome")
        self._streams = counter("streams", "Streams fed by callers, by how they ended", "outcome")
        self.in_flight = gauge("in_flight", "Requests being answered")
        self.streams_open = gauge("streams_open", "Streams fed by callers that are open")
        self.buffered_bytes = gauge("buffered_bytes", "Bodies of requests held in memory")
        self.audit_waiting = gauge("audit_waiting", "Decisions waiting to be written")
        self.guard_works = gauge("guard_works", "Whether the guard answers calls; 0 after repeated failures")
        self.guard_step_seconds = gauge("guard_step_seconds", "Time the engine has been at its present step")
        self.guard_wait_seconds = gauge("guard_wait_seconds", "Time since the read furthest behind made progress")
        self.upstream_reachable = gauge("upstream_reachable", "Whether it took a connection for /ready", "upstream")

    def request_done(self, endpoint: str, *, status: int, seconds: float) -> None:
        """Count an answered request; `endpoint` is a route's template, never a path as it came."""
        self._requests.labels(endpoint, str(status)).inc()
        self._request_seconds.labels(endpoint).observe(seconds)

    def decided(self, decision: Decision, *, endpoint: str, num_tokens: int, seconds: float) -> None:
        """Count a decision."""
        labels = (decision.side, decision.risk_level, decision.category)
        self._decisions.labels(endpoint, decision.action, *(label or _NONE for label in labels)).inc()
        for rule in decision.rules:
            self._rules.labels(endpoint, rule.id).inc()
        self._decision_seconds.labels(endpoint).observe(seconds)
        self._tokens.labels(endpoint).inc(num_tokens)
        if decision.error is not None:
            self._guard_errors.labels(endpoint, decision.error).inc()

    def rejected(self, reason: str) -> None:
        """Count a request refused before any work: the error's code."""
        self._rejected.labels(reason).inc()

    def audit_written(self, num_rows: int) -> None:
        """Count rows on the disk."""
        self._audit_rows.inc(num_rows)

    def audit_failed(self, num_rows: int, *, reason: str) -> None:
        """Count rows that could not be written."""
        self._audit_failures.labels(reason).inc(num_rows)

    def policies_reloaded(self, outcome: str) -> None:
        """Count a reload: `changed` or `failed`."""
        self._reloads.labels(outcome).inc()

    def stream_ended(self, outcome: str) -> None:
        """Count a stream that is over: `closed`, `expired` or `failed`."""
        self._streams.labels(outcome).inc()

    def watch_second_opinions(self, read: Callable[[], Mapping[str, float] | None]) -> None:
        """Show counts that are kept elsewhere, by the names of `CascadeStatistics`.

        Args:
            read: Returns them; None while there are none.
        """
        self.registry.register(_SecondOpinions(read))

    def watch_engine(self, read: Callable[[], EngineCounts | None]) -> None:
        """Show counts of the engine.

        Args:
            read: Returns them; None while there is no engine in this process.
        """
        self.registry.register(_EngineTokens(read))

    def exposition(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace="streamward", registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, namespace="streamward", registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(name, text, labels, namespace="streamward", registry=self.registry, buckets=_SECONDS)
