"""Guards read by vLLM itself, in this process and behind a server: the verdicts of our engine, whatever happens."""

import base64
import json
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streamward
from streamward.engine.config import EngineConfig
from streamward.engine.engine import Engine
from streamward.engine.torch_runner import TorchModelRunner
from streamward.errors import ConfigError, UpstreamError
from streamward.model.guard_model import GuardModel
from streamward.moderation.engine_worker import EngineWorker
from streamward.moderation.moderator import Moderator
from streamward.moderation.token_scorer import Segment, TokenScorer
from streamward.schema import Side
from streamward.vllm.config import VllmConfig
from streamward.vllm.guard import vllm_token_scorer
from tests.engine.harness import Opinion, opinions_of
from tests.gateway.test_release_real import assert_nothing_leaves_past_the_flagged_token
from tests.model.checkpoints import stream_checkpoint
from tests.moderation.sharp_policy import POLICY, TEXT
from tests.vllm.checkpoints import VOCAB_SIZE, random_guard, write_guard

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed here; run: make test-vllm"),
]
NUM_STREAMS = 32
TOLERANCE = 1e-3
CACHE_BYTES = 40 * 32 * 1024  # 1,280 tokens of these guards; 32 streams have about 8,000
SMALL = {"kv_cache_memory_bytes": CACHE_BYTES, "max_num_batched_tokens": 128, "enforce_eager": True}


@dataclass(frozen=True)
class Setup:
    """A guard, and vLLM over its checkpoint."""

    guard: GuardModel
    folder: Path
    config: VllmConfig


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    from tests.vllm.served import ServedVllm

    guard = random_guard(has_qk_norm=False)
    folder = write_guard(tmp_path_factory.mktemp("guards") / "llama", guard)
    limits = ("--kv-cache-memory-bytes", str(CACHE_BYTES), "--max-num-batched-tokens", "128")
    started = ServedVllm(folder, *limits)
    try:
        yield started, Setup(guard, folder, VllmConfig(url=started.url, timeout_s=120))
    finally:
        started.kill()


@pytest.fixture(scope="module")
def in_process(tmp_path_factory) -> Iterator[tuple[TokenScorer, Setup]]:
    guard = random_guard()
    folder = write_guard(tmp_path_factory.mktemp("guards") / "qwen3", guard)
    config = json.loads((folder / "config.json").read_text())
    remote = {"AutoModel": "modeling_qwen3_guard.Qwen3ForGuardModel", "AutoConfig": "modeling_qwen3_guard.Qwen3Config"}
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": remote}))  # code that nobody may ask for
    setup = Setup(guard, folder, VllmConfig(timeout_s=120, options=SMALL))
    driver = vllm_token_scorer(folder, setup.config, dtype="float32")
    yield driver, setup
    driver.close()


@pytest.fixture(params=["in_process", "server"])
def vllm(request) -> Iterator[tuple[TokenScorer, GuardModel]]:
    if request.param == "in_process":
        driver, setup = request.getfixturevalue("in_process")
        yield driver, setup.guard
        return
    _, setup = request.getfixturevalue("server")
    driver = vllm_token_scorer(setup.folder, setup.config, dtype="float32")
    yield driver, setup.guard
    driver.close()


@pytest.fixture
def moderators(server) -> Iterator[tuple[Moderator, Moderator]]:
    """Over the server, and over our engine."""
    _, setup = server
    with (
        streamward.load(setup.folder, policy=POLICY, vllm=setup.config) as there,
        streamward.load(setup.folder, policy=POLICY, dtype="float32") as here,
    ):
        yield there, here


def our_driver(guard: GuardModel) -> EngineWorker:
    config = EngineConfig(kv_cache_bytes=2**26)
    return EngineWorker(Engine(config, TorchModelRunner(guard, config)))


def conversation(draw: random.Random) -> list[tuple[int, Side | None]]:
    """A prompt whose last token is judged, some context, a response."""
    num_prompt, num_response = draw.randint(5, 150), draw.randint(20, 350)
    sides: list[Side | None] = [*[None] * num_prompt, Side.PROMPT, *[None] * 4, *[Side.RESPONSE] * num_response]
    return [(draw.randrange(VOCAB_SIZE), side) for side in sides]


