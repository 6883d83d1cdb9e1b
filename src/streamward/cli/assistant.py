"""`streamward assistant`: a small chat model on this machine, as an OpenAI-compatible upstream."""

import argparse
import ipaddress
import logging
import socket

from streamward.cli.common import say
from streamward.errors import ConfigError
from streamward.reasons import reason_of

_EXAMPLES = """\
examples:
  streamward assistant
  curl http://127.0.0.1:8001/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "Hello"}], "stream": true}'
"""
_DEFAULT_PORT = 8001


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "assistant",
        help="serve a small chat model to try the gateway with",
        description=(
            "Serves SmolLM2-135M-Instruct, the base of the embedded guards, as an OpenAI-compatible upstream: real"
            " answers to guard, offline. It is small: expect fluent English that is often wrong."
        ),
        epilog=_EXAMPLES,
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=_DEFAULT_PORT, metavar="P", help="port to listen on (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: as many as are free)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted."""
    import uvicorn

    from streamward.assistant.app import create_app
    from streamward.assistant.config import AssistantConfig
    from streamward.assistant.writer import Assistant

    settings = {} if arguments.threads is None else {"threads": arguments.threads}
    config = AssistantConfig.parse(settings, source="assistant")
    if not _is_loopback(arguments.host):
        say(f"the assistant asks for no key, and {arguments.host} can be reached from other machines")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _check_port(arguments.host, arguments.port)  # before the model is loaded
    app = create_app(Assistant.from_base(config))
    uvicorn.run(app, host=arguments.host, port=arguments.port, log_config=None, access_log=False)
    return 0


def _check_port(host: str, port: int) -> None:
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except (OSError, OverflowError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else "a port is a number up to 65535"
        raise ConfigError(
            f"the assistant cannot listen on {host}, port {port}: {reason}; choose another --port"
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
