"""Requests in the wire formats that the gateway knows."""

from streamward.gateway.call_record import GatewayCall
from streamward.gateway.chat import read_chat
from streamward.gateway.completions import read_completion
from streamward.gateway.config import GatewayLimits
from streamward.gateway.responses import read_response
from streamward.gateway.strict_json import JsonObject
from streamward.gateway.upstream import Upstream
from streamward.gateway.wire import WireFormat


def read_request(call: GatewayCall, body: JsonObject, upstream: Upstream, limits: GatewayLimits) -> WireFormat:
    """Read the body of a request in its format.

    Raises:
        InputError: It is malformed, or has what the gateway refuses.
    """
    match call.format:
        case "chat/completions":
            return read_chat(body, upstream.config, limits=limits)
        case "completions":
            return read_completion(body, upstream.config, limits=limits)
        case "responses":
            return read_response(body, upstream.config)
        case "embeddings":
            raise AssertionError("an EmbeddingsCall answers it")
