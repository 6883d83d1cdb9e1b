"""A Gen guard behind an OpenAI-compatible endpoint."""

import time
from collections.abc import Callable, Sequence

import httpx

from streamward.generative.chat_endpoint import ChatEndpoint
from streamward.generative.config import RemoteConfig
from streamward.generative.judgement import GenJudgement
from streamward.generative.parsing import parse_answer
from streamward.schema import Message, RiskLevel
from streamward.tokenizer import clean_text


class RemoteGenGuard:
    """Asks for whole judgements; the server renders the guard's own template. Thread-safe."""

    def __init__(
        self,
        config: RemoteConfig,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Open a connection pool; nothing is asked yet.

        Args:
            config: Where and how.
            transport: Replaced in tests.
            sleep: Replaced in tests.

        Raises:
            ConfigError: The environment variable that should hold the key does not.
        """
        self._endpoint = ChatEndpoint(config, name="the guard's endpoint", transport=transport, sleep=sleep)

    def judge(self, messages: Sequence[Message]) -> GenJudgement:
        """Judge the last message in the light of those before it.

        The endpoint gives no probabilities: the level it names has 1, the others 0.

        Raises:
            UpstreamError: The endpoint did not answer, or not with a judgement.
        """
        answer = parse_answer(self._endpoint.write([_wire_message(message) for message in messages]))
        probabilities = {level: float(level is answer.risk_level) for level in RiskLevel}
        return GenJudgement(answer.risk_level, probabilities, answer.categories, answer.refusal)

    def close(self) -> None:
        """Close the connections."""
        self._endpoint.close()


def _wire_message(message: Message) -> dict[str, str]:
    wire = {"role": message.role.value, "content": clean_text(message.content)}
    if message.reasoning is not None:
        wire["reasoning_content"] = clean_text(message.reasoning)  # the name in chat templates and vLLM
    return wire
