"""`streamward serve`: the moderation service."""

import argparse
import ctypes
import gc
import json
import logging
import platform
import signal
import ssl
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamward.cli.announcement import announce
from streamward.cli.common import ExitCode, needing, say
from streamward.cli.stopping import end_now, end_within
from streamward.errors import ConfigError

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    import uvicorn

    from streamward.moderation.moderator import Moderator
    from streamward.policy import Policy
    from streamward.server.config import ServeConfig
    from streamward.server.state import ServiceState

_LAST_S = 0.8  # after `limits.drain_s`: for what was cancelled to end, and for the log to be written
_EXAMPLES = """\
examples:
  streamward serve
  streamward serve configs/serve.toml --set listen.port=9000
  streamward serve configs/serve.toml --check
  streamward serve configs/serve.toml --print-config
  streamward serve --ray --set ray.min_replicas=2 --set ray.max_replicas=8
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "serve",
        help="start the moderation service",
        description="Starts the moderation service and gateway. See docs/reference/service.md.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("config", nargs="?", metavar="FILE", help="TOML; see configs/serve.toml (default: defaults)")
    _add_changes(parser)
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--print-config", action="store_true", help="print the settings in force as JSON, and stop")
    asked.add_argument(
        "--check",
        action="store_true",
        help="report every problem that would prevent the start, have upstreams show that they can continue"
        " a text where the settings say so, and stop",
    )
    parser.add_argument(
        "--ray",
        action="store_true",
        help="judge in replicas on Ray Serve (extra ray); the table ray of the settings says how many",
    )
    parser.set_defaults(run=run)


def config_options() -> argparse.ArgumentParser:
    """Return the options of commands that work on a service's database, for `parents`."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config", metavar="FILE", help="the service's settings (default: defaults)")
    _add_changes(parser)
    return parser


def _add_changes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="changes",
        metavar="KEY=VALUE",
        help="change a setting, as limits.max_in_flight=64; may be repeated",
    )


def read_config(arguments: argparse.Namespace) -> "ServeConfig":
    """Read the settings that the options name.

    Raises:
        ConfigError: A setting is wrong, or the extra `serve` is not installed.
    """
    from streamward.server.config import ServeConfig

    path = None if arguments.config is None else Path(arguments.config)
    return ServeConfig.load(path, changes=arguments.changes)


def run(arguments: argparse.Namespace) -> int:
    """Serve until told to stop."""
    gc.disable()  # while modules are imported, which leaves hardly anything to collect: a tenth of the time to start
    try:
        return _run(arguments)
    finally:
        gc.enable()


def _run(arguments: argparse.Namespace) -> int:
    from streamward.server.preflight import problems

    if arguments.check:
        return _check(arguments)
    config = read_config(arguments)
    if arguments.print_config:
        print(json.dumps(config.model_dump(mode="json"), indent=2))
    found = problems(config, is_on_ray=arguments.ray)
    for problem in found:
        say(problem)
    if arguments.print_config:
        return ExitCode.ALLOWED
    if found:
        return ExitCode.BAD_INPUT
    return _serve_for_good(arguments, config)


def _check(arguments: argparse.Namespace) -> int:
    """Say what is wrong, all of it at once."""
    from streamward.server.config import load_draft
    from streamward.server.preflight import prefill_problems, problems

    draft = load_draft(None if arguments.config is None else Path(arguments.config), changes=arguments.changes)
    found = [*draft.problems, *problems(draft.config, is_on_ray=arguments.ray, unknown=draft.unknown)]
    if "upstreams" not in draft.unknown:
        found += prefill_problems(draft.config)
    for problem in found:
        say(problem)
    if not found:
        print("nothing keeps the service from starting")
    return ExitCode.BAD_INPUT if found else ExitCode.ALLOWED


def _serve_for_good(arguments: argparse.Namespace, config: "ServeConfig") -> int:
    with needing("serving needs", "serve"):
        from streamward.observability import set_up_logging
        from streamward.server.app import create_app  # noqa: F401  # what is imported by now is not looked at below
        from streamward.server.listening import bind
        from streamward.server.state import load_here, open_state
    gc.freeze()
    gc.enable()
    set_up_logging(config.log.level, is_json=config.log.format == "json")
    load = load_on_ray if arguments.ray else load_here
    sockets = bind(config.listen)  # before the guard is loaded; nobody can connect until it is
    try:
        state = open_state(config, load=load)
        code = ExitCode.ALLOWED if serve(config, state, sockets=sockets) else ExitCode.FAILURE
    finally:
        for each in sockets:
            each.close()
    if state.admission.is_draining:
        end_now(code)
    return code


