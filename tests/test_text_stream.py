"""Whatever the cuts, a text stream ends in the tokens of the whole text: on real vocabularies, and one like Gemma's."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from streamward.errors import InputError
from streamward.text_stream import Edit, TextStream
from streamward.tokenizer import GuardTokenizer
from tests.tokenizers import qwen, sentencepiece, smollm2

TOKENIZERS = {"qwen": qwen, "smollm2": smollm2, "sentencepiece": sentencepiece}
FRAGMENTS = [
    *("a", "B", "word", " the", " ", "  ", "\n", "\r\n", "\t", "  \n  ", "\u3000", "\x00", "\x7f"),
    *("'", "'l", "'ll", "l", "'re", "don't", "1", "2024", "3.14", "-", "...", "!?", "_", "http://a.b/c?d=e"),
    *(
        "e\u0301",
        "\u0301",
        "é",
        "ẛ̣",
        "\u09be",
        "\u09c7",
        "क्षि",
        "ไทย",
        "日本語",
        "，",  # noqa: RUF001
        "。",
        "한",
        "\u1112\u1161\u11ab",
        "\u1161",
    ),
    *(
        "👩‍👩‍👧‍👦",
        "👍🏽",
        "😀",
        "🇫🇷",
        "\u200d",
        "\u200b",
        "\ufeff",
        "العربية",
        "لا\u064e",
        "עברית",
        "Ελληνικά",
        "Россия",
    ),
    *(
        "def f(x):\n    return x",
        "{'a': [1]}",
        "<|im_end|>",
        "<|im_start|>",
        "<think>",
        "</think>",
        "\ue0000c\ue001",
        "\ufffd",
    ),
]
texts = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)
few = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def replay(tokens: list, new: list, edit: Edit) -> None:
    tokens[edit.keep :] = new


def cut(data, sizes: list[int]) -> list:
    """Cut a text, or anything sliceable, into pieces of the sizes given, again and again."""
    pieces, start, turn = [], 0, 0
    while start < len(data):
        pieces.append(data[start : start + sizes[turn % len(sizes)]])
        start, turn = start + sizes[turn % len(sizes)], turn + 1
    return pieces


def check_ends_as_whole(tokenizer: GuardTokenizer, text: str, pieces: list) -> None:
    whole = tokenizer.encode(text)
    stream = TextStream(tokenizer)
    ids: list = []
    spans: list = []
    for edit in [*map(stream.feed, pieces), stream.finish()]:
        replay(ids, edit.new_ids, edit)
        replay(spans, edit.new_spans, edit)
    assert ids == stream.ids == whole.ids
    assert spans == stream.spans == whole.spans
    assert stream.num_chars == len(text)


@pytest.mark.parametrize("name", TOKENIZERS)
@few
@given(text=texts, sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6))
@example(text="she'll've", sizes=[1])
@example(text="e\u0301 e", sizes=[1])
@example(text="a  \n\n b", sizes=[1])
def test_text_cut_anywhere_ends_in_the_ids_of_the_whole(name, text, sizes):
    check_ends_as_whole(TOKENIZERS[name](), text, cut(text, sizes))


ENDLESS = {
    "letters": st.text("abcdefghijklmnopqrstuvwxyzé", min_size=1, max_size=30),
    "two letters": st.text("ab", min_size=1, max_size=30),
    "ideographs": st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), min_size=1, max_size=30),
    "rare letters": st.text("ꙮ𓀀𐎀ყ", min_size=1, max_size=6),
    "punctuation": st.text("-_=!'\"#*.,", min_size=1, max_size=12),
    "white space": st.text(" \t\n", min_size=1, max_size=6),
    "syllables": st.text("한각\u1112\u1161\u11ab", min_size=1, max_size=6),
}


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("name", TOKENIZERS)
@settings(few, max_examples=8)
@given(data=st.data(), end=st.sampled_from(["", " end", "'ll be", "!\n\n  \n", "\u0301", "\n.", "b's"]))
def test_an_endless_word_cut_anywhere_ends_in_the_ids_of_the_whole(name, kind, data, end):
    unit = data.draw(ENDLESS[kind])
    text = "x " + unit * (600 // len(unit)) + end
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    check_ends_as_whole(TOKENIZERS[name](), text, cut(text, sizes))


@pytest.mark.parametrize("name", TOKENIZERS)
@few
@given(text=texts, sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6))
@example(text="👩‍👩‍👧‍👦", sizes=[1])
def test_bytes_cut_inside_characters_end_in_the_ids_of_the_whole(name, text, sizes):
    check_ends_as_whole(TOKENIZERS[name](), text, cut(text.encode(), sizes))


@pytest.mark.parametrize("name", TOKENIZERS)
@few
@given(text=texts)
def test_spans_are_in_order_and_within_the_text(name, text):
    spans = TOKENIZERS[name]().encode(text).spans
    assert all(0 <= span.start < span.end <= len(text) for span in spans)
    assert [span.start for span in spans] == sorted(span.start for span in spans)


@pytest.mark.parametrize("name", TOKENIZERS)
@few
@given(text=texts, data=st.data())
def test_token_ids_fed_one_by_one_cover_the_text(name, text, data):
    """NFC may change the text itself, and SmolLM2 drops some bytes, so what counts is the text that the ids spell."""
    tokenizer = TOKENIZERS[name]()
    ids = tokenizer.encode(text).ids
    spelled = b"".join(map(tokenizer.token_bytes, ids)).decode(errors="replace")
    stream = TextStream(tokenizer)
    for piece in cut(ids, data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))):
        stream.feed_ids(piece)
    stream.finish()
    assert stream.ids == ids
    assert stream.num_chars == len(spelled)
    assert all(0 <= span.start < span.end <= len(spelled) for span in stream.spans)


def test_a_character_split_over_two_feeds_of_ids_is_one_character():
    tokenizer = smollm2()
    ids = next(found for text in "𓀀𐎀𝌆" if len(found := tokenizer.encode(text).ids) > 1)
    stream = TextStream(tokenizer)
    for token_id in ids:
        stream.feed_ids([token_id])
    assert stream.num_chars == 1
    assert {(span.start, span.end) for span in stream.spans} == {(0, 1)}


def test_a_pair_of_surrogates_cut_in_two_is_one_character():
    stream = TextStream(smollm2())
    first, second = "\ud83d", "\ude00"
    stream.feed(first)
    stream.feed(second)
    assert stream.ids == smollm2().encode("😀").ids


def test_a_lone_surrogate_and_half_a_character_become_replacement_characters():
    for piece in ("a\ud83d", "a😀".encode()[:3]):
        stream = TextStream(smollm2())
        stream.feed(piece)
        stream.finish()
        assert stream.ids == smollm2().encode("a\ufffd").ids


@pytest.fixture
def lengths(monkeypatch) -> list[int]:
    """Characters of each text that SmolLM2's tokenizer encodes from now on."""
    encode, found = smollm2().encode, []

    def counted(text):
        found.append(len(text))
        return encode(text)

    monkeypatch.setattr(smollm2(), "encode", counted)
    return found


