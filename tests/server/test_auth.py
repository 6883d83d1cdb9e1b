"""Keys, tenants and their limits."""

import asyncio
from datetime import UTC, datetime, timedelta
from secrets import token_hex, token_urlsafe

import httpx
import pytest

from streamward.errors import ConfigError, RateLimitError
from streamward.server.key_strength import check_strength
from streamward.server.keys import KeyStore
from streamward.server.rates import KeyLimits, RateLimiter
from tests.server.services import open_service, settings

BODY = {"prompt": "hello"}
GOOD = "sw-abcdefghij-" + "A" * 43
ADMIN_ROUTES = [
    ("GET", "/admin/keys"),
    ("POST", "/admin/keys"),
    ("DELETE", "/admin/keys/abcdefghij"),
    ("GET", "/admin/usage"),
    ("GET", "/admin/decisions"),
    ("GET", "/admin/policies"),
    ("GET", "/admin/policies/strict/versions"),
    ("POST", "/admin/policies/reload"),
]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic abc"},
        {"Authorization": "Bearer sw-nonsense"},
        {"Authorization": f"Bearer {GOOD}"},
        {"Authorization": f"Bearer {'x' * 5000}"},
        {"Authorization": b"Bearer \xff\xfe"},
        {"api-key": "wrong"},
        {"x-api-key": "wrong"},
    ],
)
def test_without_a_good_key_nothing_is_judged(closed_service, headers):
    for path, body in (
        ("/v1/guard", BODY),
        ("/v1/moderations", {"input": "x"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("/v1/streams", {}),
    ):
        answer = closed_service.post(path, body, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
    assert closed_service.metric("streamward_audit_rows_total") == 0


@pytest.mark.parametrize("name", ["Authorization", "api-key", "x-api-key"])
def test_a_key_is_taken_where_clients_send_it(closed_service, name):
    secret = closed_service.key()["Authorization"].removeprefix("Bearer ")
    value = f"Bearer {secret}" if name == "Authorization" else secret
    assert closed_service.post("/v1/guard", BODY, headers={name: value}).status_code == 200


def test_a_revoked_key_is_refused_at_once(closed_service):
    secret, key = closed_service.state.keys.create("acme")
    headers = {"Authorization": f"Bearer {secret}"}
    assert closed_service.post("/v1/guard", BODY, headers=headers).status_code == 200
    closed_service.state.keys.revoke(key.id)
    assert closed_service.post("/v1/guard", BODY, headers=headers).status_code == 401


def test_a_key_is_recalled_without_the_database_only_as_long_as_it_is_remembered(closed_service):
    now = [0.0]
    keys = KeyStore(engine=closed_service.state.engine, cache_s=2, clock=lambda: now[0])
    secret, key = keys.create("acme")
    assert keys.recall(secret) is None
    assert keys.find(secret) == keys.recall(secret) == key
    assert keys.recall(secret[:-1] + ("A" if secret[-1] != "A" else "B")) is None
    now[0] = 2.0
    assert keys.recall(secret) is None
    keys.find(secret)
    keys.revoke(key.id)
    assert keys.recall(secret) is None


def test_a_revocation_by_another_process_counts_when_the_memory_of_a_key_ends(closed_service):
    now = [0.0]
    here = KeyStore(engine=closed_service.state.engine, cache_s=2, clock=lambda: now[0])
    elsewhere = KeyStore(engine=closed_service.state.engine)
    secret, key = elsewhere.create("acme")
    assert here.find(secret) == key
    elsewhere.revoke(key.id)
    assert here.find(secret) is not None
    now[0] = 2.0
    assert here.find(secret) is None


def test_an_expired_key_is_refused(closed_service):
    headers = closed_service.key(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert closed_service.post("/v1/guard", BODY, headers=headers).status_code == 401


def test_keys_are_not_in_the_database(closed_service, tmp_path):
    secret, _ = closed_service.state.keys.create("acme")
    closed_service.state.engine.dispose()
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert b"acme" in stored
    assert secret.encode() not in stored
    assert secret[14:].encode() not in stored


def test_a_key_may_ask_only_for_its_own_policies(closed_service):
    headers = closed_service.key(policy="strict", other_policies=["loose"])
    assert closed_service.post("/v1/guard", BODY | {"policy": "loose"}, headers=headers).status_code == 200
    bound = closed_service.key(policy="strict")
    refused = closed_service.post("/v1/guard", BODY | {"policy": "loose"}, headers=bound)
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "forbidden"
    assert closed_service.post("/v1/guard", BODY, headers=bound).json()["policy"]["name"] == "strict"


def test_requests_beyond_the_rate_are_told_when_to_come_again(closed_service):
    headers = closed_service.key(requests_per_minute=2)
    first = closed_service.post("/v1/guard", BODY, headers=headers)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-reset-requests"].endswith("s")
    assert closed_service.post("/v1/guard", BODY, headers=headers).status_code == 200
    refused = closed_service.post("/v1/guard", BODY, headers=headers)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert refused.headers["x-ratelimit-limit-requests"] == "2"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert 0 < float(refused.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60
    assert closed_service.post("/v1/guard", BODY, headers=closed_service.key()).status_code == 200


def test_a_rate_refills_evenly():
    now = [0.0]
    limiter, limits = RateLimiter(clock=lambda: now[0]), KeyLimits(60, 10)
    for _ in range(60):
        limiter.take("key", limits)
    with pytest.raises(RateLimitError) as refused:
        limiter.take("key", limits)
    assert refused.value.retry_after_s == pytest.approx(1.0)
    now[0] = 1.0
    limiter.take("key", limits)
    assert limiter.headers("key", limits)["x-ratelimit-remaining-requests"] == "0"
    now[0] = 1000.0
    limiter.take("key", limits)
    assert limiter.headers("key", limits) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1.000s",
    }


def test_a_key_runs_only_so_many_requests_at_the_same_time(closed_service):
    headers = closed_service.key(max_concurrent=2)

    async def used(client: httpx.AsyncClient):
        answers = await asyncio.gather(*(client.post("/v1/guard", json=BODY, headers=headers) for _ in range(12)))
        after = await client.post("/v1/guard", json=BODY, headers=headers)
        return answers, after.status_code

    answers, after = closed_service.run(used)
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    assert all("x-ratelimit-remaining-requests" in answer.headers for answer in answers)
    assert after == 200


def test_more_requests_than_the_service_takes_are_told_to_come_again(tmp_path):
    with open_service(tmp_path, limits={"max_in_flight": 2}) as service:

        async def used(client: httpx.AsyncClient):
            return await asyncio.gather(*(client.post("/v1/guard", json=BODY) for _ in range(20)))

        answers = service.run(used)
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 503}
        assert all(answer.headers["retry-after"] for answer in answers if answer.status_code == 503)
        assert service.state.admission.num_in_flight == 0


def test_the_admin_api_makes_lists_and_revokes_keys(closed_service):
    admin = closed_service.key("ops", is_admin=True)
    wanted = {"tenant": "acme", "name": "their bot", "policy": "loose", "upstreams": []}
    made = closed_service.post("/admin/keys", wanted, headers=admin)
    assert made.status_code == 201
    secret, about = made.json()["key"], made.json()["about"]
    headers = {"Authorization": f"Bearer {secret}"}
    assert closed_service.post("/v1/guard", BODY, headers=headers).json()["policy"]["name"] == "loose"
    listed = closed_service.get("/admin/keys?tenant=acme", headers=admin)
    assert [key["id"] for key in listed.json()] == [about["id"]]
    assert secret not in listed.text
    usage = closed_service.get("/admin/usage", headers=admin).json()
    assert [(row["tenant"], row["num_decisions"]) for row in usage] == [("acme", 1)]
    assert closed_service.get("/v1/usage", headers=headers).json() == usage
    assert closed_service.request("DELETE", f"/admin/keys/{about['id']}", headers=admin).json()["revoked_at"]
    assert closed_service.post("/v1/guard", BODY, headers=headers).status_code == 401


@pytest.mark.parametrize(("method", "path"), ADMIN_ROUTES)
def test_the_admin_api_needs_an_admins_key(closed_service, method, path):
    body = {"json": {"tenant": "acme"}} if method == "POST" else {}
    assert closed_service.request(method, path, headers=closed_service.key(), **body).status_code == 403
    assert closed_service.request(method, path, **body).status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"tenant": ""},
        {"tenant": "../x"},
        {"tenant": "a" * 65},
        {"tenant": "acme", "policy": "nothing"},
        {"tenant": "acme", "requests_per_minute": 0},
        {"tenant": "acme", "colour": "red"},
    ],
)
def test_a_key_that_cannot_be_is_not_made(service, body):
    admin = service.key("ops", is_admin=True)
    assert service.post("/admin/keys", body, headers=admin).status_code == 400
    assert [key["tenant"] for key in service.get("/admin/keys", headers=admin).json()] == ["ops"]


