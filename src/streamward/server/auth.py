"""Authentication, authorization and admission of callers."""

import asyncio
import hmac
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, cast
from urllib.parse import urlsplit

from fastapi import Depends, Security
from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection

from streamward.errors import AuthenticationError, ForbiddenError, InputError, RateLimitError
from streamward.server.keys import ApiKey
from streamward.server.owners import serve_owner
from streamward.server.policy_folder import LoadedPolicy
from streamward.server.rates import KeyLimits
from streamward.server.records import ModerationContext
from streamward.server.state import ServiceState, service_state

ANONYMOUS_TENANT = "local"
"""Tenant of requests without a key, where none is needed."""
NO_KEY = "none"
"""Placeholder sent by clients that insist on sending a key, as OpenAI's do; it counts as no key."""
SUBPROTOCOL = "streamward"
"""WebSocket subprotocol."""
_KEY_SUBPROTOCOL = "streamward-key."  # browsers cannot set headers on a WebSocket
_BEARER = HTTPBearer(auto_error=False, description="An API key, from `streamward keys create`.")
Documented = Annotated[object, Security(_BEARER)]
"""Tells the OpenAPI description that a key is needed; `identify` reads it."""


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller.

    Attributes:
        tenant: Whose request it is.
        key_id: Which key.
        policy: Policy to judge by; None: the service's default.
        other_policies: Policies that may be asked for instead; None: any.
        upstreams: Servers that may be reached through the gateway; None: any.
        is_admin: Whether it sees every tenant and may use the admin API.
        limits: What it may do.
    """

    tenant: str
    key_id: str
    policy: str | None
    other_policies: frozenset[str] | None
    upstreams: frozenset[str] | None
    is_admin: bool
    limits: KeyLimits

    def choose_policy(self, state: ServiceState, wanted: str | None = None) -> LoadedPolicy:
        """Return the policy to judge by.

        Raises:
            InputError: There is no such policy.
            ForbiddenError: The key may not ask for it.
        """
        own = self.policy or state.config.policies.default
        if wanted is None or wanted == own:
            return state.policies.get(own)
        if self.other_policies is not None and wanted not in self.other_policies:
            raise ForbiddenError("this key may not ask for that policy")
        return state.policies.get(wanted)

    def context(
        self,
        connection: HTTPConnection,
        endpoint: str,
        policy: LoadedPolicy,
        *,
        model: str | None = None,
        stream_id: str | None = None,
        upstream: str | None = None,
    ) -> ModerationContext:
        """Describe a request of this caller for the log; see `ModerationContext`. Its time begins now."""
        return ModerationContext(
            request_id=str(connection.state.request_id),
            tenant=self.tenant,
            key_id=self.key_id,
            endpoint=endpoint,
            policy=policy,
            model=model,
            stream_id=stream_id,
            upstream=upstream,
        )

    def check_upstream(self, name: str) -> None:
        """Refuse an upstream the key may not reach.

        Raises:
            ForbiddenError: It may not.
        """
        if self.upstreams is not None and name not in self.upstreams:
            raise ForbiddenError("this key may not reach that upstream")


async def identify(connection: HTTPConnection) -> Caller:
    """Return who calls, by the headers alone. What lasts asks again from time to time: keys end.

    Raises:
        AuthenticationError: The key is missing where one is needed, or wrong, revoked or expired.
        RateLimitError: Too many wrong keys came from this peer.
        ForbiddenError: A web page of another origin calls.
        AuditError: Keys cannot be read at present.
    """
    state = service_state(connection)
    _check_origin(connection, state)
    secret = _secret(connection)
    auth = state.config.auth
    defaults = KeyLimits(auth.requests_per_minute, auth.max_concurrent)
    if secret is None:
        if auth.required:
            raise AuthenticationError("an API key is needed; send it as `Authorization: Bearer sw-...`")
        is_admin = auth.anonymous_is_admin and not _is_forwarded(connection)
        return Caller(ANONYMOUS_TENANT, ANONYMOUS_TENANT, None, None, None, is_admin, defaults)
    if state.admin_key is not None and hmac.compare_digest(secret.encode(), state.admin_key.encode()):
        return Caller("admin", "admin", None, None, None, True, defaults)
    key = state.keys.recall(secret) or await _find(connection, state, secret)
    if key is None:
        raise AuthenticationError("the API key is wrong, revoked or expired")
    return _caller(key, defaults)


async def _find(connection: HTTPConnection, state: ServiceState, secret: str) -> ApiKey | None:
    """Look for a key in the database, unless its peer has sent too many wrong ones.

    A key that was good before is no guess, and is looked for whatever its peer sends besides.
    """
    if state.keys.was_good(secret):
        return await asyncio.to_thread(state.keys.find, secret)
    peer, most = state.peers.of(connection.scope), state.config.auth.wrong_keys_per_minute
    if wait_s := state.wrong_keys.take(peer, most=most):
        raise RateLimitError(f"more than {most} wrong API keys per minute from this address", retry_after_s=wait_s)
    if state.keys.is_wrong(secret):
        return None
    is_counted = False
    try:
        key = await asyncio.to_thread(state.keys.find, secret)
        is_counted = key is None
    finally:
        if not is_counted:
            state.wrong_keys.give_back(peer, most=most)
    return key


def caller_of(connection: HTTPConnection) -> Caller:
    """Return who calls, as `KeyGate` found before anything of the request was read."""
    return cast(Caller, connection.state.caller)


async def seen(connection: HTTPConnection, documented: Documented) -> Caller:
    """Dependency of routes that only show something: who calls, not counted."""
    del documented
    return caller_of(connection)


async def authenticate(connection: HTTPConnection, documented: Documented) -> AsyncIterator[Caller]:
    """Dependency of every route that works for a caller: who calls, counted until the answer's last byte is sent.

    Raises:
        RateLimitError: The key's limit is reached.
        OverloadedError: The service has no room, or is stopping.
    """
    del documented
    caller = caller_of(connection)
    state = service_state(connection)
    count(connection, caller)
    with ExitStack() as stack:
        stack.enter_context(state.rates.running(caller.key_id, caller.limits))
        stack.enter_context(state.admission.admitted())
        yield caller


def count(connection: HTTPConnection, caller: Caller) -> None:
    """Count a request, note for whom the guard works, and have the answer say what is left, whatever the answer is.

    Raises:
        RateLimitError: The key's limit is reached.
    """
    state = service_state(connection)
    rates = state.rates
    key_id = None if _secret(connection) is None else caller.key_id
    serve_owner(key_id=key_id, peer=state.peers.of(connection.scope))
    try:
        rates.take(caller.key_id, caller.limits)
    finally:
        connection.state.rate_headers = rates.headers(caller.key_id, caller.limits)


async def admin_only(connection: HTTPConnection, documented: Documented) -> Caller:
    """Dependency of the admin API.

    Raises:
        AuthenticationError: There is no key.
        ForbiddenError: The key is no admin's.
    """
    del documented
    caller = caller_of(connection)
    if not caller.is_admin and caller.key_id == ANONYMOUS_TENANT:
        raise AuthenticationError("this needs an admin key; send it as `Authorization: Bearer ...`")
    if not caller.is_admin:
        raise ForbiddenError("this needs an admin key")
    return caller


MeteredCaller = Annotated[Caller, Depends(authenticate)]
"""A caller that is counted: for routes that judge."""
IdentifiedCaller = Annotated[Caller, Depends(seen)]
"""A caller that is not counted: for routes that only show something."""
AdminCaller = Annotated[Caller, Depends(admin_only)]
"""An admin."""


def _caller(key: ApiKey, defaults: KeyLimits) -> Caller:
    return Caller(
        tenant=key.tenant,
        key_id=key.id,
        policy=key.policy,
        other_policies=None if key.is_admin else frozenset(key.other_policies),
        upstreams=None if key.upstreams is None else frozenset(key.upstreams),
        is_admin=key.is_admin,
        limits=KeyLimits(
            key.requests_per_minute or defaults.requests_per_minute, key.max_concurrent or defaults.max_concurrent
        ),
    )


def _secret(connection: HTTPConnection) -> str | None:
    """Return the key that was sent; None for none, and for the word that says so."""
    sent = _sent(connection)
    return None if sent == NO_KEY else sent


def _sent(connection: HTTPConnection) -> str | None:
    """Return what was sent where OpenAI, Azure or LiteLLM send keys, or in a WebSocket's subprotocols."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    for name in ("api-key", "x-api-key"):
        if key := connection.headers.get(name):
            return key
    offered = [name.strip() for name in connection.headers.get("sec-websocket-protocol", "").split(",")]
    return next((name.removeprefix(_KEY_SUBPROTOCOL) for name in offered if name.startswith(_KEY_SUBPROTOCOL)), None)


def _is_forwarded(connection: HTTPConnection) -> bool:
    """Return whether a proxy passed the request on, so that it may come from anywhere."""
    return any(name in connection.headers for name in ("forwarded", "x-forwarded-for", "x-real-ip", "via"))


def _check_origin(connection: HTTPConnection, state: ServiceState) -> None:
    """Refuse web pages of other origins: a browser would lend them its place on this machine."""
    origin = connection.headers.get("origin")
    if origin is None or origin in state.config.listen.cors_origins:
        return
    try:
        host = urlsplit(origin).netloc
    except ValueError as error:
        raise InputError("the header Origin is malformed") from error
    if not host or host.lower() != connection.headers.get("host", "").lower():
        raise ForbiddenError("web pages of this origin may not call (listen.cors_origins)")
