"""Streams that callers feed: over HTTP and over a WebSocket, resumed, expired, refused."""

import asyncio
import json

import pytest
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from streamward.server.session_registry import StreamRegistry
from tests.moderation.guards import stream_guard
from tests.server.services import open_service

SOCKET = "ws://localhost/v1/streams"
ANSWER = "the other thing rolls on and on, 中文字符 and all"


def rows(service):
    with service.state.engine.connect() as connection:
        return [dict(row) for row in connection.exec_driver_sql("select * from decisions order by id").mappings()]


def levels(events):
    return [(event["verdict"]["position"], event["verdict"]["risk_level"]) for event in events]


def expected_levels(service, text):
    result = service.state.moderator.moderate(prompt="hello", response=text)
    return [(verdict.position, verdict.risk_level) for verdict in result.response.verdicts]


def final_levels(all_events):
    """The last verdict of each position: the end of a text may be tokenised anew."""
    by_position = {}
    for event in all_events:
        position, level = event["verdict"]["position"], event["verdict"]["risk_level"]
        by_position = {place: each for place, each in by_position.items() if place < position} | {position: level}
    return sorted(by_position.items())


@pytest.fixture
def client(service):
    with TestClient(service.app, base_url="http://localhost") as opened:
        yield opened


def opened(client, **body):
    answer = client.post("/v1/streams", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()["stream"]


def ask(socket, **message):
    socket.send_text(json.dumps(message))
    return json.loads(socket.receive_text())


def test_a_stream_over_http_gets_the_verdicts_of_the_whole_text(client, service):
    stream = opened(client, prompt="hello")
    events = []
    for start in range(0, len(ANSWER), 3):
        answer = client.post(f"/v1/streams/{stream}/append", json={"text": ANSWER[start : start + 3]})
        assert answer.status_code == 200
        events += answer.json()["events"]
    closed = client.post(f"/v1/streams/{stream}/close").json()
    assert final_levels(events) == expected_levels(service, ANSWER)
    assert levels({"verdict": verdict} for verdict in closed["response"]["verdicts"]) == expected_levels(
        service, ANSWER
    )
    (row,) = rows(service)
    assert row["stream_id"] == stream
    assert row["action"] == closed["decision"]["action"]
    assert row["response_chars"] == len(ANSWER)


def test_token_ids_are_judged_and_logged_as_the_text_they_are(client, service):
    tokenizer = stream_guard().tokenizer
    ids = tokenizer.encode(ANSWER).ids
    stream = opened(client, prompt="hello")
    events = []
    for token_id in ids:
        events += client.post(f"/v1/streams/{stream}/append", json={"token_ids": [token_id]}).json()["events"]
    client.post(f"/v1/streams/{stream}/close")
    assert final_levels(events) == expected_levels(service, ANSWER)
    assert rows(service)[0]["response_chars"] == len(ANSWER)


def test_reasoning_is_judged_before_the_answer(client):
    stream = opened(client, prompt="hello")
    assert client.post(f"/v1/streams/{stream}/append", json={"reasoning": "they greet me"}).json()["events"]
    assert client.post(f"/v1/streams/{stream}/append", json={"text": "hi"}).status_code == 200
    assert client.post(f"/v1/streams/{stream}/append", json={"reasoning": "late"}).status_code == 400


def test_a_piece_sent_twice_is_judged_once(client):
    stream = opened(client)
    first = client.post(f"/v1/streams/{stream}/append", json={"text": "hello", "seq": 0})
    again = client.post(f"/v1/streams/{stream}/append", json={"text": "hello", "seq": 0})
    assert again.json() == first.json()
    assert client.post(f"/v1/streams/{stream}/append", json={"text": "x", "seq": 2}).status_code == 400
    assert client.get(f"/v1/streams/{stream}").json()["next_seq"] == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": "x", "token_ids": [1]},
        {"token_ids": [-1]},
        {"token_ids": [10**6]},
        {"text": 5},
        {"text": "x", "seq": -1},
        {"text": "x", "mood": "good"},
    ],
)
def test_a_bad_piece_is_refused_and_leaves_the_stream_as_it_was(client, body):
    stream = opened(client)
    assert client.post(f"/v1/streams/{stream}/append", json=body).status_code == 400
    assert client.get(f"/v1/streams/{stream}").json()["next_seq"] == 0
    assert client.post(f"/v1/streams/{stream}/append", json={"text": "fine"}).status_code == 200