def test_the_admin_key_of_the_environment_works(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_ADMIN_KEY", "correct horse battery staple")
    with open_service(tmp_path, auth={"required": True, "admin_key_env": "MY_ADMIN_KEY"}) as service:
        headers = {"Authorization": "Bearer correct horse battery staple"}
        assert service.get("/admin/keys", headers=headers).status_code == 200
        assert service.get("/admin/keys", headers={"Authorization": "Bearer another"}).status_code == 401


@pytest.mark.parametrize("name", ["Authorization", "api-key", "x-api-key"])
@pytest.mark.parametrize("sent", ["wrong", GOOD, "sw-short", "NONE", "sk-123"])
def test_where_no_key_is_needed_a_wrong_one_is_refused_all_the_same(service, name, sent):
    value = f"Bearer {sent}" if name == "Authorization" else sent
    for path in ("/v1/guard", "/admin/keys", "/assistant/v1/chat/completions", "/nothing"):
        refused = service.post(path, BODY, headers={name: value})
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")


def test_where_no_key_is_needed_a_revoked_one_is_refused_all_the_same(service):
    secret, key = service.state.keys.create("acme", is_admin=True)
    headers = {"Authorization": f"Bearer {secret}"}
    assert service.get("/admin/keys", headers=headers).status_code == 200
    service.state.keys.revoke(key.id)
    assert service.get("/admin/keys", headers=headers).status_code == 401
    assert service.post("/v1/guard", BODY, headers=headers).status_code == 401


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer none"}, {"api-key": "none"}])
def test_whoever_sends_no_key_is_a_tenant_without_admin_rights(service, headers):
    service.post("/v1/guard", BODY, headers=service.key("acme"))
    assert service.post("/v1/guard", BODY, headers=headers).status_code == 200
    overview = service.get("/v1/stats", headers=headers).json()
    assert (overview["tenant"], overview["is_admin"]) == ("local", False)
    assert len(overview["stats"]["recent"]) == 1
    assert [row["tenant"] for row in service.get("/v1/usage", headers=headers).json()] == ["local"]
    for method, path in ADMIN_ROUTES:
        assert service.request(method, path, headers=headers).status_code == 401


def test_whoever_sends_no_key_is_an_admin_only_where_the_settings_say_so_and_no_proxy_stands_before(tmp_path):
    with open_service(tmp_path, auth={"anonymous_is_admin": True}) as service:
        assert service.get("/admin/keys").status_code == 200
        assert service.get("/admin/keys", headers={"X-Forwarded-For": "203.0.113.9"}).status_code == 401
        assert service.get("/admin/keys", headers={"Authorization": "Bearer wrong"}).status_code == 401


@pytest.mark.parametrize(
    "changes",
    [
        {"auth": {"required": True, "anonymous_is_admin": True}},
        {"auth": {"anonymous_is_admin": True}, "listen": {"trusted_proxies": ["10.0.0.1"]}},
        {"auth": {"required": True, "anonymous_is_admin": True}, "listen": {"host": "0.0.0.0"}},
    ],
)
def test_admins_without_keys_are_refused_at_start_where_others_could_be_them(tmp_path, changes):
    with pytest.raises(ConfigError, match="anonymous_is_admin"):
        settings(tmp_path, **changes)


@pytest.mark.parametrize(
    "key",
    [
        "letmein",
        "a long secret",
        "changeme" * 8,
        "x" * 64,
        "ab12" * 16,
        "abcdefghijklmnopqrstuvwxyz",
        "0123456789abcdef0123456789abcdef",
        "streamward-admin-key-change-me-please",
        "Password1234567890Password1234567890",
    ],
)
def test_an_admin_key_that_can_be_guessed_is_refused_at_start_and_not_shown(tmp_path, monkeypatch, key):
    monkeypatch.setenv("MY_ADMIN_KEY", key)
    with (
        pytest.raises(ConfigError, match=r"MY_ADMIN_KEY.*at least 20 characters") as told,
        open_service(tmp_path, auth={"required": True, "admin_key_env": "MY_ADMIN_KEY"}),
    ):
        pass
    assert key not in str(told.value)


def test_random_admin_keys_of_the_usual_lengths_are_taken():
    for make in (token_hex, token_urlsafe):
        for _ in range(200):
            check_strength(make(24), setting="key")


def test_a_missing_secret_is_told_before_serving(tmp_path):
    with (
        pytest.raises(ConfigError, match="NOT_SET_ANYWHERE"),
        open_service(tmp_path, auth={"required": True, "admin_key_env": "NOT_SET_ANYWHERE"}),
    ):
        pass


def test_a_service_without_keys_listens_on_this_machine_only(tmp_path):
    with pytest.raises(ConfigError, match="loopback"):
        settings(tmp_path, listen={"host": "0.0.0.0"})
    assert settings(tmp_path, listen={"host": "::1"}).listen.is_loopback
    assert settings(tmp_path, listen={"host": "0.0.0.0"}, auth={"required": True}).listen.hosts == ()


def test_keys_never_reach_logs_errors_or_metrics(closed_service, caplog):
    secret = "sw-swordfish" + "x" * 40
    answer = closed_service.post("/v1/guard", BODY, headers={"Authorization": f"Bearer {secret}"})
    exposition = closed_service.get("/metrics").text
    for place in (answer.text, caplog.text, exposition, str([vars(record) for record in caplog.records])):
        assert "swordfish" not in place
