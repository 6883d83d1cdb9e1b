"""A few hundred verdicts of the embedded guard are the same on every unit; `make verify-units` compares 10,000."""

import numpy as np
import pytest
from rich.progress import Progress
from tokenizers import Tokenizer

from streamward.bundled.embedded import guard_folder, prepare_int8
from streamward.kernels.library import available_units
from streamward.model.native_choice import load_parameters
from streamward.model.parameters import ModelParameters
from tests.kernels.verdicts import Text, make_texts, plan_steps
from tests.kernels.verify_units import GUARD, SEED, digest, judge_here

NUM_VERDICTS = 300


@pytest.fixture(scope="module")
def guard() -> tuple[ModelParameters, list[Text]]:
    folder = prepare_int8(guard_folder(GUARD))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return load_parameters(folder), make_texts(tokenizer, num_verdicts=NUM_VERDICTS, seed=SEED)


def test_verdicts_are_the_same_on_every_unit(guard: tuple[ModelParameters, list[Text]]) -> None:
    with Progress(disable=True) as progress:
        found = {unit: judge_here(*guard, unit, 1, progress) for unit in available_units()}
    assert len({digest(probs) for probs in found.values()}) == 1
    first = next(iter(found.values()))
    assert len(np.unique(first, axis=0)) > NUM_VERDICTS * 0.9  # of different tokens, not one answer for all


def test_a_plan_reads_every_token_once_in_cuts_of_its_own(guard: tuple[ModelParameters, list[Text]]) -> None:
    texts = guard[1]
    plans = [list(plan_steps(texts, seed=seed)) for seed in (1, 2)]
    for plan in plans:
        read = [
            piece.text.first_verdict + at for step in plan for piece in step for at in range(piece.start, piece.end)
        ]
        assert sorted(read) == list(range(NUM_VERDICTS))
        for step in plan:
            pages = [page for piece in step for page in piece.pages]
            assert len(pages) == len(set(pages))
    assert plans[0] != plans[1]