def test_a_closed_or_unknown_stream_is_a_conflict(client):
    stream = opened(client)
    assert client.post(f"/v1/streams/{stream}/close").status_code == 200
    for answer in (
        client.post(f"/v1/streams/{stream}/close"),
        client.post(f"/v1/streams/{stream}/append", json={"text": "x"}),
        client.get("/v1/streams/str_nothing"),
    ):
        assert answer.status_code == 409
        assert answer.json()["error"]["code"] == "stream_closed"


def test_another_tenants_stream_looks_as_if_it_did_not_exist(closed_service):
    acme, other = closed_service.key("acme"), closed_service.key("other")
    with TestClient(closed_service.app, base_url="http://localhost") as client:
        stream = client.post("/v1/streams", json={}, headers=acme).json()["stream"]
        refused = client.post(f"/v1/streams/{stream}/append", json={"text": "x"}, headers=other)
        unknown = client.post("/v1/streams/str_x/append", json={"text": "x"}, headers=other)
        assert refused.status_code == unknown.status_code == 409
        assert refused.json() == unknown.json()
        assert client.post(f"/v1/streams/{stream}/append", json={"text": "x"}, headers=acme).status_code == 200
        with client.websocket_connect(SOCKET, headers=other) as socket:
            assert ask(socket, type="resume", stream=stream)["code"] == "stream_closed"


def test_many_streams_share_one_websocket(client, service):
    texts = {f"s{index}": f"{ANSWER} number {index}" for index in range(8)}
    with client.websocket_connect(SOCKET) as socket:
        ids = {}
        for ref in texts:
            answer = ask(socket, type="open", ref=ref, prompt="hello")
            assert answer["type"] == "opened"
            ids[answer["stream"]] = answer["ref"]
        names = {ref: stream for stream, ref in ids.items()}
        pieces = [
            (names[ref], text[start : start + 5])
            for start in range(0, 60, 5)
            for ref, text in texts.items()
            if text[start:]
        ]
        for stream, piece in pieces:
            socket.send_text(json.dumps({"type": "append", "stream": stream, "text": piece}))
        found = {ref: [] for ref in texts}
        order = {ref: [] for ref in texts}
        for _ in pieces:
            answer = json.loads(socket.receive_text())
            found[ids[answer["stream"]]] += answer["events"]
            order[ids[answer["stream"]]].append(answer["seq"])
        for ref, stream in names.items():
            assert ask(socket, type="close", stream=stream)["type"] == "closed"
            assert order[ref] == sorted(order[ref])
            assert final_levels(found[ref]) == expected_levels(service, texts[ref])


def test_a_dropped_connection_is_resumed_where_it_broke(client, service):
    with client.websocket_connect(SOCKET) as socket:
        stream = ask(socket, type="open", prompt="hello")["stream"]
        first = ask(socket, type="append", stream=stream, text=ANSWER[:10], seq=0)
        second = ask(socket, type="append", stream=stream, text=ANSWER[10:20], seq=1)
    with client.websocket_connect(SOCKET) as socket:
        resumed = ask(socket, type="resume", stream=stream, after=0)
        assert resumed["next_seq"] == 2
        assert resumed["missed"] == [second]
        third = ask(socket, type="append", stream=stream, text=ANSWER[20:], seq=2)
        closed = ask(socket, type="close", stream=stream)
    events = first["events"] + second["events"] + third["events"]
    assert final_levels(events) == expected_levels(service, ANSWER)
    assert closed["type"] == "closed"


