"""Preflight checks: finds what would prevent a start, before the guard is loaded and without changing anything."""

import asyncio
import ssl
from collections.abc import Callable, Collection, Iterable, Iterator
from importlib.util import find_spec

from streamward.errors import StreamwardError
from streamward.gateway.chat_template import read_chat_template
from streamward.gateway.config import UpstreamConfig
from streamward.gateway.prefill_probe import probe_prefill
from streamward.gateway.upstream import Upstream
from streamward.server.config import ServeConfig
from streamward.server.listening import bind
from streamward.server.policy_folder import read_policies
from streamward.server.secrets import read_admin_key, read_hash_key

_SERVE = ("alembic", "fastapi", "prometheus_client", "sqlalchemy", "uvicorn", "websockets")


def problems(config: ServeConfig, *, is_on_ray: bool = False, unknown: Collection[str] = ()) -> list[str]:
    """Return everything that would keep a service from starting.

    Args:
        config: Its settings.
        is_on_ray: Whether the guard is to be served by replicas on Ray.
        unknown: Tables of the settings that are wrong in the file, so that `config` does not hold what it says of them.
    """
    extras = list(_missing_extras(config, is_on_ray=is_on_ray))
    checks: dict[str, Callable[[], Iterator[str] | object]] = {
        "guard": lambda: _guard(config),
        "listen": lambda: _listen(config),
        "auth": lambda: read_admin_key(config),
        "policies": lambda: _policies(config),
        "store": lambda: None if extras else _store(config),
        "audit": lambda: read_hash_key(config),
        "upstreams": lambda: _upstreams(config),
        "gateway": config.gateway.state_key,
        "vllm": lambda: _vllm(config, is_on_ray=is_on_ray),
        "second_opinion": lambda: _second_opinion(config),
    }
    found = [problem for table, check in checks.items() if table not in unknown for problem in _told(check)]
    return [*extras, *found]


def prefill_problems(config: ServeConfig) -> list[str]:
    """Ask every upstream that is said to continue a text to do so; return what is wrong.

    Unlike `problems` it asks servers, once each, for a few tokens.
    """
    return [problem for problem in asyncio.run(_probe_all(config)) if problem is not None]


async def _probe_all(config: ServeConfig) -> list[str | None]:
    return list(
        await asyncio.gather(*(_probe(name, each) for name, each in config.upstreams.items() if each.prefill != "none"))
    )


async def _probe(name: str, config: UpstreamConfig) -> str | None:
    try:
        upstream = Upstream(name, config)
    except StreamwardError:  # `problems` reports it
        return None
    try:
        found = await probe_prefill(upstream)
    finally:
        await upstream.aclose()
    return None if found is None else f"the upstream {name} {found}"


def _told(check: Callable[[], Iterator[str] | object]) -> list[str]:
    """Return what a check yields, and what it raises."""
    found: list[str] = []
    try:
        result = check()
        if isinstance(result, Iterator):
            found.extend(result)
    except StreamwardError as error:
        found.append(str(error))
    return found


def _missing_extras(config: ServeConfig, *, is_on_ray: bool) -> Iterator[str]:
    wanted: list[tuple[str, Iterable[str], str]] = [("serve", _SERVE, "the service")]
    if config.log.opentelemetry:
        wanted.append(("otel", ("opentelemetry", "opentelemetry.sdk"), "log.opentelemetry"))
    if is_on_ray:
        wanted.append(("ray", ("ray",), "--ray"))
    if config.vllm is not None and config.vllm.url is None:
        wanted.append(("vllm", ("vllm",), "the table vllm without a url"))
    for extra, packages, user in wanted:
        missing = [name for name in packages if not _is_installed(name)]
        if missing:
            yield f"{user} needs {', '.join(missing)}; run: pip install 'streamward[{extra}]'"


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # the package that contains the module is missing
        return False


def _guard(config: ServeConfig) -> Iterator[str]:
    from streamward.loading import check_guard  # torch: seconds

    if check_guard(config.guard) is False and config.upstreams:
        yield (
            f"the guard {config.guard!r} judges whole texts only and cannot guard the upstreams"
            f" {', '.join(config.upstreams)}: set guard to a Stream guard, or leave the tables upstreams out"
        )


def _listen(config: ServeConfig) -> Iterator[str]:
    listen = config.listen
    try:
        for each in bind(listen):
            each.close()
    except StreamwardError as error:
        yield str(error)
    if listen.tls_certificate is not None and listen.tls_key is not None:
        unread = []
        for name, path in (("tls_certificate", listen.tls_certificate), ("tls_key", listen.tls_key)):
            try:
                path.open("rb").close()
            except OSError as error:
                unread.append(f"listen.{name} {str(path)!r} cannot be read: {error.strerror}")
        yield from unread
        if not unread:
            try:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(listen.tls_certificate, listen.tls_key, password=lambda: b"")
            except (ssl.SSLError, ValueError):
                yield "listen.tls_certificate and tls_key are no PEM files that belong together, without a password"


def _policies(config: ServeConfig) -> Iterator[str]:
    for name, loaded in read_policies(config.policies).items():
        ladder = () if loaded.policy.release is None else loaded.policy.release.ladder
        for step in ladder:
            if step.upstream is not None and step.upstream not in config.upstreams:
                yield (
                    f"the policy {name} has passages rewritten by the upstream {step.upstream!r}, which is not"
                    f" configured; there are {', '.join(sorted(config.upstreams)) or 'none'}"
                )


def _store(config: ServeConfig) -> None:
    from streamward.server.store import pending_revisions  # imported late, because it needs the extra serve

    pending_revisions(config.store)


def _upstreams(config: ServeConfig) -> Iterator[str]:
    for name, upstream in config.upstreams.items():
        try:
            upstream.secret()
        except StreamwardError as error:
            yield f"upstreams.{name}: {error}"
        if upstream.chat_template is not None:
            try:
                read_chat_template(upstream.chat_template)
            except StreamwardError as error:
                yield f"upstreams.{name}: {error}"
        if upstream.ca_file is not None:
            try:
                ssl.create_default_context(cafile=upstream.ca_file)
            except (OSError, ssl.SSLError) as error:
                reason = "it holds no certificates" if isinstance(error, ssl.SSLError) else error.strerror
                yield f"upstreams.{name}.ca_file {str(upstream.ca_file)!r} cannot be read: {reason}"


def _vllm(config: ServeConfig, *, is_on_ray: bool) -> Iterator[str]:
    if config.vllm is None:
        return
    config.vllm.secret()
    if is_on_ray:
        yield "replicas on Ray have engines of their own; leave out --ray, or the settings of vllm"


def _second_opinion(config: ServeConfig) -> Iterator[str]:
    if config.second_opinion is None:
        return
    from streamward.moderation.cascade import check_second_opinion  # torch: seconds

    check_second_opinion(config.second_opinion)
    waits_s = {
        "gateway.guard_timeout_s": config.gateway.guard_timeout_s,
        "limits.judge_timeout_s": config.limits.judge_timeout_s,
    }
    for name, most_s in waits_s.items():
        if 2 * config.second_opinion.guard.deadline_s > most_s:  # the end of a text may need two answers
            yield f"second_opinion.guard.deadline_s must be at most half of {name}, which is {most_s:g}"
