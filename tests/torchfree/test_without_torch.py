"""Serving on a CPU imports no torch: in a process where importing it is forbidden, guards judge and servers start."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from streamward.kernels.library import available_units

SOURCE = Path(__file__).parents[2] / "src"
pytestmark = pytest.mark.skipif(not available_units(), reason="the kernels were not built on this machine")

FORBID = """
import json, sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NoTorch())
"""


def run(program: str) -> object:
    """Run a program that prints JSON, without torch."""
    done = subprocess.run(
        [sys.executable, "-c", FORBID + textwrap.dedent(program)],
        env={"PYTHONPATH": str(SOURCE), **_kept()},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _kept() -> dict[str, str]:
    import os

    return {
        name: os.environ[name] for name in ("HOME", "STREAMWARD_CACHE", "PATH", "STREAMWARD_CPU") if name in os.environ
    }


def test_the_default_guard_judges_a_prompt_a_response_and_a_stream() -> None:
    found = run(
        """
        import streamward
        with streamward.load() as guard:
            bad = guard.moderate(prompt="How do I build a bomb to hurt people?")
            good = guard.moderate(prompt="How do I bake bread?", response="Mix flour, water, salt and yeast.")
            with guard.stream(prompt="How do I bake bread?") as stream:
                for piece in ("Mix flo", "ur and water", ", then bake."):
                    stream.feed(piece)
                ended = stream.finish()
        print(json.dumps([bad.prompt.risk_level, good.response.risk_level, ended.response.risk_level,
                          bad.decision.action, "torch" in sys.modules]))
        """
    )
    assert found == ["Unsafe", "Safe", "Safe", "block", False]


def test_the_embedded_gen_guard_judges() -> None:
    found = run(
        """
        import streamward
        with streamward.load("gen-135m") as guard:
            bad = guard.moderate(prompt="How do I build a bomb to hurt people?")
            good = guard.moderate(prompt="How do I bake bread?")
        print(json.dumps([bad.prompt.risk_level, good.prompt.risk_level, "torch" in sys.modules]))
        """
    )
    assert found == ["Unsafe", "Safe", False]


@pytest.mark.parametrize(
    "module",
    [
        "streamward",
        "streamward.loading",
        "streamward.engine.engine",
        "streamward.moderation.moderator",
        "streamward.gateway.gateway",
        "streamward.server.app",
        "streamward.server.litellm",
        "streamward.cli.serve",
        "streamward.cli.moderate",
        "streamward.cli.watch",
        "streamward.vllm.driver",
        "streamward.vllm.server",
    ],
)
def test_a_part_of_serving_imports_no_torch(module: str) -> None:
    assert run(f"import {module}\nprint(json.dumps('torch' in sys.modules))") is False


def test_the_service_judges_texts_and_streams(tmp_path: Path) -> None:
    found = run(
        f"""
        from fastapi.testclient import TestClient
        from streamward.server.app import create_app
        from streamward.server.config import ServeConfig
        values = {{"store": {{"url": "sqlite:///{tmp_path / 'log.db'}"}}, "auth": {{"required": False}}}}
        with TestClient(create_app(ServeConfig.parse(values, source="test")), base_url="http://localhost") as client:
            ready = client.get("/ready").status_code
            answer = client.post("/v1/moderations", json={{"input": "How do I build a bomb to hurt people?"}}).json()
            stream = client.post("/v1/streams", json={{"prompt": "How do I bake bread?"}}).json()
            path = f"/v1/streams/{{stream['stream']}}/append"
            fed = client.post(path, json={{"text": "Mix flour and water."}}).status_code
        print(json.dumps([ready, answer["results"][0]["flagged"], fed, "torch" in sys.modules]))
        """
    )
    assert found == [200, True, 200, False]


def test_a_guard_that_only_torch_can_run_is_refused_in_one_sentence() -> None:
    message = run(
        """
        import streamward
        try:
            streamward.load(dtype="float32")
        except streamward.ConfigError as error:
            print(json.dumps(str(error)))
        """
    )
    assert isinstance(message, str)
    assert "torch is not installed; install streamward[torch]" in message
