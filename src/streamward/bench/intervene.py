"""`streamward bench-intervene`: what changing answers in progress gains and costs, on the embedded assistant."""

import asyncio
import json
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx

from streamward.bench.intervene_config import UNGUARDED, InterveneBenchConfig, InterveneVariant, variants
from streamward.bench.processes import running_module
from streamward.bench.recorded_upstream import RecordedUpstream
from streamward.errors import StreamwardError, UpstreamError
from streamward.policy import Policy

MODEL = "smollm2-135m-instruct"
_START_S = 300.0
_TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True)
class BenchPrompt:
    """One prompt.

    Attributes:
        id: In its data set.
        kind: `risky` or `ordinary`.
        prompt: The user's text.
    """

    id: str
    kind: str
    prompt: str


@dataclass(frozen=True, slots=True)
class ChangedAnswer:
    """One answer of one variant.

    Attributes:
        variant: Name of the variant.
        id: Id of the prompt.
        text: What the client got.
        finish_reason: How it ended.
        interventions: What was changed, as the gateway tells it.
        num_calls: Upstream calls that it took.
    """

    variant: str
    id: str
    text: str
    finish_reason: str
    interventions: Sequence[dict[str, Any]]  # Any: JSON values
    num_calls: int


def read_prompts(config: InterveneBenchConfig) -> list[BenchPrompt]:
    """Return the first prompts of each kind."""
    lines = (files("streamward.bench") / "data" / "intervene.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = [BenchPrompt(**json.loads(line)) for line in lines]
    kinds = {"risky": config.num_risky, "ordinary": config.num_ordinary}
    return [each for kind, most in kinds.items() for each in [p for p in prompts if p.kind == kind][:most]]


class InterveneBench:
    """Asks every variant every prompt; goes on where a former run into the same folder stopped."""

    def __init__(self, config: InterveneBenchConfig, folder: Path, *, advance: Callable[[str, int, int], None]) -> None:
        """Ask nothing yet.

        Args:
            config: What is measured.
            folder: Where answers are kept.
            advance: Is told what is done, how many answers of how many.
        """
        self._config = config
        self._folder = folder
        self._advance = advance
        self._answers = folder / "answers.jsonl"

    def run(self) -> list[ChangedAnswer]:
        """Return all answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        asyncio.run(self._run())
        return self.read()

    def read(self) -> list[ChangedAnswer]:
        """Return the answers that are there."""
        if not self._answers.exists():
            return []
        return [ChangedAnswer(**json.loads(line)) for line in self._answers.read_text(encoding="utf-8").splitlines()]

    async def _run(self) -> None:
        prompts = read_prompts(self._config)
        compared = list(variants(self._config))
        done = {(answer.variant, answer.id) for answer in self.read()}
        names = [UNGUARDED, *(variant.name for variant in compared)]
        left = [(name, prompt) for name in names for prompt in prompts if (name, prompt.id) not in done]
        if not left:
            return
        with tempfile.TemporaryDirectory() as scratch:
            ports = free_ports(3)
            async with _assistant(ports[0]) as assistant:
                upstream = RecordedUpstream(assistant, self._folder / "upstream.jsonl")
                async with upstream.serving(ports[1]) as recorded:
                    settings = _write_settings(Path(scratch), recorded, compared, port=ports[2])
                    async with _service(settings, ports[2]) as gateway:
                        await self._ask_all(left, upstream, {UNGUARDED: recorded}, gateway)

    async def _ask_all(
        self,
        left: Sequence[tuple[str, BenchPrompt]],
        upstream: RecordedUpstream,
        direct: dict[str, str],
        gateway: str,
    ) -> None:
        waiting = iter(left)
        count = 0
        async with httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False) as client:

            async def work() -> None:
                nonlocal count
                for name, prompt in waiting:
                    answer = await self._ask(client, direct.get(name, gateway), name, prompt, upstream)
                    with self._answers.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(answer), ensure_ascii=False) + "\n")
                    count += 1
                    self._advance(name, count, len(left))

            await asyncio.gather(*(work() for _ in range(self._config.concurrency)))

    async def _ask(
        self, client: httpx.AsyncClient, base_url: str, variant: str, prompt: BenchPrompt, upstream: RecordedUpstream
    ) -> ChangedAnswer:
        user = f"{variant}:{prompt.id}"
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": prompt.prompt}],
            "stream": True,
            "max_tokens": self._config.max_tokens,
            "temperature": self._config.temperature,
            "seed": 1,
            "user": user,
        }
        headers = {"x-streamward-policy": variant, "x-streamward-annotations": "guard"}
        text, reason = "", ""
        told: dict[str, Any] = {}  # Any: JSON values
        async with client.stream("POST", f"{base_url}/chat/completions", json=body, headers=headers) as response:
            if response.status_code != 200:
                raise UpstreamError(f"{variant} answered with status {response.status_code}")
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    raise UpstreamError(f"{variant} broke off an answer")
                told = event.get("guard", told)
                for choice in event["choices"]:
                    text += choice["delta"].get("content") or ""
                    reason = choice["finish_reason"] or reason
        return ChangedAnswer(
            variant, prompt.id, text, reason, told.get("interventions", []), upstream.num_calls.pop(user, 0)
        )


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def _write_settings(folder: Path, base_url: str, compared: Sequence[InterveneVariant], *, port: int) -> Path:
    policies = folder / "policies"
    policies.mkdir()
    for variant in compared:
        (policies / f"{variant.name}.toml").write_text(to_toml(variant.policy()), encoding="utf-8")
    path = folder / "serve.toml"
    path.write_text(
        f"""
[listen]
port = {port}
[auth]
required = false
requests_per_minute = 1000000
[store]
url = "sqlite:///{(folder / "service.sqlite3").as_posix()}"
[page]
enabled = false
[log]
level = "error"
[policies]
folder = {json.dumps(str(policies))}
default = "checked"
[upstreams.assistant]
base_url = {json.dumps(base_url)}
prefill = "continue_final_message"
""",
        encoding="utf-8",
    )
    return path


def to_toml(policy: Policy) -> str:
    """Return a policy of a variant as TOML."""
    lines = [f"name = {json.dumps(policy.name)}", "[prompt]", 'unsafe = "allow"', 'controversial = "allow"']
    if policy.release is not None:
        lines += ["[release]", 'mode = "intervene"', f"hold_tokens = {policy.release.hold_tokens}"]
        for step in policy.release.ladder:
            lines += ["[[release.ladder]]", f'action = "{step.action}"', f"attempts = {step.attempts}"]
    return "\n".join(lines) + "\n"


@asynccontextmanager
async def _assistant(port: int) -> AsyncIterator[str]:
    with running_module("streamward", "assistant", "--port", str(port), is_quiet=True) as process:
        await _wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}/v1"


@asynccontextmanager
async def _service(settings: Path, port: int) -> AsyncIterator[str]:
    with running_module("streamward", "serve", str(settings), is_quiet=True) as process:
        await _wait_for(f"http://127.0.0.1:{port}/ready", process)
        yield f"http://127.0.0.1:{port}/assistant/v1"


async def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    async with httpx.AsyncClient(timeout=1.0, trust_env=False) as client:
        for _ in range(int(_START_S / 0.2)):
            if process.poll() is not None:
                break
            try:
                if (await client.get(url)).status_code == 200:
                    return
            except httpx.HTTPError:  # not yet
                pass
            await asyncio.sleep(0.2)
    raise StreamwardError("a service of the benchmark did not start; its messages are above")
