"""What the console's own scripts say, run without a browser where there is Node."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import streamward.server

ASSETS = Path(streamward.server.__file__).parent / "assets"

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")


def run(tmp_path: Path, script: str) -> str:
    """Run a script that may import the console's modules as `./NAME.mjs`."""
    for name in ("calls", "curl", "elements", "words"):
        source = (ASSETS / f"{name}.js").read_text(encoding="utf-8")
        (tmp_path / f"{name}.mjs").write_text(source.replace('.js";', '.mjs";'), encoding="utf-8")
    (tmp_path / "main.mjs").write_text(script)
    done = subprocess.run(["node", "main.mjs"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ('new TypeError("Failed to fetch")', "The service cannot be reached. Check that it runs, then try again."),
        ('new DOMException("signal timed out", "TimeoutError")', "The service did not answer within 120 s."),
    ],
)
def test_a_service_out_of_reach_is_told_in_our_words(tmp_path, error, told):
    script = f"""
    import {{ call }} from "./calls.mjs";
    globalThis.sessionStorage = {{ getItem: () => null }};
    globalThis.fetch = async () => {{ throw {error}; }};
    await call("/v1/guard", {{ body: {{}} }}).catch((error) => console.log(error.message));
    """
    assert run(tmp_path, script) == told


def test_a_probability_stands_beside_its_threshold(tmp_path):
    script = """
    import { measured } from "./words.mjs";
    const probabilities = { Safe: 0.1, Unsafe: 0.8, Controversial: 0.1 };
    console.log(measured({ probabilities, thresholds: { Unsafe: 0.9, Controversial: 0.6 } }));
    console.log(measured({ probabilities, thresholds: {} }));
    """
    assert run(tmp_path, script).splitlines() == [
        "unsafe 80 %, threshold 90 %; unsafe or controversial 90 %, threshold 60 %",
        "unsafe 80 %; unsafe or controversial 90 %",
    ]


def test_a_request_is_told_as_a_command_that_a_shell_reads_and_never_holds_the_key(tmp_path):
    body = {"prompt": 'it\'s $HOME `id` \\ "quoted"\nline', "policy": "strict"}
    script = f"""
    import {{ asCurl }} from "./curl.mjs";
    globalThis.sessionStorage = {{ getItem: () => "sw-secret" }};
    const body = {json.dumps(body)};
    console.log(asCurl("/v1/guard", body, {{ isAuthorized: true, origin: "http://localhost:8000" }}));
    """
    command = run(tmp_path, script)
    assert "sw-secret" not in command
    shell = f"curl() {{ printf '%s\\0' \"$@\"; }}; STREAMWARD_API_KEY=mine; {command}"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
    url, _, kind, _, key, _, data, end = done.stdout.split("\0")
    assert (url, kind, key) == (
        "http://localhost:8000/v1/guard",
        "Content-Type: application/json",
        "Authorization: Bearer mine",
    )
    assert (json.loads(data), end) == (body, "")


def test_queries_leave_out_what_is_not_asked_for(tmp_path):
    script = """
    import { withQuery } from "./calls.mjs";
    console.log(withQuery("/v1/decisions", { action: "", category: "Suicide & Self-Harm", before: undefined }));
    console.log(withQuery("/v1/decisions", {}));
    """
    assert run(tmp_path, script).splitlines() == ["/v1/decisions?category=Suicide+%26+Self-Harm", "/v1/decisions"]


def test_rules_that_fired_and_detectors_are_named(tmp_path):
    script = """
    import { describe, scoredRules } from "./words.mjs";
    const rules = [["no-finance", 0.912], ["no-names", 0.5]];
    console.log(describe({ action: "block", side: "response", risk_level: "Unsafe", category: null, rules }));
    console.log(scoredRules(rules));
    console.log(scoredRules([{ id: "no-names", score: 0.5 }]));
    console.log(scoredRules(["no-names"]));
    console.log(describe({ action: "block", side: "prompt", risk_level: null, detector: "iban" }));
    """
    assert run(tmp_path, script).splitlines() == [
        "block: the response is Unsafe, rule no-finance, rule no-names",
        "no-finance 0.91, no-names 0.50",
        "no-names 0.50",
        "no-names",
        "block: the detector iban found something in the prompt",
    ]
