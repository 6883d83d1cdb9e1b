"""Decisions as OpenTelemetry events, for whoever traces the model they are about.

Event `gen_ai.evaluation.result` and its attributes: OpenTelemetry semantic conventions for generative AI, events.
"""

from typing import Protocol

from streamward.errors import ConfigError
from streamward.server.audit import AuditRecord

EVENT = "gen_ai.evaluation.result"
_NAME = "streamward"


class Telemetry(Protocol):
    """Receiver of decisions for telemetry."""

    def decided(self, record: AuditRecord) -> None:
        """Tell a decision that was logged."""
        ...


class Silent:
    """Tells nobody."""

    def decided(self, record: AuditRecord) -> None:
        """Do nothing."""


class OpenTelemetryEvents:
    """Tells OpenTelemetry's logger provider of this process, which its own environment variables configure."""

    def __init__(self) -> None:
        """Find the provider.

        Raises:
            ConfigError: The extra `otel` is not installed.
        """
        try:
            from opentelemetry import _logs
        except ModuleNotFoundError as error:
            raise ConfigError(
                "log.opentelemetry needs opentelemetry-sdk; run: pip install 'streamward[otel]'"
            ) from error
        self._record_class = _logs.LogRecord
        self._severity = _logs.SeverityNumber.INFO
        self._logger = _logs.get_logger(_NAME)

    def decided(self, record: AuditRecord) -> None:
        """Tell a decision, without any text."""
        attributes: dict[str, str | float | int] = {
            "gen_ai.evaluation.name": _NAME,
            "gen_ai.evaluation.score.label": record.action.value,
            "streamward.policy.name": record.policy,
            "streamward.policy.version": record.policy_version,
            "streamward.guard": record.guard,
            "streamward.request.id": record.request_id,
            "streamward.endpoint": record.endpoint,
        }
        optional = {
            "gen_ai.evaluation.score.value": _risk(record),
            "gen_ai.request.model": record.model,
            "streamward.category": record.category and record.category.value,
            "streamward.rules": ", ".join(str(rule["id"]) for rule in record.rules or ()) or None,
            "streamward.risk_level": record.risk_level and record.risk_level.value,
            "streamward.side": record.side and record.side.value,
            "streamward.stream.id": record.stream_id,
            "error.type": record.error,
        }
        attributes |= {name: value for name, value in optional.items() if value is not None}
        self._logger.emit(
            self._record_class(
                timestamp=int(record.time.timestamp() * 1_000_000_000),
                severity_number=self._severity,
                attributes=attributes,
                event_name=EVENT,
            )
        )


def _risk(record: AuditRecord) -> float | None:
    """Return P(Unsafe) + P(Controversial) of the side that was worse; None if nothing was judged."""
    sides = [
        (record.prompt_unsafe, record.prompt_controversial),
        (record.response_unsafe, record.response_controversial),
    ]
    risks = [unsafe + (controversial or 0.0) for unsafe, controversial in sides if unsafe is not None]
    return max(risks, default=None)


def open_telemetry(*, is_enabled: bool) -> Telemetry:
    """Return where decisions are told.

    Raises:
        ConfigError: It is enabled, and the extra `otel` is not installed.
    """
    return OpenTelemetryEvents() if is_enabled else Silent()
