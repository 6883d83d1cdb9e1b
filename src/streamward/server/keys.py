"""API keys: made once, kept as hashes, found by their id."""

import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, RowMapping, insert, select, update

from streamward.errors import InputError
from streamward.server.store import API_KEYS, USAGE, translate_db_errors

_KEY = re.compile(r"sw-([a-z2-7]{10})-[A-Za-z0-9_-]{43}")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_ID_CHARS = 10
_MAX_REMEMBERED = 10_000
_WRONG_S = 10.0  # keys are random, so a wrong one hardly becomes right later
TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
"""Pattern of tenant names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """Permissions and limits of an API key. Never the key itself.

    Attributes:
        id: Public part of the key.
        tenant: Whose key it is. Keys of one tenant see each other's streams and decisions.
        name: What it is for.
        policy: Policy it is judged by; None: the service's default.
        other_policies: Policies its requests may ask for instead.
        upstreams: Servers it may reach through the gateway; None: all.
        is_admin: Whether it may use the admin API and see every tenant.
        requests_per_minute: None: the service's default. Likewise for `max_concurrent`.
        created_at: When it was made.
        expires_at: When it ends; None: never.
        revoked_at: When it was revoked; None: it was not.
    """

    id: str
    tenant: str
    name: str = ""
    policy: str | None = None
    other_policies: Sequence[str] = ()
    upstreams: Sequence[str] | None = None
    is_admin: bool = False
    requests_per_minute: int | None = None
    max_concurrent: int | None = None
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def is_good(self, now: datetime) -> bool:
        """True if the key is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class _Remembered:
    hash: str
    key: ApiKey
    until: float


