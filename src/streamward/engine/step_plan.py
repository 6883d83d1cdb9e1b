"""The batch of one step: what the model gets, and which stream each row of its output belongs to."""

from collections.abc import Sequence
from dataclasses import dataclass

from streamward.engine.model_runner import ModelInput, ModelOutput, SequenceMetadata
from streamward.engine.outputs import StepOutput
from streamward.engine.probes import ProbeSet
from streamward.engine.scheduler import ScheduledSequence
from streamward.schema import Side


@dataclass(frozen=True, slots=True)
class ScoredRun:
    """Successive tokens of one stream that the same heads score.

    Attributes:
        position: Index of the first token in its stream.
        rows: Their rows among those that the side's heads score in this step.
    """

    stream_id: int
    position: int
    side: Side
    rows: slice


@dataclass(frozen=True, slots=True)
class StepPlan:
    """A scheduled batch."""

    scheduled: Sequence[ScheduledSequence]
    model_input: ModelInput
    runs: Sequence[ScoredRun]

    @classmethod
    def of(cls, scheduled: Sequence[ScheduledSequence], *, taps: tuple[int, ...]) -> "StepPlan":
        """Pack the scheduled tokens of all sequences into one input; taps are left out where no head scores a token."""
        sequences: list[SequenceMetadata] = []
        head_rows: dict[Side, list[int]] = {}
        runs: list[ScoredRun] = []
        first_row = 0
        for sequence, count in scheduled:
            begin, end = sequence.num_cached, sequence.num_cached + count
            sequences.append(SequenceMetadata(sequence.token_ids[begin:end], begin, sequence.pages))
            for start, stop, side in sequence.runs_to_score(begin, end):
                rows = head_rows.setdefault(side, [])
                runs.append(ScoredRun(sequence.id, start, side, slice(len(rows), len(rows) + stop - start)))
                rows += range(first_row + start - begin, first_row + stop - begin)
            first_row += count
        return cls(scheduled, ModelInput(sequences, head_rows, taps if head_rows else ()), runs)

    def outputs(self, output: ModelOutput, probes: ProbeSet) -> list[StepOutput]:
        """Return the scores of each run, by stream and position."""
        head_rows, taps = self.model_input.head_rows, self.model_input.taps
        scores = {side: probes.score(side, output.taps, rows) for side, rows in head_rows.items()} if taps else {}
        found = []
        for run in self.runs:
            risk_nR, category_nC = output.probs[run.side]
            of_probes = {name: all_rows[run.rows] for name, all_rows in scores.get(run.side, {}).items()}
            found.append(
                StepOutput(run.stream_id, run.position, run.side, risk_nR[run.rows], category_nC[run.rows], of_probes)
            )
        return sorted(found, key=lambda each: (each.stream_id, each.position))
