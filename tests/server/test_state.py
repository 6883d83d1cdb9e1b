"""What a service loads."""

from streamward.policy import Policy
from streamward.server.config import ServeConfig
from streamward.server.state import load_here
from streamward.vllm.config import VllmConfig


def test_a_service_loads_its_guard_over_vllm(monkeypatch):
    given = {}
    monkeypatch.setattr("streamward.loading.load", lambda name, **settings: given.update(settings, name=name))
    config = ServeConfig.load(None, changes=["vllm.url=http://host:8000", "vllm.model=guard"])
    load_here(config, Policy.load("strict"))
    assert (given["name"], given["vllm"]) == ("stream-135m", VllmConfig(url="http://host:8000", model="guard"))