class KeyStore:
    """The keys of a service. Thread-safe; its calls wait for the database."""

    def __init__(self, *, engine: Engine, cache_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        """Use a database whose tables exist.

        Args:
            engine: The database.
            cache_s: How long a key that was found is remembered.
            clock: Seconds.
        """
        self._engine = engine
        self._cache_s = cache_s
        self._clock = clock
        self._remembered: dict[str, _Remembered] = {}
        self._wrong: OrderedDict[str, float] = OrderedDict()  # expiry by hash; the oldest entry comes first

    def create(self, tenant: str, **facts: object) -> tuple[str, ApiKey]:
        """Make a key.

        Args:
            tenant: Letters, digits, `_`, `.`, `@` and `-`.
            **facts: Other attributes of `ApiKey`.

        Returns:
            The key, which is nowhere kept and cannot be shown again, and what is known of it.

        Raises:
            InputError: The tenant's name is not possible.
            AuditError: The database failed.
        """
        if TENANT.fullmatch(tenant) is None:
            raise InputError(
                "a tenant's name has 1 to 64 letters, digits, '_', '.', '@' or '-', a letter or digit first"
            )
        key_id = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_CHARS))
        secret = f"sw-{key_id}-{secrets.token_urlsafe(32)}"
        key = ApiKey(id=key_id, tenant=tenant, **facts)  # type: ignore[arg-type]  # a dataclass's own keywords
        row = {**asdict(key), "hash": _hash(secret)}
        row["other_policies"] = list(key.other_policies)
        row["upstreams"] = None if key.upstreams is None else list(key.upstreams)
        with translate_db_errors("the key cannot be kept"), self._engine.begin() as connection:
            connection.execute(insert(API_KEYS), row)
        return secret, key

    def find(self, secret: str) -> ApiKey | None:
        """Return what a key may do; None if it is unknown, revoked or expired.

        Raises:
            AuditError: The database failed.
        """
        match = _KEY.fullmatch(secret)
        found = None if match is None else _checked(self._recall(match[1]) or self._look_up(match[1]), secret)
        if found is None:
            self._remember_wrong(_hash(secret))
        return found

    def recall(self, secret: str) -> ApiKey | None:
        """Return the same without asking the database; None also if the key is not remembered."""
        match = _KEY.fullmatch(secret)
        return None if match is None else _checked(self._recall(match[1]), secret)

    def is_wrong(self, secret: str) -> bool:
        """Return True if a key was looked for a moment ago and is no good; the database is not asked."""
        until = self._wrong.get(_hash(secret))
        return until is not None and self._clock() < until

    def was_good(self, secret: str) -> bool:
        """Return True if a key was found before, however long ago, and was good; the database is not asked."""
        match = _KEY.fullmatch(secret)
        return match is not None and _checked(self._remembered.get(match[1]), secret) is not None

    def revoke(self, key_id: str) -> ApiKey:
        """End a key. Here at once; in other processes when they next look.

        Raises:
            InputError: There is no such key.
            AuditError: The database failed.
        """
        statement = (
            update(API_KEYS)
            .where(API_KEYS.c.id == key_id, API_KEYS.c.revoked_at.is_(None))
            .values(revoked_at=datetime.now(UTC))
        )
        with translate_db_errors("the key cannot be revoked"), self._engine.begin() as connection:
            connection.execute(statement)
        self._remembered.pop(key_id, None)
        return self.get(key_id)

    def get(self, key_id: str) -> ApiKey:
        """Return what is known of a key.

        Raises:
            InputError: There is no such key.
            AuditError: The database failed.
        """
        with translate_db_errors("keys cannot be read"), self._engine.connect() as connection:
            row = connection.execute(select(API_KEYS).where(API_KEYS.c.id == key_id)).mappings().first()
        if row is None:
            raise InputError("there is no key of this id")
        return _api_key(row)

    def all(self, tenant: str | None = None) -> list[ApiKey]:
        """Return all keys, or those of a tenant, oldest first.

        Raises:
            AuditError: The database failed.
        """
        query = select(API_KEYS).order_by(API_KEYS.c.created_at, API_KEYS.c.id)
        if tenant is not None:
            query = query.where(API_KEYS.c.tenant == tenant)
        with translate_db_errors("keys cannot be read"), self._engine.connect() as connection:
            return [_api_key(row) for row in connection.execute(query).mappings()]

    def usage(self, *, tenant: str | None = None, since: str = "") -> list[Mapping[str, object]]:
        """Return counts by key and day (UTC), from a day (`2026-01-31`) on.

        Raises:
            AuditError: The database failed.
        """
        query = select(USAGE).where(USAGE.c.day >= since).order_by(USAGE.c.day, USAGE.c.key_id)
        if tenant is not None:
            query = query.where(USAGE.c.tenant == tenant)
        with translate_db_errors("usage cannot be read"), self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def _recall(self, key_id: str) -> _Remembered | None:
        found = self._remembered.get(key_id)
        return None if found is None or found.until <= self._clock() else found

    def _remember_wrong(self, hashed: str) -> None:
        while len(self._wrong) >= _MAX_REMEMBERED:
            self._wrong.popitem(last=False)
        self._wrong[hashed] = self._clock() + _WRONG_S

    def _look_up(self, key_id: str) -> _Remembered | None:
        with translate_db_errors("keys cannot be read"), self._engine.connect() as connection:
            row = connection.execute(select(API_KEYS).where(API_KEYS.c.id == key_id)).mappings().first()
        if row is None:
            return None
        found = _Remembered(row["hash"], _api_key(row), self._clock() + self._cache_s)
        if len(self._remembered) >= _MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[key_id] = found
        return found


def _api_key(row: RowMapping) -> ApiKey:
    facts: dict[str, Any] = {name: value for name, value in row.items() if name != "hash"}  # Any: column values
    for name in ("other_policies", "upstreams"):
        facts[name] = None if facts[name] is None else tuple(facts[name])
    return ApiKey(**facts)


def _checked(found: _Remembered | None, secret: str) -> ApiKey | None:
    """Return a key that was found if it is the one that was sent, and is good."""
    if found is None or not hmac.compare_digest(found.hash, _hash(secret)):
        return None
    return found.key if found.key.is_good(datetime.now(UTC)) else None


def _hash(secret: str) -> str:
    """Hash a key. It holds 256 random bits, so a fast hash without salt is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()
