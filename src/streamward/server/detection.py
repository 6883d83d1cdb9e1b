"""Detectors' findings in a request, in the service's format."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from streamward.detectors.detectors import compiled
from streamward.detectors.finding import DetectorAction, DetectorTarget
from streamward.detectors.vault import Vault
from streamward.gateway.request_masking import LocatedFinding, RequestMasker
from streamward.policy import Policy
from streamward.settings import Settings


class FindingWire(Settings):
    """A span that a detector found. Places are characters, 0-based; `end` is behind the last one."""

    path: str
    """The text it is in: `prompt`, `response` or `messages[0].content`."""
    target: DetectorTarget
    id: str
    """Id of the detector."""
    label: str
    action: DetectorAction
    start: int
    end: int
    masked_start: int
    """Place in the masked text."""
    masked_end: int

    @classmethod
    def of(cls, found: LocatedFinding) -> "FindingWire":
        """Return a finding."""
        return cls(path=found.path, target=found.target, **asdict(found.finding))


class MaskedTexts(Settings):
    """The texts of a request with what is to be masked replaced."""

    prompt: str | None = None
    response: str | None = None
    messages: tuple[dict[str, Any], ...] | None = None  # Any: JSON values


class DetectedTexts(NamedTuple):
    """Findings of detectors in a request.

    Attributes:
        findings: In the order of the texts.
        masked: The texts; None if the policy has no detectors.
    """

    findings: tuple[FindingWire, ...] = ()
    masked: MaskedTexts | None = None


def detect(
    policy: Policy, *, prompt: str | None, response: str | None, messages: Sequence[dict[str, Any]] | None
) -> DetectedTexts:
    """Run a policy's detectors over the texts of a request.

    Args:
        policy: Has the detectors.
        prompt: The user's text.
        response: The assistant's text.
        messages: Instead of both.
    """
    detectors = compiled(policy.detectors)
    if not detectors:
        return DetectedTexts()
    masker = RequestMasker(detectors, Vault(), assistant=DetectorTarget.RESPONSE)
    masked = MaskedTexts.model_validate(
        {
            "prompt": masker.mask(prompt, DetectorTarget.PROMPT, "prompt", "prompt"),
            "response": masker.mask(response, DetectorTarget.RESPONSE, "response", "response"),
            "messages": masker.mask(messages, DetectorTarget.PROMPT, "messages", "messages"),
        }
    )
    return DetectedTexts(tuple(map(FindingWire.of, masker.findings)), masked)