def test_a_feed_costs_what_its_unsettled_end_costs(lengths):
    stream = TextStream(smollm2())
    for _ in range(2000):
        stream.feed("some words, ")
    assert max(lengths) < 60


@pytest.mark.parametrize("unit", ["ab", "abcdefghijklmnopq", "日本語の文章", "!?", "\n \t"])
def test_a_feed_into_an_endless_word_costs_no_more_the_longer_it_is(lengths, unit):
    stream = TextStream(smollm2())
    for _ in range(500):
        stream.feed(unit * (102 // len(unit)))
    assert max(lengths[-250:]) <= max(lengths[:250]) < 2000


@pytest.mark.parametrize("unit", ["\u0301", "-", " "])  # nothing to begin at; tokens of a hundred characters
def test_any_feed_costs_at_most_a_few_thousand_characters(lengths, unit):
    stream = TextStream(smollm2())
    for _ in range(500):
        stream.feed(unit * 100)
    assert stream.num_chars == 50_000
    assert max(lengths) < 10_000


def test_an_id_out_of_range_leaves_the_stream_as_it_was():
    stream = TextStream(smollm2())
    stream.feed("hello wor")
    before = list(stream.ids)
    for bad in (-1, 10**6):
        with pytest.raises(InputError, match="out of range"):
            stream.feed_ids([5, bad])
    assert stream.ids == before
    stream.feed("ld")
    assert stream.ids == smollm2().encode("hello world").ids


def test_frame_tokens_cover_no_characters():
    stream = TextStream(smollm2())
    stream.feed("ab")
    edit = stream.feed_template_tokens([1, 2])
    stream.feed("cd")
    assert edit.new_ids[-2:] == [1, 2]
    assert [(span.start, span.end) for span in stream.spans[-3:]] == [(2, 2), (2, 2), (2, 4)]


@pytest.mark.parametrize("name", TOKENIZERS)
@few
@given(text=texts, more=texts, sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), at=st.floats(0, 1))
def test_a_truncated_text_that_goes_on_ends_in_the_ids_of_what_is_left(name, text, more, sizes, at):
    tokenizer = TOKENIZERS[name]()
    stream, ids, spans = TextStream(tokenizer), [], []
    num_left = round(at * len(text))
    edits = [*map(stream.feed, cut(text, sizes)), stream.truncate(num_left)]
    edits += [*map(stream.feed, cut(more, sizes)), stream.truncate(num_left + len(more) // 2), stream.finish()]
    for edit in edits:
        replay(ids, edit.new_ids, edit)
        replay(spans, edit.new_spans, edit)
    whole = tokenizer.encode(text[:num_left] + more[: len(more) // 2])
    assert ids == stream.ids == whole.ids
    assert spans == stream.spans == whole.spans


def test_a_text_is_truncated_behind_token_ids_and_template_tokens_only():
    tokenizer = smollm2()
    stream = TextStream(tokenizer)
    stream.feed("one two")
    stream.feed_ids(tokenizer.encode(" three").ids)
    stream.feed(" four five")
    stream.truncate(len("one two three four"))
    assert stream.num_chars == len("one two three four")
    with pytest.raises(InputError, match="token ids"):
        stream.truncate(3)
    with pytest.raises(InputError, match="num_chars"):
        stream.truncate(100)
