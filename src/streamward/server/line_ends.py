"""JSON that every client reads as one line: characters that some take for line ends leave escaped."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamward.gateway.strict_json import LINE_ENDS

_ESCAPED = {character.encode(): escaped.encode() for character, escaped in LINE_ENDS.items()}
_TYPES = ("application/json", "text/event-stream")


class EscapedLineEnds:
    """Escapes U+2028, U+2029 and U+0085 in all JSON that leaves: whole, as events of a stream, over a WebSocket.

    They stand in JSON only within strings. No part of a body ends within a character; a body with a length is one part.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "websocket":
            await self._app(scope, receive, _text_escaped(send))
        elif scope["type"] == "http":
            await self._app(scope, receive, _body_escaped(send))
        else:
            await self._app(scope, receive, send)


def _body_escaped(send: Send) -> Send:
    start: Message | None = None
    is_json = False

    async def escaped(message: Message) -> None:
        nonlocal start, is_json
        if message["type"] == "http.response.start":
            headers = Headers(raw=message["headers"])
            is_json = headers.get("content-type", "").startswith(_TYPES)
            if is_json and "content-length" in headers:
                start = message  # the body may change its length
                return
        elif message["type"] == "http.response.body" and is_json:
            given: bytes = message.get("body", b"")
            body = _escape(given)
            if start is not None:
                begun, start = start, None
                if len(body) > len(given):
                    MutableHeaders(raw=begun["headers"])["content-length"] = str(len(body))
                await send(begun)
            message = {**message, "body": body}
        await send(message)

    return escaped


def _text_escaped(send: Send) -> Send:
    async def escaped(message: Message) -> None:
        if message["type"] == "websocket.send" and message.get("text") is not None:
            text: str = message["text"]
            for character, escaped in LINE_ENDS.items():
                text = text.replace(character, escaped)
            message = {**message, "text": text}
        await send(message)

    return escaped


def _escape(body: bytes) -> bytes:
    for character, escaped in _ESCAPED.items():
        body = body.replace(character, escaped)
    return body
