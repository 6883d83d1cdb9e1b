"""Malformed calls are refused with a message, and the stream goes on as if they had not been made."""

from typing import Any

import numpy as np
import pytest
import torch

from streamward.errors import InputError
from streamward.schema import Side
from tests.engine.harness import VOCAB_SIZE, Judge, make_engine, random_guard, random_ids

BAD_IDS = {
    "empty": ([], "token_ids is empty"),
    "empty text": ("", "token_ids is empty"),
    "negative": ([1, -1], "out of range; ids must be from 0 to 63"),
    "too large": ([VOCAB_SIZE], "out of range; ids must be from 0 to 63"),
    "huge": ([2**70], "out of range; ids must be from 0 to 63"),
    "float": ([1, 2.0], "of type float; ids must be integers"),
    "not a number": ([float("nan")], "of type float"),
    "bool": ([True], "of type bool"),
    "text": ("abc", "of type str"),
    "list of text": (["1"], "of type str"),
    "none": ([1, None], "of type NoneType"),
    "nested": ([[1, 2]], "of type list"),
    "no list": (5, "token_ids is of type int"),
    "nothing": (None, "token_ids is of type NoneType"),
    "generator": ((each for each in [1, 2]), "token_ids is of type generator"),
    "array": (np.array([1, 2]), "token_ids is of type ndarray"),
    "tensor": (torch.tensor([1, 2]), "token_ids is of type Tensor"),
}


@pytest.mark.parametrize("case", BAD_IDS)
def test_malformed_token_ids_are_refused_and_nothing_is_queued(case: str) -> None:
    ids: Any
    ids, message = BAD_IDS[case]
    judge = Judge(make_engine(random_guard()))
    stream = judge.open()
    judge.feed(stream, random_ids(5, seed=1))
    with pytest.raises(InputError, match=message):
        judge.engine.extend(stream, ids, head=Side.RESPONSE)
    assert judge.engine.num_queued_tokens == 0
    judge.feed(stream, random_ids(5, seed=2))
    judge.check()


@pytest.mark.parametrize("head", ["response", "answer", 1, True])
def test_a_side_that_is_none_is_refused(head: Any) -> None:
    engine = make_engine(random_guard())
    stream = engine.open()
    with pytest.raises(InputError, match="give a Side, or None for context"):
        engine.extend(stream, [1], head=head)
    assert engine.length(stream) == 0


@pytest.mark.parametrize("length", [-1, 6, 2.5, 3.0, True, "3", None])
def test_truncating_to_no_length_of_the_stream_is_refused(length: Any) -> None:
    judge = Judge(make_engine(random_guard()))
    stream = judge.open()
    judge.feed(stream, random_ids(5, seed=1))
    with pytest.raises(InputError, match="it must be an integer from 0 to 5"):
        judge.engine.truncate(stream, length)
    judge.check()


def test_a_tuple_and_a_range_are_good_token_ids() -> None:
    judge = Judge(make_engine(random_guard()))
    stream = judge.open()
    judge.feed(stream, (1, 2, 63))
    judge.feed(stream, range(9))
    judge.check()


def test_token_ids_do_not_show_in_messages() -> None:
    engine = make_engine(random_guard())
    stream = engine.open()
    with pytest.raises(InputError) as caught:
        engine.extend(stream, [987654], head=None)
    assert "987654" not in str(caught.value)
