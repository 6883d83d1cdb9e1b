"""What whoever starts a service is told once it listens."""

import logging
import sys

import pytest

from streamward.cli.announcement import announce
from tests.server.services import open_service


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_page_policies_and_upstreams_are_told_in_the_log_and_to_a_person(
    tmp_path, capsys, caplog, monkeypatch, is_terminal
):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    upstreams = {"small": {"base_url": "http://127.0.0.1:9/v1"}}
    with open_service(tmp_path, upstreams=upstreams) as service, caplog.at_level(logging.INFO):
        announce(service.state.config, service.state, port=8123)
    (record,) = [each for each in caplog.records if each.getMessage() == "serving"]
    assert vars(record)["console"] == "http://127.0.0.1:8123/"
    assert vars(record)["policies"] == "loose, strict"
    assert vars(record)["upstreams"] == "small"
    out = capsys.readouterr().out
    assert ("console    http://127.0.0.1:8123/" in out) == is_terminal
    assert ("http://127.0.0.1:8123/small/v1 guards http://127.0.0.1:9/v1" in out) == is_terminal


def test_a_service_without_page_and_upstreams_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with open_service(tmp_path, page={"enabled": False}, listen={"host": "::1"}) as service:
        announce(service.state.config, service.state, port=80)
    out = capsys.readouterr().out
    assert "at http://[::1]:80" in out
    assert "console" not in out
    assert "upstreams  none" in out
