"""The live objects of one service."""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import Engine
from starlette.requests import HTTPConnection

from streamward.engine.outputs import EngineStatistics
from streamward.errors import ConfigError, InputError, StreamClosedError
from streamward.moderation.cascade import with_second_opinion
from streamward.moderation.moderator import Moderator
from streamward.observability import Metrics
from streamward.policy import STRICT, Policy
from streamward.schema import Action, Decision, Result
from streamward.server.admission import Admission
from streamward.server.audit import AuditLog, AuditRecord
from streamward.server.config import ServeConfig
from streamward.server.keys import KeyStore
from streamward.server.live import LiveEvent, LiveFeed, LiveKind
from streamward.server.owners import current_owner
from streamward.server.peers import Peers
from streamward.server.policies import PolicyStore
from streamward.server.policy_folder import LoadedPolicy
from streamward.server.rates import Buckets, Places, RateLimiter
from streamward.server.reachability import Reachability
from streamward.server.records import ModerationContext, Texts, build_record, guard_ms, num_tokens
from streamward.server.secrets import read_admin_key, read_hash_key
from streamward.server.store import open_store
from streamward.server.telemetry import Telemetry, open_telemetry

logger = logging.getLogger(__name__)

_FLUSH_S = 0.7  # after `limits.drain_s`: for the log of decisions; before the process is ended (`cli.serve`)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceState:
    """Shared state of the routes. Made by `open_state`, or by a test; close it."""

    config: ServeConfig
    moderator: Moderator
    engine: Engine
    policies: PolicyStore
    audit: AuditLog
    keys: KeyStore
    rates: RateLimiter
    peers: Peers
    wrong_keys: Buckets
    refusals: Buckets
    places: Places
    admission: Admission
    feed: LiveFeed
    metrics: Metrics
    telemetry: Telemetry
    reachability: Reachability
    admin_key: str | None = None
    hash_key: bytes | None = None

    def with_policy(self, policy: LoadedPolicy) -> Moderator:
        """Return the guard under a policy, for whoever is served at present; nothing to close."""
        return self.guard(policy.policy)

    def guard(self, policy: Policy) -> Moderator:
        """Likewise, under a policy by itself."""
        return self.moderator.with_policy(policy).with_owner(current_owner())

    async def record_decision(
        self,
        job: ModerationContext,
        result: Result,
        *,
        texts: Texts,
        action: Action | None = None,
        details: Mapping[str, Any] | None = None,  # Any: JSON values
    ) -> AuditRecord:
        """Log a decision; call it before the last byte of the answer leaves.

        It also counts the decision, and tells whoever watches.

        Args:
            job: What was asked.
            result: What came of it.
            texts: What was judged.
            action: What was done, where it is not what the decision says.
            details: Further JSON values for the log, without text.

        Raises:
            AuditError: It could not be logged; the answer must be an error instead.
            OverloadedError: Likewise, because too many wait.
        """
        record = build_record(
            job,
            result,
            texts=texts,
            guard=self.config.guard,
            hash_key=self.hash_key,
            action=action,
            details=details,
        )
        await self.audit.record(record)
        self._announce(job, record, result.decision, num_tokens(result))
        return record

    def _announce(self, job: ModerationContext, record: AuditRecord, decision: Decision, tokens: int) -> None:
        seconds = time.perf_counter() - job.started_at
        self.telemetry.decided(record)
        self.metrics.decided(decision, endpoint=job.endpoint, num_tokens=tokens, seconds=seconds)
        logger.info(
            "decided",
            extra={
                "decision_id": record.id,
                "request_id": job.request_id,
                "stream_id": job.stream_id,
                "tenant": job.tenant,
                "key_id": job.key_id,
                "endpoint": job.endpoint,
                "policy": record.policy,
                "policy_version": record.policy_version,
                "action": record.action,
                "side": record.side,
                "risk_level": record.risk_level,
                "category": record.category,
                "rules": ", ".join(rule.id for rule in decision.rules) or None,
                "guard_error": record.error,
                "num_tokens": tokens,
                "duration_ms": round(seconds * 1000, 1),
            },
        )
        if self.feed.is_watched:
            self.feed.publish(
                LiveEvent(
                    LiveKind.DECIDED,
                    datetime.now(UTC),
                    job.tenant,
                    job.endpoint,
                    job.stream_id or job.request_id,
                    action=record.action,
                    risk_level=record.risk_level,
                    category=record.category,
                    rules=tuple(rule.id for rule in decision.rules),
                    detector=decision.detector,
                    side=record.side,
                    latency_ms=record.latency_ms,
                    guard_ms=guard_ms(record.details),
                )
            )

    def close(self) -> None:
        """Write what is waiting to be logged, and free the guard and the database. Bounded, whatever hangs."""
        if not self.audit.close(timeout_s=self.admission.until(_FLUSH_S)):
            logger.error("decisions were not logged", extra={"num_rows": self.audit.num_waiting})
        self.moderator.close()
        self.engine.dispose()


