"""`streamward assistant`: a small chat model on this machine, as an OpenAI-compatible upstream."""

import argparse
import ipaddress
import logging

from streamward.cli.common import say

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
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
    app = create_app(Assistant.from_base(config))
    uvicorn.run(app, host=arguments.host, port=arguments.port, log_config=None, access_log=False)
    return 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
