"""The fields that the gateway adds to an answer on request: verdicts, and how far text was checked."""

from collections.abc import Iterator

from streamward.decisions import ALLOWED, combine
from streamward.gateway.prompt_guard import PromptGuard
from streamward.gateway.report import Asked, Describe, azure_results, moderation_of
from streamward.gateway.strict_json import JsonObject
from streamward.gateway.text_fields import ENVELOPE
from streamward.schema import Decision, Side, SideResult


class Annotations:
    """Extras of one answer. Every method gives nothing where nothing was asked for."""

    def __init__(self, asked: Asked, judges: PromptGuard, *, describe: Describe, is_responses: bool) -> None:
        """Read verdicts off the judges as they come."""
        self._asked = asked
        self._judges = judges
        self._describe = describe
        self._is_responses = is_responses
        self._offsets: dict[int, int] = {}

    def of_prompts(self) -> JsonObject:
        """Say what the guard found in the prompts."""
        if not self._asked.has_annotations:
            return {}
        results = [
            {"prompt_index": index, "content_filter_results": azure_results(judgement, decision, side=Side.PROMPT)}
            for index, (judgement, decision) in enumerate(self._judges.prompts)
        ]
        return {"prompt_filter_results": results}

    def of_choice(self, decision: Decision, group: int) -> JsonObject:
        """Say what the guard found in a choice that has ended."""
        extra: JsonObject = {}
        if self._asked.has_annotations:
            results = azure_results(self._judgement(group), decision, side=Side.RESPONSE)
            extra["content_filter_results"] = results
        return {**extra, **self.of_whole()} if self._is_responses else extra

    def of_end(self) -> JsonObject:
        """Say, at the end of a stream, what was found; in `/v1/responses` the last event has said it."""
        return {} if self._is_responses else self._moderation()

    def of_whole(self) -> JsonObject:
        """Say all that stands beside the choices of an answer."""
        return {**self.of_prompts(), **self._moderation()}

    def offsets(self) -> Iterator[tuple[int, JsonObject]]:
        """Say of each choice how many of its characters were checked, if it is more than before."""
        for group, readers in self._judges.fields.readers.items():
            checked = min(readers[0].limit, readers[0].fed)
            before = self._offsets.get(group, 0)
            if group != ENVELOPE and checked > before:
                self._offsets[group] = checked
                offsets = {"check_offset": checked, "start_offset": before, "end_offset": checked}
                yield group, {"content_filter_offsets": offsets}

    def _moderation(self) -> JsonObject:
        if not self._asked.has_moderation:
            return {}
        prompts = [judgement for judgement, _ in self._judges.prompts]
        code = None if self._judges.error is None else self._judges.error.code
        groups = sorted(group for group in self._judges.fields.readers if group != ENVELOPE)
        outputs = [self._judgement(group) for group in groups]
        errors = [reader.decision.error for group in groups for reader in self._judges.fields.readers[group]]
        return {
            "moderation": {
                "input": self._side(prompts, code),
                "output": self._side(outputs, next((error for error in errors if error), None)),
            }
        }

    def _side(self, judgements: list[SideResult | None], error: str | None) -> JsonObject:
        return moderation_of(judgements, error, describe=self._describe, is_list=not self._is_responses)

    def _judgement(self, group: int) -> SideResult | None:
        """Return what the guard says of a choice: the worst of its texts; None if one of them could not be judged."""
        worst, decision = None, ALLOWED
        for reader in self._judges.fields.readers.get(group, []):
            if reader.result is None or reader.result.response is None:
                return None
            if worst is None or combine(decision, reader.decision) is not decision:
                worst, decision = reader.result.response, reader.decision
        return worst
