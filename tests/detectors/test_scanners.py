"""What each detector finds, and what it leaves alone."""

import pytest

from streamward.detectors.config import DetectorConfig
from streamward.detectors.detectors import Detectors
from streamward.detectors.masker import Masker, mask_json, mask_text
from streamward.detectors.vault import Vault

LONG = "abcd1234EFGH5678" * 3
CUT_OFF = f"-----BEGIN PRIVATE KEY-----\n{LONG}\n{LONG}"


def found(text: str, type: str, **keys: object) -> list[str]:
    detectors = Detectors.compile([DetectorConfig.model_validate({"type": type, **keys})])
    return [text[each.start : each.end] for each in mask_text(detectors, text).findings]


def masked(text: str, *tables: dict, vault: Vault | None = None, environ: dict[str, str] | None = None) -> str:
    detectors = Detectors.compile([DetectorConfig.model_validate(table) for table in tables], environ=environ or {})
    return mask_text(detectors, text, vault=vault).text


@pytest.mark.parametrize(
    ("type", "text", "expected"),
    [
        ("email", "write to jo.doe+x@mail.example.co.uk.", ["jo.doe+x@mail.example.co.uk"]),
        ("email", "info@münchen.de", ["info@münchen.de"]),
        ("email", "EMAIL='user@example.com'", ["user@example.com"]),
        ("email", "a @ b, @name, x@localhost", []),
        ("phone", "+49 170 1234567 or 0044 20 7946 0958", ["+49 170 1234567", "0044 20 7946 0958"]),
        ("phone", "(415) 555-2671", ["(415) 555-2671"]),
        ("phone", "call 4155552671", ["4155552671"]),
        ("phone", "4155552671, 2024-01-31, 0.227027833, 1990-2010, 3.14159265", []),
        ("card", "4111 1111 1111 1111 12/27", ["4111 1111 1111 1111"]),
        ("card", "378282246310005, 5555-5555-5555-4444", ["378282246310005", "5555-5555-5555-4444"]),
        ("card", "4111 1111 1111 1112 and 1234567812345670", []),
        ("iban", "GB29 NWBK 6016 1331 9268 19 and more", ["GB29 NWBK 6016 1331 9268 19"]),
        ("iban", "GB29 NWBK 6016 1331 9268 18, DE8937040044053201300", []),
        ("national_id", "123-45-6789, 666-45-6789, 000-45-6789", ["123-45-6789"]),
        ("national_id", "PESEL: 44051401359", ["44051401359"]),
        ("national_id", "order 44051401359, 111.444.777-34", []),
        ("ip", "203.0.113.7, 2001:db8::7:1: end", ["203.0.113.7", "2001:db8::7:1"]),
        ("ip", "[::ffff:203.0.113.9]", ["::ffff:203.0.113.9"]),
        ("ip", "127.0.0.1 ::1 12:30:45 1.2.3.4.5 300.1.1.1 255.255.255.0 std::vector dead::beef v1.2.3.4", []),
        ("url_credentials", "postgres://bob:s3cret@db/x", ["bob:s3cret"]),
        ("url_credentials", "https://user:password@host https://example.com/a:b@c", []),
        ("api_key", "AKIAIOSFODNN7EXAMPLE", ["AKIAIOSFODNN7EXAMPLE"]),
        ("api_key", "x sk-proj-abcDEF123456ghiJKL789.", ["sk-proj-abcDEF123456ghiJKL789"]),
        ("api_key", "api_key = 'a1b2c3d4e5f6a7b8', password: hunter2x9.", ["a1b2c3d4e5f6a7b8", "hunter2x9"]),
        ("api_key", "sk-aaaaaaaaaaaaaaaaaaaaaaaa, password = box2.Text1, token: someone", []),
        ("private_key", f"x -----BEGIN PRIVATE KEY-----\\n{LONG}\\n-----END PRIVATE KEY----- y", None),
        ("private_key", f"{CUT_OFF}\nThen we", [CUT_OFF]),
        ("private_key", "a key begins with -----BEGIN PRIVATE KEY----- and so on", []),
    ],
)  # fmt: skip
def test_what_is_found(type: str, text: str, expected: list[str] | None) -> None:
    assert found(text, type) == ([text[2:-2]] if expected is None else expected)


def test_national_numbers_are_found_for_the_regions_that_are_meant() -> None:
    assert found("Tel. 030 901820", "phone", regions=["DE"]) == ["030 901820"]
    assert found("Tel. 030 901820", "phone", regions=["US"]) == []


def test_identity_numbers_are_found_for_the_countries_that_are_meant() -> None:
    assert found("111.444.777-35 123-45-6789", "national_id", countries=["br"]) == ["111.444.777-35"]