def segments(part: list[tuple[int, Side | None]]) -> list[Segment]:
    return [([token_id], side) for token_id, side in part]


def opinions(driver: TokenScorer, stream: int, part: list[tuple[int, Side | None]]) -> dict[int, Opinion]:
    found = opinions_of(driver.score_segments(stream, segments(part)))
    return {position: opinion for _, position, opinion in found}


def cut_at_random(driver: TokenScorer, text: list[tuple[int, Side | None]], draw: random.Random) -> dict[int, Opinion]:
    """Feed a text in pieces; now and then some of it is taken back and comes again."""
    given_: dict[int, Opinion] = {}
    with driver.temporary_stream() as stream:
        end = 0
        while end < len(text):
            if end and draw.random() < 0.2:
                end -= draw.randint(1, min(6, end))
                driver.truncate(stream, end)
            size = draw.choice((1, 3, 8, 16, 60))
            given_ |= opinions(driver, stream, text[end : end + size])
            end += size
    return given_


def largest_difference(ours: dict[int, Opinion], theirs: dict[int, Opinion]) -> float:
    assert sorted(ours) == sorted(theirs)
    return max(
        float((getattr(ours[at], name) - getattr(theirs[at], name)).abs().max())
        for at in ours
        for name in ("risk", "category")
    )


