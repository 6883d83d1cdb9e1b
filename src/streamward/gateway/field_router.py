"""The texts an answer is made of, and which guard stream reads which."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from streamward.decisions import ALLOWED, combine
from streamward.gateway.field_guard import FieldGuard
from streamward.gateway.masking import CallMasking
from streamward.gateway.opaque import UnknownOpaque, is_reference, read_opaque
from streamward.gateway.restated import RestatedText
from streamward.gateway.text_fields import ENVELOPE, FieldKey, Kind, TextField
from streamward.moderation.text_mask import TextMask
from streamward.schema import Decision
from streamward.tokenizer import clean_text

_COPIED_CHARS = 64  # length of a string from which it may count as a copy of another
_TEXT_NAMES = frozenset(
    {"content", "text", "output_text", "reasoning", "reasoning_content", "thinking", "refusal", "arguments", "input"}
)
OpenReader = Callable[[int], Awaitable[FieldGuard]]
"""Opens a field guard for a choice. It never fails: where no stream can be opened, the field guard has failed."""


@dataclass(frozen=True, slots=True)
class FieldPosition:
    """The stream and the place at which a text is judged.

    Attributes:
        reader: By whom.
        start: Its first character there.
        end: The character after its last.
        beside: Where else it is judged.
        mask: The detectors that read its field; None if there are none.
        place: Its first character in the field.
    """

    reader: FieldGuard
    start: int
    end: int
    beside: "FieldPosition | None" = None
    mask: TextMask | None = None
    place: int = 0

    @property
    def is_clear(self) -> bool:
        """True if all of it may be shown."""
        return not any(self.unclear_readers()) and self.limit == self.end

    @property
    def limit(self) -> int:
        """The character at the reader before which it may be shown: the guard and the detectors are done there."""
        limit = min(self.end, self.reader.limit)
        if self.mask is not None:
            limit = min(limit, self.start + self.mask.limit - self.place)
        return max(self.start, limit)

    def masked(self, text: str) -> str:
        """Return its text, or the beginning of it, as it may leave."""
        return text if self.mask is None else self.mask.masked(text, self.place)

    @property
    def is_due(self) -> bool:
        """True if all of it is clear, and more tokens than are to be held would wait with it."""
        reader = self.reader
        is_clear = self.beside is None and self.end <= min(reader.clear, reader.whole_limit)
        is_decided = self.mask is None or self.mask.limit >= self.place + self.end - self.start
        return is_clear and is_decided and self.start < reader.limit

    def split(self, at: int) -> "tuple[FieldPosition, FieldPosition]":
        """Return the parts before and behind a character at the reader."""
        return replace(self, end=at), replace(self, start=at, place=self.place + at - self.start)

    def unclear_readers(self) -> Iterator[FieldGuard]:
        """Yield the field guards that have not let all of it through."""
        if self.end > self.reader.limit:
            yield self.reader
        if self.beside is not None:
            yield from self.beside.unclear_readers()


@dataclass(slots=True, eq=False)
class _Field:
    """One text that grows. It is reasoning, or not, from its start on: the guard must not see a seam where none is."""

    is_reasoning: bool = False
    is_known: bool = True
    is_part: bool = False  # True for a text that clients join without a separator
    pieces: list[str] = field(default_factory=list)
    place: FieldPosition | None = None  # position of the last piece
    surrogate: str = ""  # first half of a surrogate pair
    values: RestatedText = field(default_factory=RestatedText)  # tracks the values of an unknown string
    seam: FieldPosition | None = None  # where a value that never changes is judged by itself
    restated: "_Field | None" = None  # the field for a whole text that differs from the pieces
    token: object = field(default_factory=object)  # used in place of the object where a reference would form a cycle
    mask: TextMask | None = None

    def text(self) -> str:
        if len(self.pieces) > 1:
            self.pieces = ["".join(self.pieces)]
        return self.pieces[0] if self.pieces else ""

    def clean(self, text: str) -> str:
        """Join halves of characters; the last half waits, one without a partner becomes U+FFFD."""
        text = self.surrogate + text
        self.surrogate = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
        return clean_text(text[: len(text) - len(self.surrogate)])

    def beginning(self, length: int) -> FieldPosition | None:
        """Return where its first characters are judged: a field guard has all of a field, in one piece."""
        if self.place is None:
            return None
        start = self.place.end - len(self.text())
        return FieldPosition(self.place.reader, start, start + length, mask=self.mask)


class FieldRouter:
    """Puts the text of slots into guard streams.

    One field guard follows a choice through its fields, as long as they come one after another; another follows what is
    not known to be text, so that it does not mix with what is said. A field that goes on after another had its turn
    gets one of its own, which reads it from its start: text split over fields that take turns is judged as whoever puts
    a field together will read it.
    """

    def __init__(self, open_reader: OpenReader, *, opaque: UnknownOpaque, masking: CallMasking | None = None) -> None:
        """Start with no field and no field guard.

        Args:
            open_reader: Opens field guards.
            opaque: What happens to runs in unknown strings that say nothing.
            masking: Runs detectors over the fields; None for none.
        """
        self.readers: dict[int, list[FieldGuard]] = {}
        """By choice."""
        self.ended: dict[int, Decision] = {}
        """Decisions that ended choices which were changed in progress."""
        self._open_reader = open_reader
        self._opaque = opaque
        self._masking = masking
        self._masks: dict[int, list[TextMask]] = {}  # by choice; the last one's field may go on
        self._main: dict[tuple[int, bool], FieldGuard] = {}  # by choice and whether its fields are known
        self._fields: dict[tuple[FieldKey, bool], _Field] = {}  # with whether it is reasoning: see `place`

    def decision_of(self, group: int) -> Decision:
        """Return the decision about a choice on everything judged so far, including text that belongs to no choice."""
        decision = self.ended.get(group, ALLOWED)
        for reader in [*self.readers.get(group, []), *self.readers.get(ENVELOPE, [])]:
            decision = combine(decision, reader.decision)
        for mask in [*self._masks.get(group, []), *self._masks.get(ENVELOPE, [])]:
            decision = combine(decision, mask.decision)
        return decision

    def finish_masks(self) -> None:
        """Let the detectors decide the ends of all fields: the answer is over."""
        for masks in self._masks.values():
            for mask in masks:
                mask.finish()

    def start(self, group: int, reader: FieldGuard) -> None:
        """Let a field guard follow a choice."""
        self._main[group, True] = reader
        self.readers.setdefault(group, []).append(reader)

    def content_start(self, key: FieldKey) -> FieldPosition | None:
        """Return where all of a text is judged; None if it has not begun."""
        owner = self._fields.get((key, False))
        return None if owner is None else owner.beginning(len(owner.text()))

    def text_of(self, key: FieldKey) -> str:
        """Return all of a text that has begun."""
        return self._fields[key, False].text()

    def take_mask(self, key: FieldKey) -> Callable[[], TextMask | None]:
        """Take the detectors of a text away; return what opens them anew for the text as it will be."""
        owner, masks = self._fields[key, False], self._masks.get(_group(key), [])
        masks[:] = [each for each in masks if each is not owner.mask]
        return lambda: self._mask(key)

    async def append(self, key: FieldKey, text: str) -> FieldPosition:
        """Queue what comes next in a field."""
        owner = self._fields.get((key, False))
        if owner is None:
            owner = self._fields[key, False] = _Field(mask=self._mask(key))
        return await self._append(owner, text, group=_group(key))

    async def place_all(self, slots: Sequence[TextField]) -> list[FieldPosition | None]:
        """Queue the text of slots that came together: known texts first, so that copies of them are seen to be some."""
        places: list[FieldPosition | None] = [None] * len(slots)
        for index in sorted(range(len(slots)), key=lambda index: slots[index].kind is Kind.UNKNOWN):
            places[index] = await self.place(slots[index])
        return places

    async def place(self, slot: TextField) -> FieldPosition | None:
        """Queue the text of a slot, if it says anything new, and write it back as it is judged.

        Reasoning and answer are two fields also where an upstream gives both the same place: whoever puts them together
        by kind would else read what no guard has read.

        Returns:
            Where it is judged; None if there is nothing to judge.
        """
        name = (slot.field, slot.shape.is_reasoning)
        owner = self._fields.get(name)
        if owner is None:
            is_known = slot.kind is not Kind.UNKNOWN
            owner = self._fields[name] = _Field(slot.shape.is_reasoning, is_known, _is_part(slot))
            owner.mask = self._mask(slot.field) if is_known else None
        if slot.kind is Kind.UNKNOWN:
            return await self._place_unknown(owner, slot)
        if slot.kind is Kind.WHOLE:
            return await self._place_whole(owner, slot)
        text = owner.clean(slot.text)
        _write(slot, text)
        return await self._append(owner, text, group=_group(slot.field)) if text else None

    async def _place_whole(self, owner: _Field, slot: TextField) -> FieldPosition | None:
        """Judge what a whole says beyond the pieces; or all of it, once, if it is another text."""
        text = clean_text(slot.text)
        _write(slot, text)
        if not _overlap(text, owner.text()):
            if owner.restated is None or not _overlap(text, owner.restated.text()):
                owner.restated = _Field(owner.is_reasoning, owner.is_known, mask=self._mask(slot.field))
            owner = owner.restated
        if len(text) > len(said := owner.text()):
            await self._append(owner, text[len(said) :], group=_group(slot.field))
        return owner.beginning(len(text))

    async def _place_unknown(self, owner: _Field, slot: TextField) -> FieldPosition | None:
        """Judge what is new in an unknown string; nothing, where it is a copy of text that is judged anyway."""
        text = clean_text(slot.text)
        group = _group(slot.field)
        _write(slot, text)
        if len(text) >= _COPIED_CHARS and owner.values.goes_on(text):
            copied = next((each for each in self._known(group) if each.text().startswith(text)), None)
            if copied is not None:
                owner.values.skip(text)
                return copied.beginning(len(text))
        if not _is_named_text(slot) and (found := read_opaque(text, self._opaque)) is not None:
            _write(slot, found.shown)
            text = found.judged
        if not text:
            return None
        if self._masking is not None:
            _write(slot, self._masking.whole(str(slot.holder[slot.key])))  # type: ignore[index]  # a key of this holder
        news = owner.values.take(text)
        if news.seam:
            if owner.seam is None:
                seam = await self._append(_Field(is_known=False), news.seam, group=group)
                owner.seam = replace(seam, beside=owner.place)
            return owner.seam
        return await self._append(owner, news.text, group=group) if news.text else owner.place

    def _mask(self, key: FieldKey) -> TextMask | None:
        return None if self._masking is None else self._masking.open(key)

    def _known(self, group: int) -> Iterator[_Field]:
        """Return the known texts of a choice; of all choices, for what belongs to none."""
        for (key, _), owner in self._fields.items():
            if owner.is_known and owner.place is not None and group in (key[0], ENVELOPE):
                yield owner

    async def _append(self, owner: _Field, text: str, *, group: int) -> FieldPosition:
        reader = await self._reader(owner, group)
        start, place = reader.add(text, is_reasoning=owner.is_reasoning), len(owner.text())
        owner.pieces.append(text)
        if owner.mask is not None:
            self._feed(owner.mask, text, group)
        owner.place = FieldPosition(reader, start, reader.fed, mask=owner.mask, place=place)
        return owner.place

    def _feed(self, mask: TextMask, text: str, group: int) -> None:
        """Let the detectors read; a text ends where another field begins, the arguments of a call where they close."""
        masks = self._masks.setdefault(group, [])
        if not masks or masks[-1] is not mask:
            if masks and not masks[-1].is_json:
                masks[-1].finish()
            masks[:] = [*(each for each in masks if each is not mask), mask]
        mask.feed(text)

    async def _reader(self, owner: _Field, group: int) -> FieldGuard:
        current = owner.place.reader if owner.place is not None else None
        if current is not None and current.last_field is owner.token and not current.is_finished:
            return current
        if current is not None:
            reader = await self._open(group)
            reader.add(owner.text(), is_reasoning=owner.is_reasoning)
        elif (main := self._main.get((group, owner.is_known))) is not None and not main.is_finished:
            reader = main
            if not (owner.is_part and reader.ends_in_part):
                reader.separate(is_reasoning=owner.is_reasoning)
        else:
            reader = self._main[group, owner.is_known] = await self._open(group)
        reader.last_field, reader.ends_in_part = owner.token, owner.is_part
        return reader

    async def _open(self, group: int) -> FieldGuard:
        reader = await self._open_reader(group)
        self.readers.setdefault(group, []).append(reader)
        return reader


def _is_named_text(slot: TextField) -> bool:
    """Return whether a string has a name of texts or references, so that it is one, whatever it looks like."""
    name = next((name for name in reversed(slot.field) if isinstance(name, str)), "")
    return name in _TEXT_NAMES or is_reference(name, slot.text)


def _is_part(slot: TextField) -> bool:
    """Return whether it is a text among the parts of a message in `/v1/responses`."""
    path = tuple(name for name in slot.field if not isinstance(name, int))
    return path == ("content", "text") and not slot.shape.is_reasoning


def _overlap(text: str, said: str) -> bool:
    """Return whether one of two texts begins with the other."""
    return text.startswith(said) or said.startswith(text)


def _group(key: FieldKey) -> int:
    group = key[0]
    assert isinstance(group, int), "a field's key begins with its choice"
    return group


def _write(slot: TextField, text: str) -> None:
    if not slot.is_name:  # an identifier is not judged
        slot.holder[slot.key] = text  # type: ignore[index]  # a key of this holder
