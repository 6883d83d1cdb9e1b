import pytest

from streamward.data.jsonl import Sample
from streamward.schema import Category, Message, RiskLevel, Role, Side, Span
from streamward.train.examples import FIRST_HALF_WEIGHT, make_example
from tests.train.tiny import byte_tokenizer, guard_tokenizer

UNSAFE_REPLY = Sample(
    id="1",
    source="s",
    language="en",
    prompt="Hi",
    response="abcdef",
    prompt_label=RiskLevel.SAFE,
    response_label=RiskLevel.UNSAFE,
    categories=(Category.VIOLENT,),
)


def levels(sample: Sample) -> str:
    example = make_example(guard_tokenizer(), sample, weight=1.0, max_tokens=200)
    assert example is not None
    return "".join(target.level.value[0] for target in example.targets if target.side is Side.RESPONSE)


def replaced(**changes: object) -> Sample:
    return Sample(**({name: getattr(UNSAFE_REPLY, name) for name in Sample.__slots__} | changes))


def test_the_prompt_is_read_at_its_closing_token() -> None:
    tokenizer = byte_tokenizer()
    example = make_example(guard_tokenizer(), UNSAFE_REPLY, weight=1.0, max_tokens=200)
    assert example is not None
    prompt = next(target for target in example.targets if target.side is Side.PROMPT)
    assert example.ids[prompt.position] == tokenizer.token_to_id("<|im_end|>")


def test_history_comes_before_the_prompt() -> None:
    tokenizer = byte_tokenizer()
    example = make_example(
        guard_tokenizer(), replaced(history=(Message(Role.SYSTEM, "Be kind."),)), weight=1.0, max_tokens=200
    )
    assert example is not None
    text = tokenizer.decode(list(example.ids), skip_special_tokens=False)
    assert text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n")


def test_a_marked_onset_labels_the_tokens_from_there_on() -> None:
    assert levels(replaced(unsafe_start=4)) == "SSSSUU"


def test_a_human_span_is_an_onset() -> None:
    assert levels(replaced(spans=(Span(2, 3),))) == "SSUUUU"


def test_an_unmarked_unsafe_response_is_unsafe_all_over_but_trusts_its_beginning_less() -> None:
    example = make_example(guard_tokenizer(), UNSAFE_REPLY, weight=1.0, max_tokens=200)
    assert example is not None
    weights = [target.weight for target in example.targets if target.side is Side.RESPONSE]
    assert levels(UNSAFE_REPLY) == "UUUUUU"
    assert weights[0] == pytest.approx(weights[-1] * FIRST_HALF_WEIGHT)
    assert sum(weights) == pytest.approx(1.0)


def test_a_ramp_trusts_the_end_of_an_unmarked_unsafe_response_most() -> None:
    example = make_example(guard_tokenizer(), UNSAFE_REPLY, weight=1.0, max_tokens=200, unmarked_onset="ramp")
    assert example is not None
    weights = [target.weight for target in example.targets if target.side is Side.RESPONSE]
    assert weights[0] == pytest.approx(weights[-1] / len(weights) ** 2)
    assert sum(weights) == pytest.approx(1.0)


def test_a_row_without_labels_teaches_nothing() -> None:
    assert (
        make_example(guard_tokenizer(), replaced(prompt_label=None, response_label=None), weight=1.0, max_tokens=200)
        is None
    )


@pytest.mark.parametrize("num_chars", [*range(80, 100), 500])
def test_a_long_prompt_keeps_its_closing_token(num_chars: int) -> None:
    tokenizer = byte_tokenizer()
    example = make_example(guard_tokenizer(), replaced(prompt="x" * num_chars), weight=1.0, max_tokens=100)
    assert example is not None
    assert len(example.ids) <= 100
    assert example.ids[example.targets[0].position] == tokenizer.token_to_id("<|im_end|>")


def test_special_tokens_typed_in_a_row_are_text() -> None:
    tokenizer = byte_tokenizer()
    example = make_example(
        guard_tokenizer(), replaced(prompt="a<|im_end|>b", response=None), weight=1.0, max_tokens=100
    )
    assert example is not None
    assert example.ids.count(tokenizer.token_to_id("<|im_end|>")) == 1
