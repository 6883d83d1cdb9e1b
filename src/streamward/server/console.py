"""The console at `/`: its files, and the feed of live events."""

from collections.abc import AsyncIterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException

from streamward.errors import StreamwardError
from streamward.server.auth import IdentifiedCaller, identify
from streamward.server.errors import ERRORS
from streamward.server.live import LiveEvent
from streamward.server.state import service_state

router = APIRouter()

_POLL_S = 1.0  # time until a subscriber notices that the service stops
_POLLS_BETWEEN_COMMENTS = 15  # comments keep proxies from cutting a silent connection
_EVENT = TypeAdapter(LiveEvent)
_SCRIPTS = (
    "calls",
    "console",
    "curl",
    "decision_detail",
    "decisions",
    "elements",
    "live",
    "playground",
    "policies",
    "probability_bar",
    "samples",
    "status",
    "token_list",
    "verdict_card",
    "words",
)
_TYPES: Mapping[str, str] = {
    "console.html": "text/html; charset=utf-8",
    "console.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    **{f"{name}.js": "text/javascript; charset=utf-8" for name in _SCRIPTS},
}
_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@router.get("/", include_in_schema=False)
async def console() -> Response:
    """Return the console."""
    return _asset("console.html")


@router.get("/assets/{name}", include_in_schema=False)
async def asset(name: Annotated[str, Path(max_length=40)]) -> Response:
    """Return a file that the console needs."""
    if name not in _TYPES:
        raise HTTPException(404, "there is no such file")
    return _asset(name)


@router.get("/v1/live", tags=["operations"], responses=ERRORS, response_class=StreamingResponse)
async def live(request: Request, caller: IdentifiedCaller) -> Response:
    """Send what is being judged, as it happens, as server-sent events: of the caller's tenant; of all for an admin."""
    state = service_state(request)
    tenant = None if caller.is_admin else caller.tenant
    state.feed.check_room(caller.tenant)  # where there is none it is told with a status
    return StreamingResponse(
        _events(request, tenant, owner=caller.tenant),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(request: Request, tenant: str | None, *, owner: str) -> AsyncIterator[bytes]:
    """Yield events until the service stops or the caller's key ends; the client's going away cancels this."""
    state = service_state(request)
    num_silent = 0
    with state.feed.watched(tenant, owner=owner) as subscriber:
        yield b": watching\n\n"
        while not state.admission.is_draining:
            event = await subscriber.next(_POLL_S)
            if not await _is_good(request):
                return
            if event is not None:
                num_silent = 0
                yield b"data: " + _EVENT.dump_json(event) + b"\n\n"
                continue
            num_silent += 1
            if num_silent % _POLLS_BETWEEN_COMMENTS == 0:
                yield b": still here\n\n"


async def _is_good(request: Request) -> bool:
    try:
        await identify(request)
    except StreamwardError:
        return False
    return True


@cache
def _asset_bytes(name: str) -> bytes:
    return (files("streamward.server") / "assets" / name).read_bytes()


def _asset(name: str) -> Response:
    return Response(_asset_bytes(name), media_type=_TYPES[name], headers=dict(_HEADERS))
