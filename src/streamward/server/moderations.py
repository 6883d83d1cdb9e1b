"""`POST /v1/moderations`, in OpenAI's shape."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from streamward.errors import ContextLengthError, InputError
from streamward.moderation.message_parts import joined, read_content
from streamward.schema import Action, Category, Decision, FiredRule, Result, RiskLevel, Side, SideResult, Span
from streamward.server.auth import MeteredCaller
from streamward.server.errors import ERRORS
from streamward.server.judging import judge
from streamward.server.records import flagged_span, new_id
from streamward.server.state import service_state
from streamward.server.wire import Lenient, Name, PolicyInForce, risk_of
from streamward.settings import Settings

router = APIRouter(tags=["moderation"])

# Which of OpenAI's keys a category of ours means. Keys that appear nowhere here ask for a finer distinction than the
# guard makes (intent, instructions, minors, graphic, threatening); categories with no key show in the extension only.
OPENAI_KEYS: Mapping[Category, tuple[str, ...]] = {
    Category.VIOLENT: ("violence",),
    Category.ILLEGAL_ACTS: ("illicit",),
    Category.SEXUAL: ("sexual",),
    Category.PII: (),
    Category.SELF_HARM: ("self-harm",),
    Category.UNETHICAL: ("harassment", "hate"),  # the guard does not distinguish these categories
    Category.POLITICAL: (),
    Category.COPYRIGHT: (),
    Category.JAILBREAK: (),
}
ALL_KEYS = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
_REFUSAL = "this guard judges text only"
Part = dict[str, Any]  # Any: JSON values; `streamward.moderation.messages` reads them
_JUDGED_KEYS = frozenset(key for keys in OPENAI_KEYS.values() for key in keys)


class ModerationOptions(Settings):
    """Options of a request beyond OpenAI's schema."""

    policy: Name | None = None
    """Name of a policy; by default the key's."""
    side: Side = Side.PROMPT
    """Side of the texts: prompt or response."""


class ModerationRequest(Lenient):
    """Texts to be judged."""

    input: (
        Annotated[str, Field(title="Text")]
        | Annotated[tuple[str, ...], Field(min_length=1, title="Texts")]
        | Annotated[tuple[Part, ...], Field(min_length=1, title="Parts of one text")]
    )
    """A text; texts, each with a result of its own; or the parts of one text."""
    model: str | None = None
    """Ignored: the service has one guard."""
    streamward: ModerationOptions = ModerationOptions()
    """Fields beyond OpenAI's schema."""


class Extension(Settings):
    """Fields beyond OpenAI's schema."""

    risk_level: RiskLevel | None
    """None when the guard failed."""
    categories: Mapping[Category, bool]
    """All nine; true for those the guard names in text that is not Safe."""
    rules: tuple[FiredRule, ...] = ()
    """Rules of the policy that the text breaks."""
    probabilities: Mapping[RiskLevel, float] | None
    refusal: bool | None
    first_flagged_char: int | None
    """Index of the first character of the first flagged token, where the guard says."""
    span: Span | None
    """Characters of the first flagged token, where the guard says."""
    decision: Decision
    policy: PolicyInForce


class Moderation(BaseModel):
    """One text's result."""

    model_config = ConfigDict(frozen=True)

    flagged: bool
    """True unless the policy allows the text."""
    categories: Mapping[str, bool]
    category_scores: Mapping[str, float]
    category_applied_input_types: Mapping[str, tuple[Literal["text"], ...]]
    """Empty for keys that the guard does not judge."""
    streamward: Extension


class Moderations(BaseModel):
    """One result for each text."""

    model_config = ConfigDict(frozen=True)

    id: str
    model: str
    results: tuple[Moderation, ...]


@router.post("/v1/moderations", responses=ERRORS)
async def moderations(body: ModerationRequest, request: Request, caller: MeteredCaller) -> Moderations:
    """Judge one or more texts."""
    state = service_state(request)
    kept = caller.choose_policy(state, body.streamward.policy)
    texts = _texts(body.input, most=state.config.limits.max_inputs)
    side = body.streamward.side

    async def one(text: str) -> Result:
        job = caller.context(request, "moderations", kept, model=body.model)
        return await judge(state, job, **{side.value: text})  # type: ignore[arg-type]  # prompt or response

    tasks = [asyncio.create_task(one(text)) for text in texts]
    try:
        results = await asyncio.gather(*tasks)
    finally:
        for task in tasks:  # if one call fails, nobody waits for the others
            task.cancel()
    policy = PolicyInForce.of(kept)
    return Moderations(
        id=new_id("modr"),
        model=state.config.guard,
        results=tuple(_moderation(result, side, policy) for result in results),
    )


def _texts(given: str | Sequence[str] | Sequence[Part], *, most: int) -> list[str]:
    """Return what is to be judged, each with a result of its own.

    Raises:
        InputError: A text is empty or blank, as OpenAI refuses it too, or a part is not text.
        ContextLengthError: There are too many.
    """
    if isinstance(given, str):
        texts = {"input": given}
    elif len(given) > most:
        raise ContextLengthError(f"input has {len(given)} items; at most {most} are accepted (limits.max_inputs)")
    elif isinstance(given[0], str):
        texts = {f"input[{index}]": str(text) for index, text in enumerate(given)}
    else:
        texts = {"input": joined(read_content(given, where="input", refusal=_REFUSAL))}
    for name, text in texts.items():
        if not text.strip():
            raise InputError(f"{name} is empty or blank; there is nothing to judge in it")
    return list(texts.values())


def _moderation(result: Result, side: Side, policy: PolicyInForce) -> Moderation:
    judgement = result.prompt if side is Side.PROMPT else result.response
    keys = frozenset(key for category in _named(judgement) for key in OPENAI_KEYS[category])
    is_flagged = result.decision.action is not Action.ALLOW
    risk = 0.0 if judgement is None else risk_of(judgement.probabilities)
    return Moderation(
        flagged=is_flagged,
        categories={key: is_flagged and key in keys for key in ALL_KEYS},
        category_scores={key: risk if key in keys else 0.0 for key in ALL_KEYS},
        category_applied_input_types={key: ("text",) if key in _JUDGED_KEYS else () for key in ALL_KEYS},
        streamward=_extension(result, judgement, policy),
    )


def _named(judgement: SideResult | None) -> tuple[Category, ...]:
    """Return the kinds of harm to report, the primary first."""
    if judgement is None or judgement.category is None:
        return ()
    return judgement.categories or (judgement.category,)


def _extension(result: Result, judgement: SideResult | None, policy: PolicyInForce) -> Extension:
    named = _named(judgement)
    return Extension(
        risk_level=None if judgement is None else judgement.risk_level,
        categories={category: category in named for category in Category},
        rules=result.decision.rules,
        probabilities=None if judgement is None else judgement.probabilities,
        refusal=None if judgement is None else judgement.refusal,
        first_flagged_char=None if judgement is None else judgement.first_flagged_char,
        span=flagged_span(result),
        decision=result.decision,
        policy=policy,
    )
