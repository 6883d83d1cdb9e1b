"""A model in this process, whose answers are changed in progress."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamward.detectors.config import DetectorConfig
from streamward.detectors.detectors import Detectors
from streamward.intervene.generation import GuardedGeneration
from streamward.intervene.wording import own_words
from streamward.ladder import LadderStep
from streamward.moderation.detecting_stream import DetectingStream
from streamward.policy import Policy
from tests.intervene.scripted_model import HashGuard, ScriptedModel, ladder, step

REFUSAL = own_words()["refuse"]["en"]


def answer(model: ScriptedModel, *steps: LadderStep, guard: HashGuard | None = None, hold: int = 4, **settings):
    guard = guard or HashGuard()
    run = GuardedGeneration(model, guard, prompt="hi", release=ladder(*steps, hold=hold), **settings)
    text = "".join(run)
    assert text == run.answer.text
    assert guard.num_open == 0
    assert model.num_closed == len(model.prefixes)
    return run.answer


def test_an_answer_that_is_not_flagged_is_as_the_model_gave_it():
    model = ScriptedModel("One sentence. Another one.")
    told = answer(model, step("regenerate"))
    assert told.text == "One sentence. Another one."
    assert (told.finish_reason, told.num_calls, told.interventions) == ("stop", 1, [])


def test_the_model_continues_from_the_sentence_before_the_flag():
    model = ScriptedModel("Fine. Now bad ## thing.", " Something else.")
    told = answer(model, step("regenerate"), hold=20)
    assert told.text == "Fine. Something else."
    assert model.prefixes[1].text == "Fine."
    assert model.prefixes[1].raise_temperature == pytest.approx(0.1)
    (record,) = told.interventions
    assert (record.action, record.outcome, record.attempts, record.at_char) == ("regenerate", "continued", 1, 5)
    assert record.dropped_tokens == len(" Now bad ##")
    assert record.category == "Violent"


def test_released_text_stays_and_a_flag_drops_what_is_held():
    model = ScriptedModel("abcdefgh ## x", "ij")
    told = answer(model, step("regenerate"), hold=3)
    assert model.prefixes[1].text == "abcdef"
    assert told.text == "abcdefij"


def test_a_self_check_is_read_by_the_model_and_by_nobody_else():
    model = ScriptedModel("Fine. ##", " Good.")
    told = answer(model, step("introspect", texts={"en": "Careful now."}), hold=9)
    assert model.prefixes[1].whole == "Fine.\n\nCareful now.\n\n"
    assert told.text == "Fine. Good."


def test_steps_are_tried_in_order_each_with_its_own_number_of_attempts():
    model = ScriptedModel("##")
    told = answer(model, step("regenerate", 2), step("introspect", 3), step("refuse"))
    assert [bool(prefix.self_check) for prefix in model.prefixes] == [False] * 3 + [True] * 3
    assert told.text == REFUSAL
    assert told.finish_reason == "content_filter"
    (record,) = told.interventions
    assert (record.action, record.outcome, record.attempts) == ("refuse", "refused", 6)
    assert record.dropped_tokens == 2 * 6


def test_attempts_are_those_of_the_answer_not_of_each_flag():
    model = ScriptedModel("abcdef ##", "ghijklm ##", "nopq")
    told = answer(model, step("regenerate", 1), step("stop"), hold=2)
    assert told.text == "abcdeghijkl"
    assert [record.outcome for record in told.interventions] == ["continued", "stopped"]


def test_a_rewritten_passage_takes_the_place_of_the_dropped_one_and_is_judged():
    asked = []

    def rewrite(instruction: str, passage: str) -> str:
        asked.append(passage)
        return "## still" if len(asked) == 1 else "Kind words."

    model = ScriptedModel("Fine. Bad ##", " The end.")
    told = answer(model, step("rewrite", 2), hold=20, rewrite=rewrite)
    assert asked == [" Bad ##", " ## still"]
    assert told.text == "Fine. Kind words. The end."


def test_a_mask_is_tried_where_there_is_one():
    model = ScriptedModel("Call ##now", " please.")
    told = answer(model, step("mask"), hold=20, mask=lambda text: text.replace("##", "[X]"))
    assert told.text == "Call [X] please."
    assert answer(ScriptedModel("##", "ok"), step("mask"), step("regenerate")).text == "ok"


def test_a_refusal_is_in_the_language_of_the_answer():
    told = answer(ScriptedModel("Das ist der Anfang und nicht das Ende. ##"), step("refuse"), hold=20)
    assert told.text == "Das ist der Anfang und nicht das Ende. " + own_words()["refuse"]["de"]


def test_a_code_block_is_held_whole_and_dropped_whole():
    code = "See:\n```\nfine = 1\nbad ##\n```\n"
    model = ScriptedModel(code, "\nNothing.")
    told = answer(model, step("regenerate"), hold=2)
    assert model.prefixes[1].text in ("See:", "See:\n")
    assert told.text.split() == ["See:", "Nothing."]


def test_a_guard_that_fails_in_an_intervention_stops_the_answer():
    lenient = Policy.parse({"name": "l", "on_error": {"response": "allow"}}, source="test")
    told = answer(ScriptedModel("Fine. ##", "x" * 50), step("regenerate"), guard=HashGuard(lenient, fails_at=20))
    assert (told.finish_reason, told.error) == ("content_filter", "internal")
    passed = answer(ScriptedModel("x" * 50), step("regenerate"), guard=HashGuard(lenient, fails_at=20))
    assert passed.text == "x" * 50
    blocked = answer(ScriptedModel("x" * 50), step("regenerate"), guard=HashGuard(fails_at=20), hold=3)
    assert len(blocked.text) < 20


STEPS = st.lists(
    st.tuples(st.sampled_from(["regenerate", "introspect", "rewrite", "mask"]), st.integers(1, 3)), max_size=4
)
TEXTS = st.lists(st.text("ab #.\n`-", max_size=30), min_size=1, max_size=5)


@settings(max_examples=300, deadline=None)
@given(
    texts=TEXTS,
    steps=STEPS,
    last=st.sampled_from([None, "refuse", "stop"]),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    hold=st.integers(0, 12),
)
def test_whatever_comes_nothing_is_taken_back_nothing_flagged_leaves_and_attempts_end(texts, steps, last, sizes, hold):
    used = [step(action, 1 if action == "mask" else attempts) for action, attempts in steps]
    if last is not None:
        used.append(step(last))
    model = ScriptedModel(*texts, sizes=sizes)
    guard = HashGuard()
    run = GuardedGeneration(
        model,
        guard,
        prompt="hi",
        release=ladder(*used, hold=hold),
        rewrite=lambda _, passage: passage.replace("##", "#"),
        mask=lambda passage: passage.replace("##", "xx"),
    )
    shown = ""
    for piece in run:
        assert piece
        shown += piece
    assert shown == run.answer.text
    assert "##" not in shown
    assert run.answer.num_calls == len(model.prefixes) <= 1 + sum(each.attempts for each in used)
    assert guard.num_open == 0
    if not run.answer.interventions:
        assert shown == texts[0]
    for record in run.answer.interventions:
        assert record.at_char <= len(shown)


def test_what_detectors_find_is_masked_as_it_leaves_and_a_listed_word_is_changed():
    word = DetectorConfig(type="words", id="names", words=("zeus",), action="block")
    detectors = Detectors.compile([DetectorConfig(type="email"), word])

    class DetectingGuard(HashGuard):
        def stream(self, prompt=None, messages=None):
            return DetectingStream(super().stream(prompt, messages), detectors)

    model = ScriptedModel("Write to jo@example.com. Hail Zeus now. ", " Hail Hera.")
    run = GuardedGeneration(model, DetectingGuard(), prompt="x", release=ladder(step("regenerate"), hold=12))
    assert "".join(run) == run.answer.text == "Write to [EMAIL]. Hail Hera."
    assert [each.outcome for each in run.answer.interventions] == ["continued"]
