"""Characters that some clients take for line ends, in whatever the service says."""

import json

from fastapi import Request, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.testclient import TestClient

from tests.server.services import Service

TEXT = "one\u2028two\u2029three\x85four"
ENDS = {"\u2028", "\u2029", "\x85"}


def test_json_leaves_with_such_characters_escaped(service: Service):
    async def whole(request: Request) -> JSONResponse:
        return JSONResponse({"text": TEXT})

    service.app.add_api_route("/said/whole", whole)
    answer = service.get("/said/whole")
    assert not ENDS & set(answer.text)
    assert answer.json() == {"text": TEXT}
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_events_of_a_stream_leave_with_such_characters_escaped(service: Service):
    async def events(request: Request) -> StreamingResponse:
        async def said():
            yield b"data: " + json.dumps(TEXT, ensure_ascii=False).encode() + b"\n\n"

        return StreamingResponse(said(), media_type="text/event-stream")

    service.app.add_api_route("/said/events", events)
    (line,) = [line for line in service.get("/said/events").text.splitlines() if line]
    assert json.loads(line.removeprefix("data: ")) == TEXT


def test_messages_of_a_web_socket_leave_with_such_characters_escaped(service: Service):
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(json.dumps(TEXT, ensure_ascii=False))
        await websocket.close()

    service.app.add_api_websocket_route("/said/socket", socket)
    with TestClient(service.app, base_url="http://localhost").websocket_connect("ws://localhost/said/socket") as client:
        text = client.receive_text()
    assert not ENDS & set(text)
    assert json.loads(text) == TEXT


def test_what_is_no_json_is_left_alone(service: Service):
    async def plain(request: Request) -> PlainTextResponse:
        return PlainTextResponse(TEXT)

    service.app.add_api_route("/said/plain", plain)
    assert service.get("/said/plain").text == TEXT
