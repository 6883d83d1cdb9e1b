"""A vLLM server with the plugin, over HTTP."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from streamward.errors import ConfigError, OverloadedError, UpstreamError
from streamward.reasons import reason_of
from streamward.vllm.config import VllmConfig
from streamward.vllm.layout import Rows

_LOST = (httpx.NetworkError, httpx.RemoteProtocolError)  # also if the server has closed a kept connection
_START = "start it as: vllm serve CHECKPOINT --runner pooling --io-processor-plugin streamward"


class VllmServer:
    """Asks a vLLM server for the rows of texts. Thread-safe."""

    def __init__(
        self,
        config: VllmConfig,
        *,
        guard: str,
        vocab_size: int,
        num_labels: int,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Connect, and see whether the server has the guard meant.

        Args:
            config: With a `url`.
            guard: The guard's `layout.fingerprint`.
            vocab_size: Its number of tokens.
            num_labels: Number of labels of all its heads.
            transport: Replaced in tests.

        Raises:
            ConfigError: The server has no such model, no plugin, or another guard.
            UpstreamError: It does not answer.
        """
        assert config.url is not None
        self._config = config
        self._guard = guard
        self.vocab_size = vocab_size
        self._num_labels = num_labels
        key = config.secret()
        self._client = httpx.Client(
            base_url=config.url.rstrip("/"),
            headers={} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"},
            timeout=config.timeout_s,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            transport=transport,
        )
        try:
            self._model, self.max_tokens = self._find_model()
            self._try_out()
        except BaseException:
            self._client.close()
            raise

    def read(self, token_ids: Sequence[int], *, reuse: bool) -> Rows:
        """Read a text and wait for what the heads say; see `driver.TokenReader`.

        Raises:
            UpstreamError: The server failed, did not answer in time, or serves another guard now.
            OverloadedError: It has no room at present.
        """
        if not reuse:  # vLLM's own requests never take anything from the cache
            body = {"input": list(token_ids), "encoding_format": "base64", "endianness": "little"}
            answer = self._ask("POST", "/pooling", {"model": self._model, "task": "token_classify", **body})
            data = answer.get("data")
            item = data[0] if isinstance(data, list) and data and isinstance(data[0], dict) else {}
            return Rows(self._rows(item.get("data")), 0)
        answer = self._ask("POST", "/pooling", {"model": self._model, "data": {"token_ids": list(token_ids)}})
        data = answer.get("data")
        if not isinstance(data, dict) or type(data.get("num_cached")) is not int:
            raise UpstreamError("the vLLM server's answer cannot be read")
        if data.get("guard") != self._guard:
            raise UpstreamError("the vLLM server serves another guard than the one loaded here")
        return Rows(self._rows(data.get("probabilities")), data["num_cached"])

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _find_model(self) -> tuple[str, int]:
        """Return the name of the guard there and its longest text."""
        listed = self._ask("GET", "/v1/models").get("data")
        models = {
            str(model.get("id")): model.get("max_model_len")
            for model in (listed if isinstance(listed, list) else ())
            if isinstance(model, dict)
        }
        name = self._config.model or (next(iter(models)) if len(models) == 1 else None)
        length = models.get(name or "")
        if name is None or type(length) is not int:
            raise ConfigError(
                f"the vLLM server has {len(models)} models; set `model` to one of them: {', '.join(sorted(models))}"
            )
        return name, length

    def _try_out(self) -> None:
        try:
            self.read([0], reuse=True)
        except UpstreamError as error:
            raise ConfigError(f"{error}; {_START}") from error

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:  # Any: JSON values
        response = self._send(method, path, body)
        if response.status_code in (429, 503):
            raise OverloadedError("the vLLM server is overloaded; try later")
        if response.status_code in (401, 403):
            raise UpstreamError("the vLLM server refuses the key; set api_key_env to the variable that holds it")
        if not response.is_success:
            raise UpstreamError(f"the vLLM server answered {path} with status {response.status_code}")
        try:
            answer = response.json()
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise UpstreamError("the vLLM server's answer is not a JSON object")
        return answer

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        for is_last in (False, True):
            try:
                return self._client.request(method, path, json=body)
            except httpx.TimeoutException:
                raise UpstreamError(f"the vLLM server did not answer within {self._config.timeout_s:g} s") from None
            except _LOST as error:
                if is_last:
                    raise UpstreamError(f"the vLLM server cannot be reached: {reason_of(error)}") from None
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise UpstreamError(f"the vLLM server cannot be asked: {reason_of(error)}") from None
        raise AssertionError("the last try returns or raises")

    def _rows(self, encoded: object) -> NDArray[np.float32]:
        if not isinstance(encoded, str):
            raise UpstreamError("the vLLM server's answer has no probabilities")
        try:
            data = base64.b64decode(encoded, validate=True)
            return np.frombuffer(data, dtype="<f4").reshape(-1, self._num_labels)
        except (binascii.Error, ValueError):
            raise UpstreamError("the vLLM server's answer cannot be read") from None
