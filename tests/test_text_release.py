"""Text that is passed on only as far as the guard releases it, from a moderator and from a service."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

import streamward
from streamward.policy import Policy, SidePolicy
from streamward.schema import Action, Decision, Result, Side
from tests.server.marked_guard import MASKING, marked_guard, marked_moderator
from tests.server.services import open_service, served

REPLACING = Policy(name="mine", replacement="No.", response=SidePolicy(unsafe=Action.REPLACE))


class Model:
    """Says its pieces, and counts how many were taken."""

    def __init__(self, *pieces: str) -> None:
        self.num_taken = 0
        self._pieces = pieces

    def say(self) -> Iterator[str]:
        for piece in self._pieces:
            self.num_taken += 1
            yield piece

    async def asay(self) -> AsyncIterator[str]:
        for piece in self.say():
            yield piece


def released(guard: streamward.Moderator | streamward.Client, model: Model, prompt: str = "hello") -> list[str]:
    """What comes out, and the message of what ended it, both ways alike."""
    found: list[str] = []
    with guard.stream(prompt=prompt) as stream:
        try:
            found += streamward.release(stream, model.say())
        except streamward.BlockedError as error:
            found.append(f"[{error.decision.action} {error.decision.side}]")
    assert found == asyncio.run(areleased(guard, model, prompt))
    return found


async def areleased(guard: streamward.Moderator | streamward.Client, model: Model, prompt: str) -> list[str]:
    found: list[str] = []
    async with guard.astream(prompt=prompt) as stream:
        try:
            async for text in streamward.arelease(stream, model.asay()):
                found.append(text)
        except streamward.BlockedError as error:
            found.append(f"[{error.decision.action} {error.decision.side}]")
    return found


@pytest.fixture(params=["moderator", "service"])
def guard(request, tmp_path):
    if request.param == "moderator":
        with marked_moderator() as moderator:
            yield moderator
    else:
        with (
            open_service(tmp_path, guard=marked_guard()) as service,
            served(service.app) as url,
            streamward.connect(url) as client,
        ):
            yield client


def test_harmless_text_passes_whole(guard):
    assert "".join(released(guard, Model("Bread ", "needs # ", "patience."))) == "Bread needs # patience."
    assert released(guard, Model()) == []


def test_text_ends_where_the_guard_blocks_and_no_more_is_taken(guard):
    model = Model("fine ", "#", "# more", "never taken")
    assert released(guard, model) == ["fine ", "[block response]"]
    assert model.num_taken == 2 * 3


def test_the_end_is_judged_too(guard):
    assert "".join(released(guard, Model("fine #"))) == "fine #"


def test_a_blocked_prompt_takes_nothing_of_the_model(guard):
    model = Model("fine")
    assert released(guard, model, prompt="#") == ["[block prompt]"]
    assert model.num_taken == 0


def test_a_replacement_takes_the_place_of_the_rest():
    with marked_moderator(REPLACING) as guard:
        assert released(guard, Model("fine ", "## more", "never")) == ["fine ", "No."]


class FailingStream:
    """A stream whose guard fails at the second piece."""

    def __init__(self, action: Action) -> None:
        self.decision = Decision(Action.ALLOW)
        self.releasable_chars = 0
        self._action = action
        self._num_fed = 0

    def masked(self, start: int, end: int) -> None: ...

    def feed(self, piece: str) -> None:
        self._num_fed += 1
        if self._num_fed == 1:
            self.releasable_chars = len(piece)
        else:
            self.decision = Decision(self._action, side=Side.RESPONSE, risk_level=None, error="guard_failed")

    def finish(self) -> Result:
        return Result(self.decision)


def test_a_guard_that_fails_lets_nothing_pass_unless_the_policy_says_so():
    released = streamward.release(FailingStream(Action.BLOCK), ["fine ", "unread"])
    assert next(released) == "fine "
    with pytest.raises(streamward.BlockedError, match="guard_failed"):
        next(released)
    passed = list(streamward.release(FailingStream(Action.ALLOW), ["fine ", "unread ", "unread"]))
    assert "".join(passed) == "fine unread unread"


def test_the_message_of_a_block_says_why_without_the_text(guard):
    with guard.stream(prompt="hello") as stream, pytest.raises(streamward.BlockedError) as blocked:
        list(streamward.release(stream, ["secret ##"]))
    assert str(blocked.value) == "the guard blocked the response: Violent"
    assert blocked.value.code == "blocked"


@pytest.fixture(params=["moderator", "client"])
def masking_guard(request, tmp_path):
    (tmp_path / "policies").mkdir()
    path = tmp_path / "policies" / "masking.toml"
    path.write_text(MASKING)
    if request.param == "moderator":
        with marked_moderator(Policy.load(path)) as guard:
            yield guard
        return
    policies = {"folder": str(path.parent), "default": "masking"}
    with (
        open_service(tmp_path, guard=marked_guard(), policies=policies) as service,
        served(service.app) as url,
        streamward.connect(url) as client,
    ):
        yield client


def test_what_detectors_find_is_masked_across_pieces(masking_guard):
    model = Model("Write to jo@exa", "mple.com, ", "not to me", ".")
    assert "".join(released(masking_guard, model)) == "Write to [EMAIL], not to me."


def test_a_listed_word_ends_the_text_before_it(masking_guard):
    found = released(masking_guard, Model("Hail Ze", "us and jo@example.com", "never"))
    assert ("".join(found[:-1]), found[-1]) == ("Hail ", "[block response]")
