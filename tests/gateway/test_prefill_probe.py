"""Whether an upstream goes on with a text as its settings say is found out by trying."""

import asyncio

import pytest

from streamward.gateway.config import UpstreamConfig
from streamward.gateway.prefill_probe import probe_prefill
from streamward.gateway.upstream import Upstream
from tests.gateway.continuing import Turns


def probed(turns: Turns, **settings) -> str | None:
    config = UpstreamConfig.parse(
        {"base_url": "http://upstream.test/v1", "models": ["m"], "prefill": "prefix", **settings}, source="test"
    )

    async def probe() -> str | None:
        upstream = Upstream("up", config, transport=turns)
        try:
            return await probe_prefill(upstream)
        finally:
            await upstream.aclose()

    return asyncio.run(probe())


def test_an_upstream_that_goes_on_is_as_its_settings_say():
    turns = Turns(" 8 9 10")
    assert probed(turns) is None
    assert turns.bodies[0]["messages"][-1] == {
        "role": "assistant",
        "content": "Off we go: 1 2 3 4 5 6 7",
        "prefix": True,
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Sure! 1 2 3", "something else than the next number"),
        ("Off we go: 1 2 3 4 5 6 7 8 9", "prefill_is_repeated = true"),
        ("1 2 3 4 5 6 7 8 9", "something else"),
    ],
)
def test_one_that_does_something_else_is_told(text, problem):
    assert problem in (probed(Turns(text)) or "")


def test_one_that_repeats_the_text_is_right_if_its_settings_say_so():
    assert probed(Turns("Off we go: 1 2 3 4 5 6 7 8 9"), prefill_is_repeated=True) is None
    assert "does not repeat" in (probed(Turns(" 8 9"), prefill_is_repeated=True) or "")


def test_one_that_refuses_is_told():
    turns = Turns("x")
    turns.status = {0: 400}
    assert "refused to go on" in (probed(turns) or "")