def test_32_streams_in_any_cut_with_a_cache_too_small_equal_our_engine(vllm, record_property):
    driver, guard = vllm
    ours = our_driver(guard)
    texts = [conversation(random.Random(number // 2)) for number in range(NUM_STREAMS)]  # each twice: shared beginnings
    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        found = list(pool.map(lambda n: cut_at_random(driver, texts[n], random.Random(n)), range(NUM_STREAMS)))
    differences = []
    for text, theirs in zip(texts, found, strict=True):
        with ours.temporary_stream() as stream:
            differences.append(largest_difference(opinions(ours, stream, text), theirs))
    record_property("largest_difference", max(differences))
    assert max(differences) <= TOLERANCE
    assert driver.num_streams == 0


def test_32_whole_texts_at_once_equal_our_engine(vllm):
    driver, guard = vllm
    ours = our_driver(guard)
    texts = [conversation(random.Random(100 + number)) for number in range(NUM_STREAMS)]
    barrier = threading.Barrier(NUM_STREAMS)

    def whole(text: list[tuple[int, Side | None]]) -> dict[int, Opinion]:
        with driver.temporary_stream() as stream:
            barrier.wait(60)
            return opinions(driver, stream, text)

    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        found = list(pool.map(whole, texts))
    for text, theirs in zip(texts, found, strict=True):
        with ours.temporary_stream() as stream:
            assert largest_difference(opinions(ours, stream, text), theirs) <= TOLERANCE


def test_long_texts_of_many_scripts_have_the_same_verdicts(moderators):
    there, here = moderators
    for text in (TEXT * 12, "\u4e2d\u6587" * 200, "\U0001f469\u200d\U0001f4bb " * 60, "", "a", "\x00\x01" * 40):
        theirs, ours = (guard.moderate(prompt="hello there", response=text) for guard in (there, here))
        assert theirs.decision == ours.decision
        assert [each.span for each in theirs.response.verdicts] == [each.span for each in ours.response.verdicts]
        assert theirs.response.windows == ours.response.windows


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.integers(0, 60),
    length=st.integers(1, 100),
    pieces=st.lists(st.integers(2, 9), min_size=1, max_size=4),
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=3),
)
def test_the_gateway_lets_nothing_past_the_flagged_token(moderators, start, length, pieces, sizes):
    there, _ = moderators
    text = (TEXT * 3)[start : start + length]
    assert_nothing_leaves_past_the_flagged_token(there, text, pieces=pieces, sizes=sizes)


def test_the_guard_finds_something_and_lets_something_through(moderators):
    there, _ = moderators
    found = {
        there.moderate(prompt="x", response=TEXT[n : n + 9]).response.first_flagged_char is None for n in range(60)
    }
    assert found == {True, False}


def test_vllms_own_requests_give_a_row_of_every_token(server):
    started, _ = server
    ids = [token_id for token_id, _ in conversation(random.Random(5))]
    url, body = f"{started.url}/pooling", {"model": "guard", "input": ids}
    probs = torch.tensor(httpx.post(url, json=body, timeout=60).json()["data"][0]["data"])
    assert probs.shape == (len(ids), 3 + 8 + 3 + 9)
    torch.testing.assert_close(probs.split((3, 8, 3, 9), dim=1)[3].sum(dim=1), torch.ones(len(ids)))
    logits = httpx.post(url, json={**body, "use_activation": False}, timeout=60).json()["data"][0]["data"]
    softmax = torch.cat([part.softmax(1) for part in torch.tensor(logits).split((3, 8, 3, 9), dim=1)], dim=1)
    torch.testing.assert_close(softmax, probs)
    packed = httpx.post(url, json={**body, "encoding_format": "base64"}, timeout=60).json()["data"][0]["data"]
    assert len(base64.b64decode(packed)) == 4 * probs.numel()


def test_vllms_chat_requests_use_the_checkpoints_template(server):
    started, _ = server
    messages = [{"role": "user", "content": "hello"}]
    answer = httpx.post(f"{started.url}/pooling", json={"model": "guard", "messages": messages}, timeout=60).json()
    assert len(answer["data"][0]["data"]) == answer["usage"]["prompt_tokens"] > len("hello")


@pytest.mark.parametrize(
    "data",
    [{}, [], "x", {"token_ids": []}, {"token_ids": [VOCAB_SIZE]}, {"token_ids": [-1]}, {"token_ids": ["1"]},
     {"token_ids": [True]}, {"token_ids": [1] * 600}, {"token_ids": [1], "reuse": False}],
)  # fmt: skip
def test_bad_requests_to_the_plugin_are_refused_and_harm_nothing(server, data):
    started, _ = server
    refused = httpx.post(f"{started.url}/pooling", json={"model": "guard", "data": data}, timeout=60)
    assert refused.status_code == 400
    good = httpx.post(f"{started.url}/pooling", json={"model": "guard", "data": {"token_ids": [1, 2]}}, timeout=60)
    assert (good.status_code, good.json()["data"]["labels"]) == (200, 23)


def test_another_guard_than_the_servers_is_refused(server, tmp_path):
    _, setup = server
    with pytest.raises(ConfigError, match="another guard"):
        streamward.load(write_guard(tmp_path / "other", random_guard(has_qk_norm=True)), vllm=setup.config)


def test_a_stream_outlives_a_server_that_is_killed_and_started_again(server):
    started, setup = server
    driver, ours = vllm_token_scorer(setup.folder, setup.config, dtype="float32"), our_driver(setup.guard)
    text = conversation(random.Random(9))
    half = len(text) - 15
    stream = driver.open()
    found = opinions(driver, stream, text[:half])
    started.kill()
    with pytest.raises(UpstreamError, match="cannot be reached"):
        driver.score_segments(stream, segments(text[half:]))
    started.start()
    found |= opinions(driver, stream, text[half:])
    with ours.temporary_stream() as other:
        assert largest_difference(opinions(ours, other, text), found) <= TOLERANCE
    driver.close_stream(stream)
    driver.close()


def test_an_engine_that_is_killed_in_the_middle_of_a_stream_is_an_error_and_not_a_verdict(in_process):
    import psutil

    _, setup = in_process
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    driver = vllm_token_scorer(setup.folder, setup.config, dtype="float32")
    stream = driver.open()
    driver.score(stream, [1, 2, 3], head=Side.RESPONSE)
    for child in psutil.Process().children(recursive=True):
        if child.pid not in before:
            child.kill()
    for _ in range(2):
        with pytest.raises(UpstreamError):
            driver.score(stream, [4], head=Side.RESPONSE)
    driver.close_stream(stream)
    driver.close()


def test_a_shape_that_vllm_does_not_take_is_said_when_it_is_loaded(tmp_path):
    folder = stream_checkpoint().write(tmp_path / "guard")  # heads of size 8
    with pytest.raises(ConfigError, match="vLLM cannot serve guard"):
        vllm_token_scorer(folder, VllmConfig(options=SMALL), dtype="float32")


def test_an_option_that_vllm_does_not_have_is_named(tmp_path):
    folder = stream_checkpoint().write(tmp_path / "guard")
    with pytest.raises(ConfigError, match="number_of_gpus"):
        vllm_token_scorer(folder, VllmConfig(options={"number_of_gpus": 2}), dtype="float32")
