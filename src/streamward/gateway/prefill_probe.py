"""Tries whether an upstream goes on with a text as its settings say."""

import asyncio

from streamward.errors import StreamwardError, UpstreamError
from streamward.gateway.config import GatewayLimits
from streamward.gateway.continuation import ContinuationWriter
from streamward.gateway.continuation_reader import ContinuationReader
from streamward.gateway.strict_json import JsonObject
from streamward.gateway.upstream import Upstream
from streamward.gateway.wire import ClientRequest, Prompt
from streamward.intervene.generation import GenerationPrefix

_ASKED = "Count from 1 to 20 in digits, with a space between them. Say nothing else."
_GIVEN = "Off we go: 1 2 3 4 5 6 7"  # no model begins an answer like this unprompted
_NEXT = "8"
_TIMEOUT_S = 60.0


async def probe_prefill(upstream: Upstream) -> str | None:
    """Ask an upstream to go on counting.

    Args:
        upstream: Its `prefill` is not `none`.

    Returns:
        What is wrong; None if it goes on where it should.
    """
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            text = await _continued(upstream)
    except TimeoutError:
        return f"did not answer a request to continue a text within {_TIMEOUT_S:g} s"
    except UpstreamError as error:
        return f"does not continue a text with prefill = {upstream.config.prefill!r}: {error}"
    except StreamwardError as error:
        return f"cannot be asked to continue a text: {error}"
    if text.lstrip(" ,\n").startswith(_NEXT):
        return None
    if text.lstrip().startswith(_GIVEN):
        return "repeats the text that it is given to continue: set prefill_is_repeated = true"
    return (
        f"does not continue a text with prefill = {upstream.config.prefill!r}: given the beginning of a count, it"
        " answered with something else than the next number; name another prefill, or none"
    )


async def _continued(upstream: Upstream) -> str:
    body: JsonObject = {
        "model": await _model(upstream),
        "messages": [{"role": "user", "content": _ASKED}],
        "temperature": 0.0,
        "max_tokens": 16,
    }
    request = ClientRequest(body, str(body["model"]), [Prompt(())], num_choices=1, is_stream=True)
    writer = ContinuationWriter(request, "chat/completions", upstream.config, render=upstream.render_chat)
    asked = writer.write(0, GenerationPrefix(_GIVEN), num_spent=0)
    reader = ContinuationReader(upstream, asked, limits=GatewayLimits())
    text = ""
    try:
        while (piece := await reader.next()) is not None:
            text += piece
    finally:
        await reader.aclose()
    return text


async def _model(upstream: Upstream) -> str:
    if upstream.config.models:
        return upstream.config.models[0]
    listed = await upstream.models()
    if not listed:
        raise UpstreamError("it lists no models; name one in the settings (models)")
    return str(listed[0]["id"])
