"""A policy's detectors in one call: what the upstream gets of a request, and what the client gets of the answer."""

from streamward.detectors.detectors import compiled
from streamward.detectors.finding import DetectorTarget
from streamward.detectors.masker import mask_text
from streamward.detectors.vault import Vault
from streamward.gateway.request_masking import RequestMasker
from streamward.gateway.strict_json import JsonObject
from streamward.gateway.text_fields import FieldKey
from streamward.moderation.detection import finding_decision
from streamward.moderation.text_mask import TextMask
from streamward.policy import Policy
from streamward.schema import Action, Side

_GIVEN = ("messages", "prompt", "suffix", "input", "instructions")
_ARGUMENTS = frozenset({"arguments", "input"})


class CallMasking:
    """Masks a request, and opens masks for the fields of its answer, in which it restores what it masked reversibly."""

    def __init__(self, policy: Policy, body: JsonObject) -> None:
        """Mask a request in place.

        Args:
            policy: Has the detectors.
            body: The request; its texts are changed.
        """
        detectors, vault = compiled(policy.detectors), Vault()
        masker = RequestMasker(detectors, vault)
        for name in _GIVEN if detectors else ():
            if name in body:
                body[name] = masker.mask(body[name], DetectorTarget.PROMPT, name, name)
        self.decision = finding_decision([each.finding for each in masker.findings], Side.PROMPT)
        """Decision on everything found in the request."""
        self._response = detectors.for_target(DetectorTarget.RESPONSE)
        self._answer = {
            target: detectors.for_target(target).restoring(vault)
            for target in (DetectorTarget.RESPONSE, DetectorTarget.TOOL_ARGUMENTS)
        }

    @property
    def masks_answers(self) -> bool:
        """True if anything is looked for in answers."""
        return bool(self._response)

    @property
    def is_blocked(self) -> bool:
        """True if the request must not be answered."""
        return self.decision.action.severity >= Action.REPLACE.severity

    def open(self, key: FieldKey) -> TextMask | None:
        """Return a mask for a field of the answer; None if nothing is looked for there."""
        is_call = any(name in _ARGUMENTS for name in key)
        detectors = self._answer[DetectorTarget.TOOL_ARGUMENTS if is_call else DetectorTarget.RESPONSE]
        return TextMask(detectors, is_json=is_call) if detectors else None

    def whole(self, text: str) -> str:
        """Return a string of the answer that is no known text, masked on its own."""
        detectors = self._answer[DetectorTarget.RESPONSE]
        return mask_text(detectors, text).text if detectors else text

    def logged(self, text: str) -> str:
        """Return a text of the answer as a log may keep it: masked, with nothing restored."""
        return mask_text(self._response, text).text if self._response else text
