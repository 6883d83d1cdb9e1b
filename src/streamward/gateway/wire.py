"""The knowledge about a wire format: requests, answers, and how an answer is cut short."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from streamward.gateway.release_buffer import Chunk, Cutoff
from streamward.gateway.strict_json import JsonObject
from streamward.gateway.text_fields import FieldKey
from streamward.schema import Message

FormatName = Literal["chat/completions", "completions", "responses", "embeddings"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """The content of a request, as the guard reads it.

    Attributes:
        messages: The conversation; it ends with a user's turn, unless there is none.
        before_tools: The conversation up to the last turn of the user, where results of tools came after it; each of
            the two is judged.
        prefill: What the client makes the answer begin with.
    """

    messages: tuple[Message, ...]
    before_tools: tuple[Message, ...] = ()
    prefill: str = ""


@dataclass(frozen=True, slots=True)
class ClientRequest:
    """A request, understood.

    Attributes:
        body: What the upstream is asked.
        model: Name of the model asked for.
        prompts: One or more; choices belong to them in turn.
        num_choices: Choices of each prompt.
        is_stream: Whether the answer is to be streamed.
    """

    body: JsonObject
    model: str
    prompts: Sequence[Prompt]
    num_choices: int
    is_stream: bool

    @property
    def num_groups(self) -> int:
        """Choices of all prompts."""
        return len(self.prompts) * self.num_choices

    def prompt_of(self, group: int) -> Prompt:
        """Return the prompt that a choice answers."""
        return self.prompts[min(max(group, 0) // self.num_choices, len(self.prompts) - 1)]


class WireFormat(Protocol):
    """One request and its answer in one format. Holds what is known of the answer so far."""

    request: ClientRequest
    ends_with_choice: bool
    """True if the end of the choice is the end of the stream."""

    def content_of(self, group: int) -> FieldKey:
        """Return the field that an answer given by the client would go on in."""
        ...

    def read_event(self, body: JsonObject, size: int) -> list[Chunk]:
        """Take an event of a stream apart.

        Raises:
            UpstreamError: It is not what the format says.
        """
        ...

    def read_document(self, body: JsonObject, size: int) -> list[Chunk]:
        """Take an answer that is not streamed apart; `join` puts it together again.

        Raises:
            UpstreamError: It is not what the format says.
        """
        ...

    def join(self, chunks: Sequence[Chunk], stops: Sequence[Cutoff], extras: Mapping[int, JsonObject]) -> JsonObject:
        """Put what is left of an answer together, with what the gateway adds to each choice."""
        ...

    def encode(self, chunk: Chunk, extra: JsonObject) -> bytes:
        """Return a chunk as an event, with what the gateway adds to it."""
        ...

    def stop(self, stop: Cutoff, extra: JsonObject) -> list[bytes]:
        """Return the events that end a choice which the guard has stopped."""
        ...

    def more(self, group: int, text: str) -> list[bytes]:
        """Return the events that add text to a choice which is changed in progress."""
        ...

    def end(self, group: int, reason: str, *, extra: JsonObject, usage: JsonObject | None) -> list[bytes]:
        """Return the events that end a choice which was changed in progress.

        Args:
            group: The choice.
            reason: `stop`, `length` or `content_filter`.
            extra: What the gateway adds.
            usage: Tokens of the call, with the names of chat completions.
        """
        ...

    def usage(self, usage: JsonObject) -> list[bytes]:
        """Return the events that tell the tokens of a call, where the ends of choices do not."""
        ...

    def changed(self, group: int, text: str, reason: str, *, usage: JsonObject) -> JsonObject:
        """Return a choice of an answer that is not streamed and was changed.

        Nothing of the upstream's own choice is in it: what repeats its text beside it would repeat what was dropped.
        """
        ...

    def note(self, group: int | None, extra: JsonObject) -> bytes:
        """Return an event that says something of a choice, or of the whole, and has no text of the model."""
        ...

    def done(self) -> list[bytes]:
        """Return the events that end a stream."""
        ...

    def error(self, error: JsonObject) -> list[bytes]:
        """Return the events that end a stream which has failed, with its `message`, `type`, `param` and `code`."""
        ...

    def refusal(self, text: str, extra: JsonObject) -> tuple[JsonObject, list[bytes]]:
        """Return an answer of the gateway's own, as a document and as events."""
        ...