def test_a_stream_whose_connection_broke_expires_and_is_logged(tmp_path):
    now = [0.0]
    with open_service(tmp_path, streams={"resume_s": 30, "idle_s": 120}) as service:
        registry = service.app.state.streams = StreamRegistry(service.state, clock=lambda: now[0])

        async def used(client):
            for wait_s, is_dropped in ((29, True), (31, True), (119, False), (121, False)):
                stream = (await client.post("/v1/streams", json={"prompt": "hello"})).json()["stream"]
                session = registry.get(stream, tenant="local")
                if is_dropped:
                    session.attach(client)
                    session.detach(client)
                now[0] += wait_s
                await registry.sweep()
                shown = await client.get(f"/v1/streams/{stream}")
                assert shown.status_code == (200 if wait_s in (29, 119) else 409)
                await registry.close(timeout_s=10)

        service.run(used)
        assert registry.num_open == 0
        assert service.state.moderator._guard.engine.num_streams == 0
        endings = [json.loads(row["details"])["ended"] for row in rows(service)]
        assert endings == ["stopped", "expired", "stopped", "expired"]
        assert service.metric("streamward_streams_total", outcome="expired") == 2


@pytest.mark.parametrize("raw", ["", "nonsense", "[]", '{"type": "dance"}', '{"type": "open", "mood": 1}', "[" * 5000])
def test_a_message_that_cannot_be_read_ends_the_connection_with_1007(client, raw):
    with client.websocket_connect(SOCKET) as socket:
        socket.send_text(raw)
        answer = json.loads(socket.receive_text())
        assert (answer["type"], answer["code"]) == ("error", "invalid_input")
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
        assert closed.value.code == 1007


def test_an_error_of_one_stream_leaves_the_others_alone(client):
    with client.websocket_connect(SOCKET) as socket:
        stream = ask(socket, type="open")["stream"]
        assert ask(socket, type="append", stream="str_x", text="x")["code"] == "stream_closed"
        assert ask(socket, type="open", ref="bad", policy="nothing")["ref"] == "bad"
        assert ask(socket, type="append", stream=stream, text="x")["type"] == "events"


def test_a_websocket_without_a_good_key_is_not_accepted(closed_service):
    with TestClient(closed_service.app, base_url="http://localhost") as client:
        for headers in ({}, {"Authorization": "Bearer sw-wrong"}):
            with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect(SOCKET, headers=headers):
                pass
            assert refused.value.status_code == 401
        secret = closed_service.key()["Authorization"].removeprefix("Bearer ")
        with client.websocket_connect(SOCKET, subprotocols=["streamward", f"streamward-key.{secret}"]) as socket:
            assert socket.accepted_subprotocol == "streamward"
            assert ask(socket, type="open")["type"] == "opened"


def test_a_connection_ends_with_its_key_and_its_streams_stay_for_another_key_of_the_tenant(closed_service):
    secret, key = closed_service.state.keys.create("acme")
    with TestClient(closed_service.app, base_url="http://localhost") as client:
        with client.websocket_connect(SOCKET, headers={"Authorization": f"Bearer {secret}"}) as socket:
            stream = ask(socket, type="open")["stream"]
            assert ask(socket, type="append", stream=stream, text="hello")["type"] == "events"
            closed_service.state.keys.revoke(key.id)
            refused = ask(socket, type="append", stream=stream, text=" again")
            assert (refused["type"], refused["code"]) == ("error", "invalid_api_key")
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_text()
        assert closed.value.code == 1008
        answer = client.get(f"/v1/streams/{stream}", headers=closed_service.key("acme"))
        assert answer.json()["next_seq"] == 1


