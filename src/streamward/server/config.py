"""Everything about a service that an operator may set. Imports without torch."""

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AliasChoices, Field, IPvAnyNetwork, SecretStr, ValidationError, model_validator

from streamward.distributed.config import ReplicaSetConfig
from streamward.engine.config import EngineConfig
from streamward.errors import ConfigError
from streamward.gateway.config import GatewayLimits, UpstreamConfig
from streamward.policy_guards.config import SecondOpinionConfig
from streamward.server.setting_changes import apply_change
from streamward.settings import Settings, describe_all, read_toml
from streamward.vllm.config import VllmConfig

ENV_NAME = "^[A-Za-z_][A-Za-z0-9_]*$"
UpstreamName = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]{0,62}$")]
_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@")
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


class ListenConfig(Settings):
    """Listening address, trusted hosts, origins and proxies, and connection limits."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    allowed_hosts: tuple[str, ...] = ()
    """Names by which it may be called (the header Host); empty: any, or this machine's own on a loopback address."""
    cors_origins: tuple[str, ...] = ()
    """Web pages of other origins that may call it, as `https://host:port`."""
    tls_certificate: Path | None = None
    """PEM file with the certificate chain."""
    tls_key: Path | None = None
    """PEM file with its key."""
    trusted_proxies: tuple[IPvAnyNetwork, ...] = ()
    """Addresses or networks of reverse proxies whose header X-Forwarded-For says who calls; of others it is ignored."""
    max_connections: int = Field(default=1024, gt=0)
    """Connections at the same time. For one more, the one that has waited longest without a request is closed; where
    all have one, it is answered 503."""
    max_connections_per_peer: int = Field(default=256, gt=0)
    """Maximum concurrent requests of one address (IPv6: the first 64 bits), and as many WebSockets; more get 429.
    Trusted proxies have no limit of their own."""
    max_header_bytes: int = Field(default=16384, ge=1024)
    """Request line and headers together."""
    header_timeout_s: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """For the headers of a connection's next request to arrive; then it is closed."""

    @model_validator(mode="after")
    def _has_both_halves_of_tls(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        return self

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names by which it may be called; empty: any."""
        if self.allowed_hosts or not self.is_loopback:
            return self.allowed_hosts
        return LOOPBACK_NAMES


class LimitsConfig(Settings):
    """Limits of one request, and of all requests together."""

    max_in_flight: int = Field(default=128, gt=0)
    """Requests judged at the same time, and threads for them; more are answered 503 with Retry-After."""
    max_body_bytes: int = Field(default=2**21, gt=0)
    """One request's body, or one WebSocket message."""
    max_buffered_bytes: int = Field(default=2**27, gt=0)
    """Bodies of all requests together; more are answered 503 with Retry-After."""
    max_buffered_bytes_per_key: int = Field(default=2**25, gt=0)
    """Bodies of one key's requests together, beyond the first; more are answered 429 with Retry-After."""
    max_json_depth: int = Field(default=32, gt=0, le=200)
    """Objects and lists within each other."""
    body_timeout_s: float = Field(default=20.0, gt=0, allow_inf_nan=False)
    """For a request's whole body to arrive."""
    max_chars: int = Field(default=1_000_000, gt=0)
    """Longest conversation, in characters."""
    max_inputs: int = Field(default=256, gt=0)
    """Texts of one call of /v1/moderations."""
    judge_timeout_s: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    """For the guard to judge one text; what takes longer is answered 503."""
    guard_stall_s: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """Time without progress of the guard after which /ready answers 503: of a step, or of the read that waits
    longest. A long text that goes on being read is progress."""
    drain_s: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    """Time that requests in flight have after a stop was asked for; the process ends within a second more."""


class StreamsConfig(Settings):
    """Streams that callers feed themselves."""

    max_open: int = Field(default=512, gt=0)
    """Streams open at the same time, over all callers."""
    max_per_connection: int = Field(default=64, gt=0)
    """Streams of one WebSocket."""
    idle_s: float = Field(default=120.0, gt=0, allow_inf_nan=False)
    """A stream not fed for so long is closed."""
    resume_s: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    """Time that a stream outlives its WebSocket, to be resumed on another."""
    max_kept_events: int = Field(default=4096, gt=0)
    """Events kept of each stream for whoever resumes it."""
    max_sockets_per_key: int = Field(default=64, gt=0)
    """WebSockets of one key at the same time; more are answered 429."""
    socket_idle_s: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    """A WebSocket on which nothing was said for so long is closed."""


class AuthConfig(Settings):
    """Authentication of callers."""

    required: bool = True
    """If true, an API key is needed. If not, the service must listen on a loopback address, whoever sends no key is the
    tenant `local`, and a wrong key is refused all the same."""
    anonymous_is_admin: bool = False
    """If true, callers without a key may use the admin API and see every tenant: needs `required = false`, a loopback
    address and no proxy."""
    admin_key_env: str | None = Field(default=None, pattern=ENV_NAME)
    """Environment variable with a key for the admin API, besides the admin keys made by `streamward keys`."""
    cache_s: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    """Time that a key is remembered, and therefore the delay of a revocation by another process."""
    requests_per_minute: int = Field(default=6000, gt=0)
    """Default for keys that state no limit of their own."""
    max_concurrent: int = Field(default=64, gt=0)
    """Requests and streams at the same time of a key that states none."""
    wrong_keys_per_minute: int = Field(default=60, gt=0)
    """From one address (of IPv6, the first 64 bits); more are answered 429 without looking for the key."""


class StoreConfig(Settings):
    """The database of keys, usage and decisions."""

    url: str | None = None
    """SQLAlchemy URL without a password, SQLite or PostgreSQL (`postgresql+psycopg://user@host/name`). By default a
    SQLite file in the user's state folder."""
    url_env: str | None = Field(default=None, pattern=ENV_NAME)
    """Instead: the environment variable that holds the URL, with its password."""
    timeout_s: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    """For a lock or a connection."""

    @model_validator(mode="after")
    def _says_it_once(self) -> Self:
        if self.url is not None and self.url_env is not None:
            raise ValueError("give url or url_env, not both")
        if self.url is not None and _PASSWORD.search(self.url):
            raise ValueError("url contains a password; put the URL into an environment variable and name it in url_env")
        return self

    @property
    def is_default(self) -> bool:
        """True if it is the file in the user's state folder."""
        return self.url is None and self.url_env is None

    def secret_url(self) -> SecretStr:
        """Return the URL.

        Raises:
            ConfigError: The environment variable is not set.
        """
        if self.url_env is not None:
            return SecretStr(read_secret(self.url_env, setting="store.url_env"))
        return SecretStr(self.url or f"sqlite:///{state_folder() / 'service.sqlite3'}")


class AuditConfig(Settings):
    """The log of decisions."""

    retention_days: float | None = Field(default=90.0, gt=0, allow_inf_nan=False)
    """Rows older than this are deleted; None keeps them. How long texts stay is the policy's to say."""
    hash_key_env: str | None = Field(default=None, pattern=ENV_NAME)
    """Environment variable with a key: texts are hashed with HMAC-SHA-256, so that nobody can confirm a guess without
    it. Without: plain SHA-256."""
    max_waiting: int = Field(default=4096, gt=0)
    """Rows waiting to be written; more are refused, and their requests with them."""
    max_batch: int = Field(default=256, gt=0)
    """Rows written in one transaction."""
    timeout_s: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """For a decision to be on the disk; a request whose decision takes longer is answered 503."""
    purge_every_s: float = Field(default=3600.0, gt=0, allow_inf_nan=False)
    """Interval between deletions of expired rows and texts, seconds."""


class PoliciesConfig(Settings):
    """Policies."""

    folder: Path | None = None
    """Its `*.toml` files are the policies, besides `strict` and `loose`."""
    default: str = "strict"
    """Policy of callers whose key names none."""
    reload_s: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    """Interval between checks of the folder, seconds."""


class LogConfig(Settings):
    """Logs. Moderated text, keys and headers are never in them."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe line written."""
    format: Literal["json", "text"] = "json"
    """`json`: one JSON object per line."""
    opentelemetry: bool = False
    """If true, every decision is an event `gen_ai.evaluation.result` of the OpenTelemetry SDK (extra `otel`)."""


class ConsoleConfig(Settings):
    """The console at `/`, and what it reads: statistics, decisions, policies and the feed of live events."""

    enabled: bool = True
    """If true, the service has a console."""
    live_text: bool = False
    """If true, the feed carries the text being judged, to callers of the same tenant and to admins."""
    max_subscribers: int = Field(default=32, gt=0, validation_alias=AliasChoices("max_subscribers", "max_watchers"))
    """Subscribers at the same time; more are answered 503."""
    max_subscribers_per_tenant: int = Field(
        default=8, gt=0, validation_alias=AliasChoices("max_subscribers_per_tenant", "max_watchers_per_tenant")
    )
    """Subscribers of one tenant at the same time; more are answered 429."""


class ServeConfig(Settings):
    """One service."""

    guard: str = "stream-135m"
    """Embedded guard, checkpoint folder, hub id, or `http://host/v1#model`."""
    listen: ListenConfig = ListenConfig()
    """Listening address and connections."""
    limits: LimitsConfig = LimitsConfig()
    """Limits of requests."""
    engine: EngineConfig = EngineConfig()
    """Limits of the engine."""
    vllm: VllmConfig | None = None
    """Instead of the engine: vLLM, in this process or behind a `url`."""
    streams: StreamsConfig = StreamsConfig()
    """Streams that callers feed."""
    auth: AuthConfig = AuthConfig()
    """Authentication of callers."""
    policies: PoliciesConfig = PoliciesConfig()
    """Policies."""
    store: StoreConfig = StoreConfig()
    """The database."""
    audit: AuditConfig = AuditConfig()
    """The log of decisions."""
    log: LogConfig = LogConfig()
    """Logs."""
    console: ConsoleConfig = Field(default=ConsoleConfig(), validation_alias=AliasChoices("console", "page"))
    """The console; `page` is its former name, accepted until the next release."""
    upstreams: Mapping[UpstreamName, UpstreamConfig] = {}
    """Guarded models, by the name that stands in their path: `/NAME/v1/chat/completions`."""
    gateway: GatewayLimits = GatewayLimits()
    """Limits of guarded answers."""
    second_opinion: SecondOpinionConfig | None = None
    """A slower guard that reads policies, asked where the guard is unsure or a rule needs it."""
    ray: ReplicaSetConfig = ReplicaSetConfig()
    """Replicas of the guard, where it is served with `--ray`."""

    @model_validator(mode="after")
    def _has_one_engine(self) -> Self:
        if self.vllm is not None and "engine" in self.model_fields_set:
            raise ValueError("vllm takes the place of engine; leave the settings of one of them out")
        return self

    @model_validator(mode="after")
    def _is_not_open_to_the_network(self) -> Self:
        if not self.auth.required and not self.listen.is_loopback:
            raise ValueError("auth.required is false, so listen.host must be a loopback address")
        return self

    @model_validator(mode="after")
    def _has_no_anonymous_admin_from_elsewhere(self) -> Self:
        if not self.auth.anonymous_is_admin:
            return self
        if self.auth.required or not self.listen.is_loopback or self.listen.trusted_proxies:
            raise ValueError(
                "auth.anonymous_is_admin is true, so auth.required must be false, listen.host a loopback address, and"
                " listen.trusted_proxies empty"
            )
        return self

    @classmethod
    def load(cls, path: Path | None, *, changes: Iterable[str] = ()) -> "ServeConfig":
        """Read a TOML file and change single settings.

        Args:
            path: None: the defaults.
            changes: As `limits.max_in_flight=64`; values as in TOML, or plain text.

        Raises:
            ConfigError: The file cannot be read, or a key or value is wrong.
        """
        values = {} if path is None else _read_toml(path)
        for change in changes:
            apply_change(values, change)
        return cls.parse(values, source="settings" if path is None else str(path))


class Draft(NamedTuple):
    """Settings as far as they are right.

    Attributes:
        config: Where something is wrong, the defaults stand instead.
        problems: What is wrong.
        unknown: Tables that something is wrong with.
    """

    config: ServeConfig
    problems: list[str]
    unknown: frozenset[str]


_HELD_AGAINST_EACH_OTHER = {("auth",), ("listen",), ("engine",), ("vllm",)}


def load_draft(path: Path | None, *, changes: Iterable[str] = ()) -> Draft:
    """Read settings like `ServeConfig.load`, and leave out the tables that are wrong.

    Raises:
        ConfigError: The file cannot be read.
    """
    values = {} if path is None else _read_toml(path)
    for change in changes:
        apply_change(values, change)
    source = "settings" if path is None else str(path)
    problems: list[str] = []
    unknown: set[str] = set()
    while True:
        try:
            config = ServeConfig.model_validate(values)
        except ValidationError as error:
            problems += [f"{source}: {each}" for each in describe_all(error, ServeConfig)]
            places = {tuple(map(str, item["loc"][:2])) for item in error.errors() if item["loc"]}
            for place in places or _HELD_AGAINST_EACH_OTHER:
                unknown |= _without(values, place)
        else:
            return Draft(config, problems, frozenset(unknown))


def _without(values: dict[str, Any], place: tuple[str, ...]) -> set[str]:  # Any: TOML values
    """Take a wrong table out; of the upstreams, only the one that is wrong. Return the tables that are gone whole."""
    table, *inner = place
    upstreams = values.get(table)
    if table == "upstreams" and inner and isinstance(upstreams, dict) and inner[0] in upstreams:
        del upstreams[inner[0]]
        return set()
    values.pop(table, None)
    return {table}


def _read_toml(path: Path) -> dict[str, Any]:  # Any: TOML values
    try:
        return read_toml(path, what="settings file")
    except FileNotFoundError as error:
        raise ConfigError(f"settings file {str(path)!r} not found") from error


def read_secret(name: str, *, setting: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return a secret from an environment variable.

    Raises:
        ConfigError: It is not set, or empty.
    """
    value = environment.get(name, "")
    if not value:
        raise ConfigError(f"the environment variable {name} ({setting}) is not set")
    return value


def state_folder() -> Path:
    """Return the folder of the service's database: `streamward` in the user's state folder."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "streamward"
