"""Requests to the guarded models: only configured servers, our key, no redirects, no header of the client."""

import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import httpx

from streamward.errors import ConfigError, UpstreamError
from streamward.gateway.config import UpstreamConfig
from streamward.gateway.strict_json import JsonObject, dump

_ENCODINGS = {"", "identity", "gzip", "x-gzip", "deflate"}
_DELAY = re.compile(r"\d{1,6}")


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
            ConfigError: The environment variable that should hold its key does not, or `ca_file` cannot be read.
        """
        self.name = name
        self.config = config
        key = config.secret()
        headers = {"User-Agent": f"streamward/{version('streamward')}", "Accept-Encoding": "identity"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key.get_secret_value()}"
        self._client = httpx.AsyncClient(
            headers=headers,
            transport=transport,
            follow_redirects=False,
            trust_env=False,
            verify=_certificates(config),
            limits=httpx.Limits(max_connections=config.max_connections, max_keepalive_connections=32),
            timeout=httpx.Timeout(
                config.idle_timeout_s, connect=config.connect_timeout_s, pool=config.connect_timeout_s
            ),
        )

    @asynccontextmanager
    async def post(self, path: str, body: JsonObject) -> AsyncIterator[httpx.Response]:
        """Send a request and yield its answer as soon as the headers are there; closes the answer afterwards.

        Raises:
            UpstreamTimeoutError: It did not connect or answer in time.
            UpstreamError: It could not be reached, broke off, or answered in a way that cannot be read.
        """
        url = self.config.base_url.rstrip("/") + path
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        request = self._client.build_request("POST", url, content=dump(body), headers=headers)
        request.extensions["timeout"]["read"] = self.config.first_byte_timeout_s
        try:
            response = await self._client.send(request, stream=True)
            request.extensions["timeout"]["read"] = self.config.idle_timeout_s
            try:
                if response.headers.get("content-encoding", "").strip().lower() not in _ENCODINGS:
                    raise UpstreamError(f"the upstream {self.name} compressed its answer in a way that is not known")
                yield response
            finally:
                await response.aclose()
        except httpx.TimeoutException as error:
            raise UpstreamTimeoutError(f"the upstream {self.name} did not answer in time") from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise UpstreamError(f"the upstream {self.name} could not be reached or broke off") from error

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def retry_after(response: httpx.Response) -> str | None:
    """Return the seconds an upstream asks to wait, if it says so in a form that is safe to pass on."""
    value = response.headers.get("retry-after", "").strip()
    return value if _DELAY.fullmatch(value) else None


def _certificates(config: UpstreamConfig) -> ssl.SSLContext | bool:
    if config.ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=config.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"ca_file {str(config.ca_file)!r} cannot be read as PEM certificates") from error
