"""What the page's own scripts say, run without a browser where there is Node."""

import shutil
import subprocess
from pathlib import Path

import pytest

import streamward.server

ASSETS = Path(streamward.server.__file__).parent / "assets"

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")


def run(tmp_path: Path, script: str) -> str:
    """Run a script that may import the page's modules as `./NAME.mjs`."""
    for name in ("calls", "tokens"):
        shutil.copy(ASSETS / f"{name}.js", tmp_path / f"{name}.mjs")
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
    import { measured } from "./tokens.mjs";
    const probabilities = { Safe: 0.1, Unsafe: 0.8, Controversial: 0.1 };
    console.log(measured({ probabilities, thresholds: { Unsafe: 0.9, Controversial: 0.6 } }));
    console.log(measured({ probabilities, thresholds: {} }));
    """
    assert run(tmp_path, script).splitlines() == [
        "unsafe 80 %, threshold 90 %; unsafe or controversial 90 %, threshold 60 %",
        "unsafe 80 %; unsafe or controversial 90 %",
    ]
