"""Decisions as OpenTelemetry events."""

import pytest
from opentelemetry import _logs
from opentelemetry._logs import _internal
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.util._once import Once

from tests.server.services import open_service


@pytest.fixture
def exporter(monkeypatch):
    """A provider that keeps its events, for the time of a test."""
    monkeypatch.setattr(_internal, "_LOGGER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(_internal, "_LOGGER_PROVIDER", None)
    kept = InMemoryLogRecordExporter()
    provider = LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(kept))
    _logs.set_logger_provider(provider)
    yield kept
    provider.shutdown()


def test_every_decision_is_an_evaluation_result_without_text(tmp_path, exporter):
    with open_service(tmp_path, log={"opentelemetry": True}) as service:
        answer = service.post("/v1/guard", {"prompt": "swordfish", "response": "yes"}).json()
    (event,) = [finished.log_record for finished in exporter.get_finished_logs()]
    attributes = event.attributes
    assert event.event_name == "gen_ai.evaluation.result"
    assert attributes["gen_ai.evaluation.name"] == "streamward"
    assert attributes["gen_ai.evaluation.score.label"] == answer["decision"]["action"]
    assert 0 <= attributes["gen_ai.evaluation.score.value"] <= 1
    assert attributes["streamward.request.id"] == answer["id"]
    assert attributes["streamward.policy.name"] == "strict"
    assert "swordfish" not in str(dict(attributes))


def test_without_the_setting_nothing_is_told(tmp_path, exporter):
    with open_service(tmp_path) as service:
        service.post("/v1/guard", {"prompt": "x"})
    assert exporter.get_finished_logs() == ()
