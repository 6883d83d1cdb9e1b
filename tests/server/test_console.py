"""The console's routes."""

import asyncio
import json
import re
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from streamward.server.console import _SCRIPTS
from streamward.server.live import LiveEvent, LiveKind
from streamward.server.stats import percentile
from tests.server.marked_guard import marked_guard
from tests.server.services import open_service


@pytest.fixture
def judging(tmp_path):
    with open_service(tmp_path, guard=marked_guard()) as service:
        yield service


@pytest.fixture
def keyed(tmp_path):
    with open_service(tmp_path, guard=marked_guard(), auth={"required": True}) as service:
        yield service


def test_the_console_and_everything_it_names_come_from_the_service(judging):
    page = judging.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    named = {part.split('"')[0] for part in page.text.split('="/')[1:]}
    assert {"assets/console.css", "assets/console.js", "assets/icon.svg"} == named
    assert "http://" not in page.text and "https://" not in page.text
    for name in named:
        assert judging.get(f"/{name}").status_code == 200


@pytest.mark.parametrize("path", ["/", "/assets/console.js", "/assets/live.js"])
def test_nothing_from_elsewhere_may_run_on_the_page(judging, path):
    headers = judging.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["none.js", "../console.py", "..%2fconsole.py", "%00", "a" * 50])
def test_only_the_pages_own_files_are_served(judging, name):
    assert judging.get(f"/assets/{name}").status_code in (400, 404)


@pytest.mark.parametrize("table", ["console", "page"])
def test_the_console_can_be_switched_off_under_its_former_name_too(tmp_path, table):
    with open_service(tmp_path, **{table: {"enabled": False}}) as service:
        for path in ("/", "/v1/stats", "/v1/overview", "/v1/decisions", "/v1/policies"):
            assert service.get(path).status_code == 404


def test_the_scripts_import_files_that_the_service_has(judging):
    known, pending = set(), ["console"]
    while pending:
        name = pending.pop()
        script = judging.get(f"/assets/{name}.js")
        assert script.status_code == 200, name
        known.add(name)
        pending += set(re.findall(r'from "\./([a-z_]+)\.js"', script.text)) - known
    assert known == set(_SCRIPTS)


def test_the_statistics_count_what_was_decided(judging):
    for prompt in ("hello", "how", "a #"):
        judging.post("/v1/guard", {"prompt": prompt})
    found = judging.get("/v1/stats").json()
    stats = found["stats"]
    assert stats["actions"] == {"allow": 2, "block": 1}
    assert stats["categories"] == {"Violent": 1}
    (latency,) = stats["latencies"]
    assert (latency["endpoint"], latency["count"]) == ("guard", 3)
    assert 0 < latency["guard_p50_ms"] <= latency["guard_p99_ms"] <= latency["p99_ms"]
    assert [each["action"] for each in stats["recent"]] == ["block", "allow", "allow"]
    assert found["policies"] == ["strict", "loose"]


def test_the_former_path_answers_with_the_former_names_too(judging):
    judging.post("/v1/guard", {"prompt": "a #"})
    former = judging.get("/v1/overview").json()
    assert former["numbers"] == former["stats"] == judging.get("/v1/stats").json()["stats"]
    assert former["upstreams"] == {}


def test_the_statistics_are_of_the_callers_tenant_and_an_admin_sees_all(keyed):
    one, two, admin = keyed.key("one"), keyed.key("two"), keyed.key("ops", is_admin=True)
    keyed.post("/v1/guard", {"prompt": "hello"}, headers=one)

    def total(headers):
        return sum(keyed.get("/v1/stats", headers=headers).json()["stats"]["actions"].values())

    assert (total(one), total(two), total(admin)) == (1, 0, 1)


@pytest.mark.parametrize("path", ["/v1/stats", "/v1/overview", "/v1/decisions", "/v1/policies", "/v1/live"])
def test_data_needs_a_key_and_the_console_itself_does_not(keyed, path):
    assert keyed.get(path).status_code == 401
    assert keyed.get("/").status_code == 200


def test_a_policy_that_a_key_may_not_choose_is_not_offered(keyed):
    headers = keyed.key("one", policy="loose")
    assert keyed.get("/v1/stats", headers=headers).json()["policies"] == ["loose"]


def testpercentiles_are_values_that_occurred():
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.95, 0.99)] == [50.0, 95.0, 99.0]
    assert percentile([7.0], 0.99) == 7.0


def test_too_many_watchers_are_refused(tmp_path):
    with (
        open_service(tmp_path, console={"max_subscribers": 1}) as service,
        service.state.feed.watched(None, owner="ops"),
    ):
        refused = service.get("/v1/live")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


def test_too_many_watchers_of_a_tenant_are_refused_and_others_are_not(tmp_path):
    console = {"max_subscribers_per_tenant": 1}
    with open_service(tmp_path, auth={"required": True}, console=console) as service:
        with service.state.feed.watched("acme", owner="acme"):
            refused = service.get("/v1/live", headers=service.key("acme"))
            assert service.request("HEAD", "/v1/live", headers=service.key("other")).status_code == 200
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")


@asynccontextmanager
async def _watching(service, headers):
    """Watch the service; yields the parts of the answer as they come. ASGI by hand, for a stream without end."""
    sent = []
    received = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive():
        return next(received, None) or await asyncio.Future()

    async def send(message):
        sent.append(message.get("body", b""))

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/live",
        "raw_path": b"/v1/live",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), *((name.lower().encode(), value.encode()) for name, value in headers)],
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
        "asgi": {"version": "3.0"},
    }
    watching = asyncio.create_task(service.app(scope, receive, send))
    while not any(b"watching" in body for body in sent):
        assert not watching.done()
        await asyncio.sleep(0)
    yield sent
    await asyncio.wait_for(watching, 10)


async def _watch(service, headers, *, publish):
    """Return what a subscriber is sent until the service stops."""
    async with _watching(service, headers) as sent:
        for event in publish:
            service.state.feed.publish(event)
        while not any(b"the end" in body for body in sent):
            await asyncio.sleep(0)
        service.state.admission.close()
    text = b"".join(sent).decode()
    return [json.loads(block.removeprefix("data: ")) for block in text.split("\n\n") if block.startswith("data: ")]


def _event(tenant, stream_id="str_1"):
    return LiveEvent(LiveKind.OPENED, datetime.now(UTC), tenant, "streams", stream_id)


@pytest.mark.parametrize(
    ("tenant", "facts", "seen"),
    [("one", {}, ["one"]), ("two", {}, ["two"]), ("ops", {"is_admin": True}, ["one", "two"])],
)
def test_a_watcher_sees_its_own_tenant_only(keyed, tenant, facts, seen):
    headers = keyed.key(tenant, **facts)
    published = [_event("one"), _event("two"), _event(tenant, "the end")]
    *events, _ = asyncio.run(_watch(keyed, headers.items(), publish=published))
    assert [event["tenant"] for event in events] == seen
    assert not keyed.state.feed.is_watched


def test_a_watcher_whose_key_is_revoked_sees_nothing_more(keyed):
    secret, key = keyed.state.keys.create("one")

    async def watch():
        async with _watching(keyed, [("Authorization", f"Bearer {secret}")]) as sent:
            keyed.state.keys.revoke(key.id)
            keyed.state.feed.publish(_event("one"))
        return b"".join(sent)

    assert asyncio.run(watch()) == b": watching\n\n"
    assert not keyed.state.feed.is_watched
