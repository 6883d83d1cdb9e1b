"""JSON without its traps."""

import pytest

from streamward.gateway.strict_json import MAX_DEPTH, dump, parse_answer, parse_object

TRAPS = [
    b"",
    b"1",
    b'"x"',
    b"[]",
    b"\xff{}",
    b'{"a": NaN}',
    b'{"a": Infinity}',
    b'{"a": 1e999}',
    b'{"a": -1e999}',
    b'{"a": ' + b"1" * 5000 + b"}",
    b'{"a": 1',
    b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"a": ' + b'{"a": ' * MAX_DEPTH + b"1" + b"}" * (MAX_DEPTH + 1),
]


@pytest.mark.parametrize("text", TRAPS, ids=range(len(TRAPS)))
def test_what_other_parsers_may_read_otherwise_is_refused(text):
    with pytest.raises(ValueError, match=r"it is|nested") as caught:
        parse_object(text)
    assert "NaN" not in str(caught.value)


def test_many_lists_beside_each_other_are_not_deep():
    assert parse_object('{"a": [' + ",".join(["[]"] * 1000) + "]}")["a"] == [[]] * 1000


def test_of_a_name_given_twice_one_value_is_left():
    assert dump(parse_object('{"a": 1, "a": "\\ud83d"}')) == b'{"a":"?"}'


def test_numbers_without_end_in_an_answer_are_read_and_written_as_null():
    assert dump(parse_answer('[{"a": NaN, "b": [-Infinity, 1e999]}, 0.5, "NaN"]')) == (
        b'[{"a":null,"b":[null,null]},0.5,"NaN"]'
    )


def test_what_clients_take_for_line_ends_is_escaped():
    written = dump({"a\u2028": "b\u2029c\x85\n"})
    assert written == b'{"a\\u2028":"b\\u2029c\\u0085\\n"}'
    assert parse_object(written) == {"a\u2028": "b\u2029c\x85\n"}
