"""The moderator: batches, threads, asyncio, bad input, failures of the guard."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from streamward.errors import InputError, OverloadedError, StreamClosedError, UpstreamError
from streamward.moderation.moderator import Moderator
from streamward.policy import Policy
from streamward.schema import Action, Side
from tests.moderation.guards import stream_guard

STRICT = Policy.load("strict")
TEXTS = ["yes", "the other thing", "中文字符", "a longer answer that rolls on and on", "👩‍💻", "no"] * 4


@pytest.fixture
def guard():
    with Moderator(stream_guard(), policy=STRICT) as moderated:
        yield moderated


def levels(result) -> list:
    return [(verdict.risk_level, verdict.span) for verdict in result.response.verdicts]


def test_a_batch_gives_the_results_of_its_items_in_order(guard):
    results = guard.moderate_batch([{"prompt": "hello", "response": text} for text in TEXTS])
    assert [levels(result) for result in results] == [
        levels(guard.moderate(prompt="hello", response=text)) for text in TEXTS
    ]
    assert guard.moderate_batch([]) == []


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ({"prompt": 5}, "prompt is of type int"),
        ({"text": "x"}, "keys"),
        ({}, "nothing to judge"),
        ("x", "mapping"),
        ({"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, "not both"),
    ],
)
def test_a_bad_item_is_named_and_nothing_is_judged(guard, item, problem):
    with pytest.raises(InputError, match=f"item 1.*{problem}"):
        guard.moderate_batch([{"prompt": "fine"}, item])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "nothing to judge"),
        ({"prompt": b"bytes"}, "prompt is of type bytes"),
        ({"response": ["x"]}, "response is of type list"),
        ({"messages": []}, "empty"),
        ({"messages": "hello"}, "list of messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role is unknown"),
        ({"prompt": " "}, "nothing to judge"),
        ({"messages": [{"role": "user"}]}, "nothing to judge"),
        ({"messages": [{"role": "system", "content": "x"}]}, "last message"),
    ],
)
def test_bad_arguments_say_what_is_wrong(guard, arguments, problem):
    with pytest.raises(InputError, match=problem):
        guard.moderate(**arguments)


def test_errors_do_not_repeat_the_text(guard):
    secret = "swordfish"
    with pytest.raises(InputError) as caught:
        guard.moderate(messages=[{"role": secret, "content": secret, secret: secret}])
    assert secret not in str(caught.value)


def test_a_hundred_streams_at_once_do_not_notice_each_other(guard):
    texts = [f"{text} number {index}" for index, text in enumerate(TEXTS * 5)][:100]
    alone = [levels(guard.moderate(prompt="hello", response=text)) for text in texts]
    streams = [guard.stream(prompt="hello") for _ in texts]
    for start in range(0, max(map(len, texts)), 3):
        for stream, text in zip(streams, texts, strict=True):
            stream.feed(text[start : start + 3])
    assert [levels(stream.finish()) for stream in streams] == alone


def test_threads_share_one_moderator(guard):
    expected = {text: levels(guard.moderate(prompt="hello", response=text)) for text in TEXTS}

    def work(text: str) -> None:
        with guard.stream(prompt="hello") as stream:
            for character in text:
                stream.feed(character)
            assert levels(stream.finish()) == expected[text]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, TEXTS * 3))


def test_one_stream_may_be_closed_while_another_thread_feeds_it(guard):
    stream = guard.stream()
    problems = []

    def feed() -> None:
        try:
            while True:
                stream.feed("more and more ")
        except StreamClosedError:
            return
        except Exception as error:
            problems.append(error)

    thread = threading.Thread(target=feed)
    thread.start()
    stream.close()
    thread.join(10)
    assert not thread.is_alive()
    assert not problems


def test_asyncio_gives_the_same_and_runs_side_by_side(guard):
    async def one(text: str) -> list:
        async with guard.astream(prompt="hello") as stream:
            for character in text:
                await stream.feed(character)
            return levels(await stream.finish())

    async def everything() -> list:
        whole = await guard.amoderate(prompt="hello", response=TEXTS[0])
        return [levels(whole), *await asyncio.gather(*map(one, TEXTS))]

    first, *found = asyncio.run(everything())
    assert found == [levels(guard.moderate(prompt="hello", response=text)) for text in TEXTS]
    assert first == found[0]


def test_a_cancelled_opening_leaves_no_stream_behind(guard):
    async def cancelled() -> None:
        entering = asyncio.ensure_future(guard.astream(prompt="hello " * 200).__aenter__())
        await asyncio.sleep(0)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering

    asyncio.run(cancelled())
    assert guard.moderate(prompt="x").prompt is not None  # nothing of it holds the guard up
    assert guard._guard.engine.num_streams == 0


def test_a_closed_moderator_refuses_work_and_may_be_closed_again(guard):
    guard.close()
    guard.close()
    for call in (lambda: guard.moderate(prompt="x"), lambda: guard.stream(), lambda: guard.stream(prompt="x")):
        with pytest.raises(StreamClosedError, match="closed"):
            call()


def test_policies_share_one_guard_and_only_its_owner_closes_it(guard):
    lax = guard.with_policy(Policy(name="lax", prompt={"unsafe": "allow", "controversial": "allow"}))
    texts = [f"text {index}" for index in range(30)]
    strict_results = [guard.moderate(prompt=text) for text in texts]
    assert Action.BLOCK in {result.decision.action for result in strict_results}
    assert [lax.moderate(prompt=text).prompt for text in texts] == [result.prompt for result in strict_results]
    assert {lax.moderate(prompt=text).decision.action for text in texts} == {Action.ALLOW}
    lax.close()
    assert guard.moderate(prompt="x").prompt is not None
    guard.close()
    with pytest.raises(StreamClosedError, match="closed"):
        lax.moderate(prompt="x")


def test_a_stream_does_not_follow_an_answer(guard):
    with pytest.raises(InputError, match="ends with an assistant's turn"):
        guard.stream(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])


@pytest.mark.parametrize(
    ("on_error", "action"), [("block", Action.BLOCK), ("flag", Action.FLAG), ("allow", Action.ALLOW)]
)
def test_a_guard_that_fails_never_says_safe(on_error, action):
    class Failing:
        def judge(self, conversation, policy):
            raise UpstreamError("the endpoint did not answer")

        def close(self): ...

    policy = Policy(name="mine", on_error={"prompt": on_error, "response": on_error})
    result = Moderator(Failing(), policy=policy).moderate(prompt="x")
    assert result.decision.action is action
    assert result.decision.error == UpstreamError.code
    assert result.decision.risk_level is None
    assert result.prompt is None


def test_damaged_weights_block_instead_of_passing():
    guard = stream_guard()
    with torch.no_grad():
        guard.engine.runner.model.prompt_heads.risk.weight.fill_(float("nan"))
    result = Moderator(guard, policy=STRICT).moderate(prompt="x")
    assert result.decision.action is Action.BLOCK
    assert result.decision.side is Side.PROMPT
    assert result.decision.error == "invalid_checkpoint"


def test_overload_is_an_error_and_passes():
    guard = Moderator(stream_guard(max_streams=2), policy=STRICT)
    first, second = guard.stream(), guard.stream()
    with pytest.raises(OverloadedError, match="max_streams"):
        guard.moderate(prompt="x")
    first.close()
    assert guard.moderate(prompt="x").prompt is not None
    second.close()


def test_a_piece_refused_for_lack_of_room_is_judged_later(monkeypatch):
    guard = Moderator(stream_guard(), policy=STRICT)
    text = "the other thing rolls on and on " * 2
    whole = guard.moderate(response=text)

    def refuse(*_: object) -> None:
        raise OverloadedError("full")

    with monkeypatch.context() as patch:
        patch.setattr(guard._guard.engine._cache, "reserve", refuse)
        with pytest.raises(OverloadedError):
            guard.stream()
    stream = guard.stream()
    with monkeypatch.context() as patch:
        patch.setattr(guard._guard.engine._cache, "reserve", refuse)
        with pytest.raises(OverloadedError):
            stream.feed(text)
    stream.feed("")
    assert levels(stream.finish()) == levels(whole)


def test_a_piece_waits_for_pages_that_queued_tokens_of_another_stream_hold():
    guard = Moderator(stream_guard(kv_cache_bytes=2 * 2 * 2 * 8 * 4 * 16 * 8), policy=STRICT)  # eight pages of 16
    text = "the other thing rolls on and on " * 2
    whole = guard.moderate(response=text)
    engine, stream = guard._guard.engine, guard.stream()
    engine.extend(engine.open(), [1] * 90, head=None)  # waits for a step, so it cannot be evicted
    stream.feed(text)
    assert levels(stream.finish()) == levels(whole)
