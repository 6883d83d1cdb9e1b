"""The service behind the real LiteLLM's guardrail hook.

LiteLLM pins versions of its own, so it may live in another environment: STREAMWARD_LITELLM_PYTHON names its
interpreter.
"""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from tests.loopback import served
from tests.server.marked_guard import marked_guard
from tests.server.services import open_service

PYTHON = os.environ.get("STREAMWARD_LITELLM_PYTHON", sys.executable)
pytestmark = [
    pytest.mark.slow,  # importing LiteLLM takes seconds
    pytest.mark.skipif(
        sys.executable == PYTHON and importlib.util.find_spec("litellm") is None, reason="LiteLLM is not installed"
    ),
]
PROGRAM = """
import asyncio, json, sys
from types import SimpleNamespace
from litellm.proxy.guardrails.guardrail_hooks.generic_guardrail_api.generic_guardrail_api import GenericGuardrailAPI

async def main():
    hook = GenericGuardrailAPI(api_base=sys.argv[1], api_key="any", guardrail_name="streamward", event_hook="pre_call")
    call = SimpleNamespace(litellm_call_id="call-1", litellm_trace_id=None, model_call_details={})
    for kind, texts in json.loads(sys.argv[2]):
        inputs = {"texts": texts, "model": "m"}
        if kind == "request":
            inputs["structured_messages"] = [{"role": "user", "content": texts[0]}]
        try:
            given = await hook.apply_guardrail(inputs, request_data={}, input_type=kind, logging_obj=call)
            print(json.dumps(["passed", given["texts"], given.get("stream_holdback_chars")]))
        except Exception as error:
            print(json.dumps([type(error).__name__, str(error), None]))

asyncio.run(main())
"""


def outcomes(url, steps):
    done = subprocess.run(
        [PYTHON, "-c", PROGRAM, url, json.dumps(steps)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


def test_litellms_own_hook_passes_holds_back_and_blocks(tmp_path):
    steps = [
        ("request", ["hello"]),
        ("response", ["one"]),
        ("response", ["one #"]),
        ("response", ["one # two"]),
        ("response", ["one # two ##"]),
        ("request", ["a #"]),
    ]
    with open_service(tmp_path, guard=marked_guard()) as service, served(service.app) as url:
        found = outcomes(url, steps)
    assert found == [
        ["passed", ["hello"], None],
        ["passed", ["one"], [0]],
        ["passed", ["one #"], [1]],
        ["passed", ["one # two"], [0]],
        ["GuardrailRaisedException", "Blocked by Streamward: the response is Unsafe, Violent", None],
        ["GuardrailRaisedException", "Blocked by Streamward: the prompt is Unsafe, Violent", None],
    ]
