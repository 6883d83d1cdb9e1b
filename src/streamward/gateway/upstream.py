"""Requests to the guarded models: only configured servers, our key, no redirects, no header of the client."""

import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import httpcore
import httpx

from streamward.errors import ConfigError, UpstreamError
from streamward.gateway.chat_template import read_chat_template
from streamward.gateway.config import UpstreamConfig
from streamward.gateway.connections import UpstreamConnections
from streamward.gateway.reported_errors import ErrorReport
from streamward.gateway.strict_json import JsonObject, dump, parse_object
from streamward.moderation.message_parts import is_identifier

_ENCODINGS = {"", "identity", "gzip", "x-gzip", "deflate"}
_MAX_LIST_BYTES = 4 * 2**20
_LIST_TIMEOUT_S = 30.0  # a list of models is quick to give
_WRITE_TIMEOUT_S = 60.0  # time for the upstream to take the next part of a request
_MAX_KEPT = 32  # most idle connections that are kept open
_BROKEN = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol)
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")
_DELAYS = {
    "Retry-After": _NUMBER,
    "Retry-After-Ms": _NUMBER,
    "X-Ms-Retry-After-Ms": _NUMBER,
    "X-Should-Retry": re.compile("true|false"),
}


class UpstreamTimeoutError(UpstreamError):
    """The guarded model took too long."""


class Upstream:
    """One guarded server and its connections. Close it."""

    def __init__(self, name: str, config: UpstreamConfig, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """Open a connection pool; nothing is asked yet.

        Args:
            name: What requests call it by.
            config: Where it is.
            transport: Replaced in tests.

        Raises:
            ConfigError: The environment variable that should hold its key does not, or `ca_file` or `chat_template`
                cannot be read.
        """
        self.name = name
        self.config = config
        self.render_chat = None if config.chat_template is None else read_chat_template(config.chat_template)
        """Writes this server's chat template, where the settings give it."""
        key = self._key = config.secret()
        headers = {"User-Agent": f"streamward/{version('streamward')}", "Accept-Encoding": "identity"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key.get_secret_value()}"
        self._client = httpx.AsyncClient(
            headers=headers,
            transport=transport
            or UpstreamConnections(
                certificates=_certificates(config), max_connections=config.max_connections, max_kept=_MAX_KEPT
            ),
            follow_redirects=False,
            trust_env=False,
            timeout=httpx.Timeout(
                config.idle_timeout_s,
                connect=config.connect_timeout_s,
                pool=config.connect_timeout_s,
                write=_WRITE_TIMEOUT_S,
            ),
        )

    def redacted(self, report: ErrorReport) -> ErrorReport:
        """Return what this server says is wrong; if our key stands anywhere in it, nothing but the status."""
        is_told = self._key is not None and report.names(self._key.get_secret_value())
        return ErrorReport(status=report.status) if is_told else report

    async def models(self) -> list[JsonObject]:
        """Return the models that may be asked for, as OpenAI lists them: id, creation time and owner, nothing else.

        Raises:
            UpstreamTimeoutError, UpstreamError: As `post`; or its list is none.
        """
        async with self._sent("GET", "/models") as response:
            listed = await _read_list(response) if response.status_code == 200 else None
        if listed is None:
            raise UpstreamError(f"the upstream {self.name} does not list its models")
        found = [model for model in map(_model, listed) if model is not None]
        return [model for model in found if not self.config.models or model["id"] in self.config.models]

    @asynccontextmanager
    async def post(self, path: str, body: JsonObject) -> AsyncIterator[httpx.Response]:
        """Send a request and yield its answer as soon as the headers are there; closes the answer afterwards.

        Raises:
            UpstreamTimeoutError: It did not connect or answer in time.
            UpstreamError: It could not be reached, broke off, or answered in a way that cannot be read.
        """
        async with self._sent("POST", path, body) as response:
            yield response

    @asynccontextmanager
    async def _sent(self, method: str, path: str, body: JsonObject | None = None) -> AsyncIterator[httpx.Response]:
        url = self.config.base_url.rstrip("/") + path
        headers = {"Accept": "application/json, text/event-stream"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        content = None if body is None else dump(body)
        request = self._client.build_request(method, url, content=content, headers=headers)
        patience_s = _LIST_TIMEOUT_S if body is None else self.config.first_byte_timeout_s
        request.extensions["timeout"]["read"] = min(patience_s, self.config.first_byte_timeout_s)
        try:
            response = await self._client.send(request, stream=True)
            request.extensions["timeout"]["read"] = _LIST_TIMEOUT_S if body is None else self.config.idle_timeout_s
            try:
                if response.headers.get("content-encoding", "").strip().lower() not in _ENCODINGS:
                    raise UpstreamError(f"the upstream {self.name} compressed its answer in a way that is not known")
                yield response
            finally:
                await response.aclose()
        except (httpx.TimeoutException, httpcore.TimeoutException) as error:
            raise UpstreamTimeoutError(f"the upstream {self.name} did not answer in time") from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, *_BROKEN) as error:
            raise UpstreamError(f"the upstream {self.name} could not be reached or broke off") from error

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


async def _read_list(response: httpx.Response) -> list[object] | None:
    """Return the `data` of a list, if the answer is one and no larger than a list of models can be."""
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) > _MAX_LIST_BYTES:
            return None
    try:
        listed = parse_object(bytes(body)).get("data")
    except ValueError:
        return None
    return listed if isinstance(listed, list) else None


def _model(listed: object) -> JsonObject | None:
    """Return what is told of a model; None if it has no name. Nobody judges this, so that names are names."""
    name = listed.get("id") if isinstance(listed, dict) else None
    if not isinstance(listed, dict) or not isinstance(name, str) or not is_identifier(name):
        return None
    created, owner = listed.get("created"), listed.get("owned_by")
    return {
        "id": name,
        "object": "model",
        "created": created if isinstance(created, int) else 0,
        "owned_by": owner if isinstance(owner, str) and is_identifier(owner) else "",
    }


def delays(response: httpx.Response) -> dict[str, str]:
    """Return the headers that say when to try again, where they have a form that is safe to pass on."""
    given = {name: response.headers.get(name, "").strip() for name in _DELAYS}
    return {name: value for name, value in given.items() if _DELAYS[name].fullmatch(value)}


def _certificates(config: UpstreamConfig) -> ssl.SSLContext:
    if config.ca_file is None:
        return httpx.create_ssl_context(trust_env=False)
    try:
        return ssl.create_default_context(cafile=config.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"ca_file {str(config.ca_file)!r} cannot be read as PEM certificates") from error
