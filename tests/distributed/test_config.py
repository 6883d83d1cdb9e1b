"""Settings of a set of replicas, and what happens without Ray."""

import sys

import pytest

from streamward.cli.serve import load_on_ray
from streamward.distributed.config import ReplicaSetConfig
from streamward.errors import ConfigError
from streamward.policy import Policy
from streamward.server.config import ServeConfig


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"min_replicas": 3, "max_replicas": 2}, "max_replicas is below min_replicas"),
        ({"deploy": False}, "address must say"),
        ({"replicas": 2}, "replicas"),
        ({"timeout_s": float("inf")}, "timeout_s"),
    ],
)
def test_settings_that_do_not_fit_are_refused(values, problem):
    with pytest.raises(ConfigError, match=problem):
        ReplicaSetConfig.parse(values, source="test")


def test_a_service_without_ray_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "streamward.distributed.serving", raising=False)
    with pytest.raises(ConfigError, match=r"--ray needs ray; run: pip install 'streamward\[ray\]'"):
        load_on_ray(ServeConfig(), Policy.load("strict"))
