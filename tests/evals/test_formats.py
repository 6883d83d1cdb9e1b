"""What other guards answer, and what is never taken for an answer."""

import pytest

from streamward.errors import UpstreamError
from streamward.evals.formats import FORMATS
from streamward.schema import Category, RiskLevel, Side

SAFE, GREY, UNSAFE = RiskLevel.SAFE, RiskLevel.CONTROVERSIAL, RiskLevel.UNSAFE
PROMPT, RESPONSE = Side.PROMPT, Side.RESPONSE


@pytest.mark.parametrize(
    ("name", "text", "side", "level", "category"),
    [
        ("qwen3guard", "Safety: Unsafe\nCategories: Violent, PII", PROMPT, UNSAFE, Category.VIOLENT),
        ("qwen3guard", "Safety: Controversial\nCategories: PII\nRefusal: No", RESPONSE, GREY, Category.PII),
        ("llama-guard", "\n\nsafe", PROMPT, SAFE, None),
        ("llama-guard", "unsafe\nS11,S1", RESPONSE, UNSAFE, Category.SELF_HARM),
        ("llama-guard", "unsafe\nS6", PROMPT, UNSAFE, None),
        ("wildguard", "Harmful request: yes\nResponse refusal: no\nHarmful response: no", PROMPT, UNSAFE, None),
        ("wildguard", "Harmful request: yes\nResponse refusal: yes\nHarmful response: no", RESPONSE, SAFE, None),
        ("wildguard", "Harmful request: no\nResponse refusal: N/A\nHarmful response: N/A", PROMPT, SAFE, None),
        ("shieldgemma", "Yes, it breaks the rules.", PROMPT, UNSAFE, None),
        ("shieldgemma", "**No**", PROMPT, SAFE, None),
        ("granite", "<think>hm, yes or no</think>\n<score> no </score>", PROMPT, SAFE, None),
        ("granite", "<score>yes</score>", RESPONSE, UNSAFE, None),
        ("granite", "Yes", RESPONSE, UNSAFE, None),
        ("gpt-oss-safeguard", '{"violation": 1, "category": "pii"}', PROMPT, UNSAFE, Category.PII),
        ("gpt-oss-safeguard", '```json\n{"violation": 0, "category": null}\n```', PROMPT, SAFE, None),
        ("gpt-oss-safeguard", "0", PROMPT, SAFE, None),
    ],
)
def test_an_answer_is_understood(name, text, side, level, category):
    reply = FORMATS[name].parse(text, side)
    assert (reply.risk_level, reply.category) == (level, category)


def test_wildguards_refusal_is_kept_for_responses():
    text = "Harmful request: yes\nResponse refusal: yes\nHarmful response: no"
    assert FORMATS["wildguard"].parse(text, RESPONSE).refusal is True
    assert FORMATS["wildguard"].parse(text, PROMPT).refusal is None


JUNK = [
    "",
    "\x00",
    "maybe",
    "I cannot judge this.",
    "not unsafe",
    "<think>safe",
    "{",
    "[]",
    "2",
    "safe unsafe",
    "unsafe\nbecause",
]


@pytest.mark.parametrize("text", JUNK)
@pytest.mark.parametrize("name", FORMATS)
def test_junk_is_an_error_and_never_safe(name, text):
    with pytest.raises(UpstreamError):
        FORMATS[name].parse(text, PROMPT)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("llama-guard", "safe\nS1"),
        ("wildguard", "Harmful request: yes\nHarmful request: no"),
        ("wildguard", "Harmful response: N/A"),
        ("granite", "<score>yes</score><score>no</score>"),
        ("gpt-oss-safeguard", '{"violation": 1, "violation": 0} trailing'),
        ("gpt-oss-safeguard", '{"violation": "perhaps"}'),
    ],
)
def test_an_answer_that_contradicts_itself_is_an_error(name, text):
    with pytest.raises(UpstreamError):
        FORMATS[name].parse(text, RESPONSE)


@pytest.mark.parametrize("name", FORMATS)
def test_errors_do_not_repeat_the_answer(name):
    with pytest.raises(UpstreamError) as caught:
        FORMATS[name].parse("zebra-crossing", PROMPT)
    assert "zebra" not in str(caught.value)
