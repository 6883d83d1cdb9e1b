"""The message that a service prints for whoever has started it, once it listens."""

import logging
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamward.server.config import ServeConfig
    from streamward.server.state import ServiceState

logger = logging.getLogger(__name__)


def announce(config: "ServeConfig", state: "ServiceState", *, port: int) -> None:
    """Say where the console is, which policies are in force and which models are guarded: in the log, and to a person.

    Args:
        config: The service's settings.
        state: What it works with.
        port: The one it listens on.
    """
    address = _address(config, port)
    policies = sorted(state.policies.all)
    logger.info(
        "serving",
        extra={
            "address": address,
            "console": f"{address}/" if config.console.enabled else None,
            "guard": config.guard,
            "policies": ", ".join(policies),
            "upstreams": ", ".join(sorted(config.upstreams)),
        },
    )
    if sys.stdout.isatty():
        print("\n".join(_lines(config, address, policies)), flush=True)


def _address(config: "ServeConfig", port: int) -> str:
    scheme = "http" if config.listen.tls_certificate is None else "https"
    host = f"[{config.listen.host}]" if ":" in config.listen.host else config.listen.host
    return f"{scheme}://{host}:{port}"


def _lines(config: "ServeConfig", address: str, policies: Sequence[str]) -> Iterator[str]:
    yield f"Streamward judges with {config.guard} at {address}"
    if config.console.enabled:
        yield f"  console    {address}/"
    yield f"  policies   {', '.join(policies)} (default: {config.policies.default})"
    for name, upstream in config.upstreams.items():
        yield f"  upstream   {address}/{name}/v1 guards {upstream.base_url}"
    if not config.upstreams:
        yield "  upstreams  none (see docs/reference/gateway.md)"
    yield "Stop it with Ctrl+C."
