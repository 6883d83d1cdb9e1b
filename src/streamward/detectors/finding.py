"""Reports of detectors: spans with an id and an action. Findings never contain the text itself."""

from dataclasses import dataclass
from enum import StrEnum


class DetectorTarget(StrEnum):
    """The texts of a conversation that a detector reads."""

    PROMPT = "prompt"
    RESPONSE = "response"
    TOOL_ARGUMENTS = "tool_arguments"
    TOOL_RESULT = "tool_result"


class DetectorAction(StrEnum):
    """The action on text that a detector finds."""

    ALLOW = "allow"  # no other detector finds anything within it
    FLAG = "flag"
    MASK = "mask"
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class DetectorFinding:
    """One span that a detector found.

    Attributes:
        id: Id of the detector: its table's `id`, or its type.
        label: What was found, as in the placeholder: `EMAIL`, `NATIONAL_ID`.
        action: What is to be done; never `allow`.
        start: First character in the original text, 0-based.
        end: The character after its last one in the original text.
        masked_start: First character in the masked text.
        masked_end: The character after its last one in the masked text.
    """

    id: str
    label: str
    action: DetectorAction
    start: int
    end: int
    masked_start: int
    masked_end: int