def load_on_ray(config: "ServeConfig", policy: "Policy") -> "Moderator":
    """Load the guard into replicas.

    Raises:
        ConfigError: The extra `ray` is not installed, or the settings do not fit.
        CheckpointError: The guard cannot be loaded.
    """
    with needing("--ray needs", "ray"):
        from streamward.distributed.config import ApplicationArguments
        from streamward.distributed.serving import open_moderator
    if config.vllm is not None:
        raise ConfigError("replicas on Ray have engines of their own; leave out --ray, or the settings of vllm")
    return open_moderator(
        ApplicationArguments(guard=config.guard, engine=config.engine, ray=config.ray),
        policy=policy,
        max_chars=config.limits.max_chars,
        max_workers=config.limits.max_in_flight,
    )


def serve(config: "ServeConfig", state: "ServiceState", *, sockets: "Sequence[socket.socket] | None" = None) -> bool:
    """Serve until told to stop, then close the state.

    Args:
        config: Its settings.
        state: What it works with.
        sockets: Bound ones to listen on; by default they are opened as the settings say.

    Returns:
        Whether the service ever started.
    """
    try:
        server = _server(config, state)
        # The signal is raised again after the server has stopped; then the service closes.
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda *_: None)
        _keep_for_good()
        with suppress(SystemExit):  # uvicorn ends like this if it cannot listen; it has logged why
            server.run(sockets=None if sockets is None else list(sockets))
        return server.started
    finally:
        state.close()


def _keep_for_good() -> None:
    """Take what exists by now out of the garbage collector's sight, as it stays, and give back what loading needed.

    Else a full collection looks at a million objects of the libraries each time, which holds up every stream, and is
    therefore put off until a quarter as many have been added, which memory shows (docs.python.org, gc.freeze).
    """
    gc.collect()
    gc.freeze()
    gc.collect()  # from now on a collection waits for a quarter of the remaining objects
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)  # malloc_trim(3) gives back 140 of 610 MB


def _server(config: "ServeConfig", state: "ServiceState") -> "uvicorn.Server":
    import uvicorn

    from streamward.server.app import create_app
    from streamward.server.connections import BoundedProtocol, ConnectionLimits, no_handshakes

    logging.getLogger("uvicorn.error").addFilter(no_handshakes)
    listen = config.listen
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(config, state=state),
            host=listen.host,
            port=listen.port,
            log_config=None,
            access_log=False,  # uvicorn's lines contain raw paths; ours contain the route
            http=partial(BoundedProtocol, connections=ConnectionLimits(listen)),  # type: ignore[arg-type]  # it is called
            ws="websockets-sansio",
            ws_max_size=config.limits.max_body_bytes,
            h11_max_incomplete_event_size=listen.max_header_bytes,
            timeout_graceful_shutdown=config.limits.drain_s,  # type: ignore[arg-type]  # any number of seconds will do
            server_header=False,
            ssl_certfile=listen.tls_certificate,
            ssl_keyfile=listen.tls_key,
            ssl_version=ssl.PROTOCOL_TLS_SERVER,
        )
    )
    _announce_when_up(server, config, state)
    stop = server.handle_exit

    def drain_and_stop(sig: int, frame: object) -> None:
        if not state.admission.is_draining:
            state.admission.close()
            end_within(config.limits.drain_s + _LAST_S)
        stop(sig, frame)  # type: ignore[arg-type]  # a frame, or None

    server.handle_exit = drain_and_stop  # type: ignore[method-assign]  # /ready says so from the first moment on
    return server


def _announce_when_up(server: "uvicorn.Server", config: "ServeConfig", state: "ServiceState") -> None:
    start = server.startup

    async def start_and_announce(*arguments: Any, **options: Any) -> None:  # Any: uvicorn's own
        await start(*arguments, **options)
        if server.started:
            announce(config, state, port=server.servers[0].sockets[0].getsockname()[1])

    server.startup = start_and_announce  # type: ignore[method-assign]  # it is up from this moment on