def load_here(config: ServeConfig, policy: Policy) -> Moderator:
    """Load the guard into this process."""
    from streamward.loading import load  # torch: seconds

    return load(
        config.guard,
        policy=policy,
        engine=None if config.vllm else config.engine,
        vllm=config.vllm,
        max_chars=config.limits.max_chars,
        max_workers=config.limits.max_in_flight,
    )


def open_state(
    config: ServeConfig,
    *,
    moderator: Moderator | None = None,
    load: Callable[[ServeConfig, Policy], Moderator] = load_here,
) -> ServiceState:
    """Open the database, read policies and load the guard, in this order: what is quick to fail comes first.

    Args:
        config: The service's settings.
        moderator: Instead of loading a guard; owned by the state from now on.
        load: How the guard is loaded.

    Raises:
        ConfigError: A setting is wrong, or the guard cannot guard the upstreams.
        CheckpointError: The guard cannot be loaded.
    """
    hash_key = read_hash_key(config)
    admin_key = read_admin_key(config)
    wrap = None if config.second_opinion is None else with_second_opinion(config.second_opinion)
    metrics, telemetry = Metrics(), open_telemetry(is_enabled=config.log.opentelemetry)
    engine = open_store(config.store)
    policies = PolicyStore(config.policies, engine=engine, metrics=metrics)
    if moderator is None:
        first = STRICT if wrap is not None else policies.default.policy  # rules given in words need the second guard
        moderator = load(config, first)
        _warm_up(moderator)
    metrics.watch_engine(lambda: _engine_counts(moderator))
    if wrap is not None:
        moderator.wrap_guard(wrap)
        metrics.watch_second_opinions(lambda: _counts(moderator))
    try:
        policies.require(moderator.check_policy)
        moderator.policy = policies.default.policy
    except ConfigError:
        moderator.close()
        raise
    if config.upstreams:
        _check_streams(moderator, config)
    return ServiceState(
        config=config,
        moderator=moderator,
        engine=engine,
        policies=policies,
        audit=AuditLog(config.audit, engine=engine, metrics=metrics),
        keys=KeyStore(engine=engine, cache_s=config.auth.cache_s),
        rates=RateLimiter(),
        peers=Peers(config.listen.trusted_proxies),
        wrong_keys=Buckets(),
        refusals=Buckets(window_s=1.0),
        places=Places(),
        admission=Admission(config.limits.max_in_flight, drain_s=config.limits.drain_s),
        feed=LiveFeed(
            has_text=config.console.live_text,
            max_subscribers=config.console.max_subscribers,
            max_per_tenant=config.console.max_subscribers_per_tenant,
        ),
        metrics=metrics,
        telemetry=telemetry,
        reachability=Reachability({name: each.base_url for name, each in config.upstreams.items()}),
        admin_key=admin_key,
        hash_key=hash_key.encode() if hash_key else None,
    )


def _engine_counts(moderator: Moderator) -> EngineStatistics | None:
    try:
        return moderator.engine_statistics()
    except StreamClosedError:
        return None


def _counts(moderator: Moderator) -> Mapping[str, float] | None:
    try:
        found = moderator.second_opinions()
    except StreamClosedError:
        return None
    return None if found is None else asdict(found)


def _warm_up(moderator: Moderator) -> None:
    """Judge something, so that the first caller does not wait a second for kernels."""
    with suppress(InputError), moderator.stream(prompt="Hello") as stream:  # a Gen guard has no streams
        stream.feed("Hello there.")
        stream.finish()


def _check_streams(moderator: Moderator, config: ServeConfig) -> None:
    """Refuse upstreams before a guard that cannot read along: each of their answers would be refused.

    Raises:
        ConfigError: It cannot.
    """
    try:
        moderator.stream().close()
    except InputError as error:
        moderator.close()
        raise ConfigError(
            f"the guard {config.guard!r} cannot guard the upstreams {', '.join(config.upstreams)}, whose answers are"
            " judged token by token: it judges whole texts only. Set guard to a Stream guard, such as stream-135m or a"
            " Qwen3Guard-Stream checkpoint, or leave the tables upstreams out"
        ) from error


def service_state(connection: HTTPConnection) -> ServiceState:
    """Return the state of the service that a request came to."""
    return cast(ServiceState, connection.app.state.service)
