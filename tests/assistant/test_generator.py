"""Many answers in one thread."""

import queue

import pytest
import torch

from streamward.assistant.answer import GeneratedAnswer
from streamward.assistant.config import AssistantConfig
from streamward.assistant.generator import Generator
from streamward.assistant.sampling import Sampling
from streamward.errors import CheckpointError, OverloadedError, StreamClosedError
from streamward.model.decoder import dense_hidden
from tests.generative.gen_guards import random_lm

TIMEOUT_S = 30
PROMPTS = ([7], [5, 6, 7, 8, 9] * 30, list(range(40, 90)), [1, 2, 3])


@pytest.fixture
def generate():
    opened = []

    def make(model=None, *, end_ids=(), **limits):
        config = AssistantConfig(**limits)
        opened.append(Generator(model or random_lm(0), config, end_ids=end_ids))
        return opened[-1]

    yield make
    for generator in opened:
        generator.close()


def answer_to(prompt, max_tokens=12):
    written = queue.Queue()
    return GeneratedAnswer(prompt, Sampling(max_tokens, temperature=0.0), deliver=written.put), written


def read(written):
    tokens = []
    while True:
        step = written.get(timeout=TIMEOUT_S)
        tokens += [] if step.token is None else [step.token]
        if step.finish_reason or step.error:
            return tokens, step.finish_reason or step.error


@torch.inference_mode()
def greedy(model, prompt, count):
    """Read everything anew for each token."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model.logits(dense_hidden(model.decoder, torch.tensor([ids]))[0, -1]).argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("prefill_tokens", [3, 256])
def test_answers_written_together_are_those_of_the_whole_model_one_by_one(generate, prefill_tokens):
    model = random_lm(0)
    pairs = [answer_to(prompt) for prompt in PROMPTS]
    generate(model, prefill_tokens=prefill_tokens).start([answer for answer, _ in pairs])
    expected = [(greedy(model, prompt, 12), "length") for prompt in PROMPTS]
    assert [read(written) for _, written in pairs] == expected


def test_an_answer_outgrows_its_cache(generate):
    model = random_lm(0)
    answer, written = answer_to([3] * 505, max_tokens=20)
    generate(model).start([answer])
    assert read(written) == (greedy(model, [3] * 505, 20), "length")


def test_an_end_token_ends_an_answer_and_is_not_part_of_it(generate):
    model = random_lm(0)
    expected = greedy(model, PROMPTS[2], 6)
    answer, written = answer_to(PROMPTS[2])
    generate(model, end_ids=[expected[-1]]).start([answer])
    assert read(written) == (expected[: expected.index(expected[-1])], "stop")


def test_answers_beyond_the_limit_wait_for_their_turn(generate):
    pairs = [answer_to([token], max_tokens=3) for token in range(5)]
    generate(max_active=2, max_waiting=3).start([answer for answer, _ in pairs])
    assert [len(read(written)[0]) for _, written in pairs] == [3] * 5


def test_more_than_may_wait_are_refused_together(generate):
    generator = generate(max_active=1, max_waiting=1)
    with pytest.raises(OverloadedError, match="3 answers would be open"):
        generator.start([answer_to([1])[0] for _ in range(3)])
    assert generator.num_answers == 0


def test_a_cancelled_answer_makes_room(generate):
    generator = generate(max_active=1)
    endless, seen = answer_to([1], max_tokens=900)
    next_one, written = answer_to([2], max_tokens=2)
    generator.start([endless, next_one])
    seen.get(timeout=TIMEOUT_S)
    generator.cancel([endless])
    assert len(read(written)[0]) == 2
    assert seen.qsize() < 890


def test_damaged_weights_end_answers_with_an_error_and_the_next_are_tried_again(generate):
    model = random_lm(0)
    generator = generate(model)
    weight = model.lm_head.weight.data.clone()
    model.lm_head.weight.data.fill_(float("nan"))
    answer, written = answer_to([1])
    generator.start([answer])
    tokens, error = read(written)
    assert (tokens, type(error)) == ([], CheckpointError)
    model.lm_head.weight.data.copy_(weight)
    answer, written = answer_to([1], max_tokens=2)
    generator.start([answer])
    assert len(read(written)[0]) == 2


def test_closing_ends_open_answers_and_refuses_new_ones(generate):
    generator = generate()
    answer, written = answer_to([1], max_tokens=900)
    generator.start([answer])
    generator.close()
    assert isinstance(read(written)[1], StreamClosedError)
    with pytest.raises(StreamClosedError):
        generator.start([answer])