def test_words_stand_alone_and_the_longest_entry_counts() -> None:
    words = ["blue", "blue bird", "東京", "über"]
    assert found("Blue  bird, bluer, BLUE. 東京都 Über", "words", words=words) == ["Blue  bird", "BLUE", "東京", "Über"]


def test_exceptions_suppress_what_lies_within_them() -> None:
    keys = {"words": ["bomb"], "exceptions": ["bath bomb"], "exception_patterns": ["BOMB"]}
    assert found("a bath bomb, a bomb", "words", **keys) == []  # expressions of exceptions ignore case
    assert found("a bath bomb, a bomb", "words", **(keys | {"exception_patterns": []})) == ["bomb"]
    assert found("jo@our.com eve@x.com", "email", exception_patterns=[r".*@our\.com"]) == ["eve@x.com"]


def test_an_allow_list_suppresses_what_all_detectors_find_within_it() -> None:
    allowed = {"type": "words", "words": ["help@example.com"], "action": "allow"}
    assert masked("help@example.com xhelp@example.com", allowed, {"type": "email"}) == "help@example.com [EMAIL]"


def test_expressions_match_in_linear_time() -> None:
    assert found("a" * 30000 + "!", "regex", patterns=["(a+)+b"]) == []


def test_a_match_is_at_most_as_long_as_the_table_says() -> None:
    assert found("x" * 10, "regex", patterns=["x+"], max_chars=4) == ["xxxx", "xxxx", "xx"]


def test_of_spans_that_overlap_the_outer_one_counts_and_a_later_one_is_cut() -> None:
    tables = [
        {"type": "regex", "id": "a", "patterns": ["abcd"], "label": "A"},
        {"type": "regex", "id": "b", "patterns": ["bc"], "label": "B"},
        {"type": "regex", "id": "c", "patterns": ["cdef"], "label": "C"},
    ]
    assert masked("abcdef bc", *tables) == "[A][C] [B]"


def test_styles() -> None:
    text, environ = "jo@example.com 4111 1111 1111 1111 jo@example.com", {"KEY": "k" * 32}
    email, card = {"type": "email", "style": "reversible"}, {"type": "card", "style": "last_four"}
    assert masked(text, email, card, vault=Vault()) == "[EMAIL_1] **** **** **** 1111 [EMAIL_1]"
    assert masked(text, email, card) == "[EMAIL] **** **** **** 1111 [EMAIL]"
    hashed = {"type": "email", "style": "hash", "hash_key_env": "KEY"}
    first, *_, last = masked(text, hashed, environ=environ).split()
    assert first == last != masked("eve@example.com", hashed, environ=environ)
    assert len(first) == len("[EMAIL:]") + 12
    assert first != masked("jo@example.com", hashed, environ={"KEY": "q" * 32})


def test_short_texts_keep_no_last_four() -> None:
    assert masked("ab1234", {"type": "regex", "patterns": [r"\w+"], "style": "last_four"}) == "******"


@pytest.mark.parametrize("text", ["Hello ", "I have 3 apples and ", "no. ", "It is (really) ", "look: "])
def test_prose_is_released_at_once(text: str) -> None:
    types = ("email", "iban", "api_key", "private_key", "url_credentials", "ip", "card", "phone")
    masker = Masker(Detectors.compile([DetectorConfig.model_validate({"type": each}) for each in types]))
    assert masker.feed(text).text == text


def test_what_is_held_back_is_bounded() -> None:
    detectors = Detectors.compile([DetectorConfig(type="email"), DetectorConfig(type="card")])
    masker = Masker(detectors)
    most = 0
    for _ in range(400):
        masker.feed("4a.1-")
        most = max(most, masker.fed - masker.released)
    assert 0 < most <= sum(each.scanner.max_chars for each in detectors.all)


def test_context_is_read_and_never_released() -> None:
    detectors = Detectors.compile([DetectorConfig(type="card"), DetectorConfig(type="national_id")])
    assert mask_text(detectors, "44051401359 x", context="PESEL ").text == "[NATIONAL_ID] x"
    assert mask_text(detectors, "1111 1111 x", context="4111 1111 ").text == "[CARD] x"


def test_the_name_before_a_string_of_json_is_its_context() -> None:
    detectors = Detectors.compile([DetectorConfig(type="api_key"), DetectorConfig(type="national_id")])
    assert mask_json(detectors, '{"password": "hunter2x9", "pesel": "44051401359", "n": 44051401359}').text == (
        '{"password": "[API_KEY]", "pesel": "[NATIONAL_ID]", "n": "[NATIONAL_ID]"}'
    )


def test_arguments_that_are_no_json_are_masked_as_text() -> None:
    detectors = Detectors.compile([DetectorConfig(type="ip")])
    assert mask_json(detectors, "ping 2001:db8::1, now").text == "ping [IP], now"
