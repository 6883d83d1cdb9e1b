"""The `[[detectors]]` tables of a policy: what they accept, and what they say of what they do not."""

import importlib.util

import pytest

from streamward.detectors.detectors import Detectors
from streamward.errors import ConfigError
from streamward.policy import Policy

EXPRESSION = {"type": "regex", "patterns": ["a+b"]}


def parse(*tables: dict) -> Policy:
    return Policy.parse({"name": "p", "detectors": list(tables)}, source="p.toml")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"type": "emial"}, "did you mean 'email'"),
        ({"type": "email", "action": "maks"}, r"detectors\[0\].action must be .*did you mean 'mask'"),
        ({"type": "email", "applies_to": ["promt"]}, "did you mean 'prompt'"),
        ({"type": "email", "stile": "hash"}, r"detectors\[0\].stile is unknown; did you mean 'style'"),
        ({"type": "email", "words": ["x"]}, "`words` belongs to type words; this detector is of type email"),
        ({"type": "regex"}, "a detector of type regex needs `patterns`"),
        ({"type": "regex", "patterns": ["(a"]}, "unterminated"),
        ({"type": "regex", "patterns": ["a*"]}, "matches the empty text"),
        ({"type": "regex", "patterns": ["(?=a)b"]}, "RE2 does not support"),
        ({"type": "regex", "patterns": [r"(a)\1"]}, "is not supported in a stream"),
        ({"type": "phone", "regions": ["XQ"]}, "'XQ' is not a country"),
        ({"type": "national_id", "countries": ["xq"]}, "'xq' is not known; known are ar, at"),
        ({"type": "email", "style": "hash"}, "style hash needs `hash_key_env`"),
        ({"type": "email", "hash_key_env": "KEY"}, "no other style has it"),
        ({"type": "email", "action": "allow", "exceptions": ["x"]}, "whose action is allow has no exceptions"),
        ({"type": "email", "exception_patterns": ["(a"]}, "unterminated"),
        ({"type": "words", "words": [" "]}, "must not be empty"),
    ],
)
def test_what_is_wrong_is_told_with_its_key(table: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(table)


def test_two_detectors_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two detectors are called email; give one of them another `id`"):
        parse({"type": "email"}, {"type": "email", "action": "flag"})


@pytest.mark.parametrize("table", [{"type": "phone"}, {"type": "iban"}, {"type": "national_id"}, EXPRESSION])
def test_a_package_that_is_missing_is_told_by_its_extra(table: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    missing = ("phonenumbers", "stdnum", "re2")
    monkeypatch.setattr("streamward.detectors.config.find_spec", lambda name: None if name in missing else found(name))
    with pytest.raises(ConfigError, match=r"needs the extra pii; install it with: pip install 'streamward\[pii\]'"):
        parse(table)


def test_the_key_of_hashes_is_long_enough() -> None:
    policy = parse({"type": "email", "style": "hash", "hash_key_env": "KEY"})
    with pytest.raises(ConfigError, match=r"KEY .* at least 32 characters"):
        Detectors.compile(policy.detectors, environ={"KEY": "short"})


def test_a_policy_survives_being_written_down() -> None:
    policy = parse({"type": "email", "exceptions": ["a@b.com"]}, EXPRESSION)
    assert Policy.model_validate(policy.model_dump(mode="json")) == policy