def test_a_page_of_another_origin_cannot_open_a_websocket(client):
    with (
        pytest.raises(WebSocketDenialResponse) as refused,
        client.websocket_connect(SOCKET, headers={"Origin": "https://elsewhere.example"}),
    ):
        pass
    assert refused.value.status_code == 403


def test_streams_beyond_the_limit_are_refused_until_one_closes(tmp_path):
    with (
        open_service(tmp_path, streams={"max_open": 2}) as service,
        TestClient(service.app, base_url="http://localhost") as client,
    ):
        first = opened(client)
        opened(client)
        refused = client.post("/v1/streams", json={})
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        client.post(f"/v1/streams/{first}/close")
        opened(client)


def test_a_key_has_only_so_many_streams(closed_service):
    headers = closed_service.key(max_concurrent=2)
    with TestClient(closed_service.app, base_url="http://localhost") as client:
        stream = client.post("/v1/streams", json={}, headers=headers).json()["stream"]
        refused = client.post("/v1/streams", json={}, headers=headers)  # the request and the stream count each
        assert refused.status_code == 429
        assert client.post(f"/v1/streams/{stream}/close", headers=headers).status_code == 200
        assert client.post("/v1/streams", json={}, headers=headers).status_code == 201


class BreakingStream:
    """Breaks when it is fed."""

    prompt = None
    releasable_chars = 0
    findings = ()

    def __init__(self, decision):
        self.decision = decision

    def masked(self, start, end): ...

    def feed(self, piece):
        raise RuntimeError("swordfish")

    def finish(self):
        raise RuntimeError("swordfish")

    def bytes_of(self, ids):
        return b""

    def close(self): ...


class BreakingGuard:
    """Opens streams that break."""

    def open_stream(self, conversation, policy, *, max_chars):
        from streamward.decisions import ALLOWED

        return BreakingStream(ALLOWED)

    def close(self): ...


def test_a_guard_that_breaks_blocks_the_stream_and_is_counted(tmp_path, caplog):
    with (
        open_service(tmp_path, guard=BreakingGuard()) as service,
        TestClient(service.app, base_url="http://localhost") as client,
    ):
        stream = opened(client)
        answer = client.post(f"/v1/streams/{stream}/append", json={"text": "x"}).json()
        assert answer["is_failed"] is True
        assert answer["decision"]["action"] == "block"
        assert answer["decision"]["error"] == "guard_failed"
        assert answer["releasable_chars"] == 0
        assert client.post(f"/v1/streams/{stream}/append", json={"text": "x"}).status_code == 409
        (row,) = rows(service)
        assert (row["action"], row["error"]) == ("block", "guard_failed")
        assert service.metric("streamward_guard_errors_total", endpoint="streams", code="guard_failed") == 1
    assert "swordfish" not in caplog.text


def test_stopping_the_service_closes_streams_and_logs_them(service):
    with TestClient(service.app, base_url="http://localhost") as client:
        stream = opened(client, prompt="hello")
        client.post(f"/v1/streams/{stream}/append", json={"text": "yes"})
    (row,) = rows(service)
    assert json.loads(row["details"])["ended"] == "stopped"
    assert service.state.moderator._guard.engine.num_streams == 0


def test_a_cancelled_piece_is_judged_all_the_same(service):
    async def used(client):
        stream = (await client.post("/v1/streams", json={})).json()["stream"]
        path = f"/v1/streams/{stream}/append"
        sending = asyncio.ensure_future(client.post(path, json={"text": "hello", "seq": 0}))
        while not service.app.state.streams.get(stream, tenant="local").is_busy:
            await asyncio.sleep(0)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        again = await client.post(path, json={"text": "hello", "seq": 0})
        assert again.status_code == 200
        closed = (await client.post(f"/v1/streams/{stream}/close")).json()
        expected = service.state.moderator.moderate(response="hello")
        assert len(closed["response"]["verdicts"]) == len(expected.response.verdicts)

    service.run(used)
