"""Masks the texts of a request, wherever they stand in its messages or items."""

from typing import NamedTuple

from streamward.detectors.detectors import Detectors
from streamward.detectors.finding import DetectorFinding, DetectorTarget
from streamward.detectors.masker import mask_json, mask_text
from streamward.detectors.vault import Vault
from streamward.gateway.strict_json import JsonObject

_SAID = frozenset(
    {"content", "text", "prompt", "response", "suffix", "input", "instructions", "reasoning", "reasoning_content"}
    | {"thinking", "refusal", "output", "output_text", "arguments", "summary"}
)
"""Keys of a request whose strings are text."""
_TOOL_RESULTS = frozenset({"tool", "function", "function_call_output", "custom_tool_call_output", "mcp_call"})


class LocatedFinding(NamedTuple):
    """A finding and its place in a request.

    Attributes:
        path: Path of the text in the request: `messages[0].content`.
        target: What kind of text it is.
        finding: Its places count in that text.
    """

    path: str
    target: DetectorTarget
    finding: DetectorFinding


class RequestMasker:
    """Masks values of one request, whose placeholders one vault numbers."""

    def __init__(
        self, detectors: Detectors, vault: Vault, *, assistant: DetectorTarget = DetectorTarget.PROMPT
    ) -> None:
        """Find nothing yet.

        Args:
            detectors: Detectors of a policy.
            vault: Vault of the conversation.
            assistant: What the assistant's turns count as.
        """
        self.findings: list[LocatedFinding] = []
        self._detectors = {target: detectors.for_target(target) for target in DetectorTarget}
        self._vault = vault
        self._assistant = assistant

    def mask(self, value: object, target: DetectorTarget, name: str, path: str) -> object:
        """Return a value with its texts masked; the value itself is left as it is.

        Args:
            value: From JSON.
            target: What kind of text it is, unless it says otherwise itself.
            name: The key it stands under.
            path: Where it stands, for findings.
        """
        if isinstance(value, str):
            return self._text(value, target, name, path) if name in _SAID else value
        if isinstance(value, list | tuple):
            return [self.mask(each, target, name, f"{path}[{index}]") for index, each in enumerate(value)]
        if isinstance(value, dict):
            target = self._of_turn(value, target)
            return {
                key: self.mask(each, _of_key(target, key, value), key, f"{path}.{key}") for key, each in value.items()
            }
        return value

    def _of_turn(self, turn: JsonObject, target: DetectorTarget) -> DetectorTarget:
        if turn.get("role") in _TOOL_RESULTS or turn.get("type") in _TOOL_RESULTS:
            return DetectorTarget.TOOL_RESULT
        return self._assistant if turn.get("role") == "assistant" else target

    def _text(self, text: str, target: DetectorTarget, name: str, path: str) -> str:
        detectors = self._detectors[target]
        if not detectors:
            return text
        mask = mask_json if name == "arguments" else mask_text
        masked = mask(detectors, text, vault=self._vault)
        self.findings += [LocatedFinding(path, target, each) for each in masked.findings]
        return masked.text


def _of_key(target: DetectorTarget, key: str, holder: JsonObject) -> DetectorTarget:
    """Return what a value is: arguments are a call's, also where its result stands beside them."""
    is_call = key == "arguments" or (key == "input" and "content" not in holder)
    return DetectorTarget.TOOL_ARGUMENTS if is_call else target
