"""The `[[detectors]]` tables of a policy."""

import re
from importlib.util import find_spec
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from streamward.detectors.expressions import expression_scanner, full_matcher
from streamward.detectors.finding import DetectorAction, DetectorTarget
from streamward.detectors.national_ids import COUNTRIES
from streamward.settings import Settings
from streamward.suggestions import suggest

DetectorType = Literal[
    "email",
    "phone",
    "card",
    "iban",
    "national_id",
    "ip",
    "url_credentials",
    "api_key",
    "private_key",
    "regex",
    "words",
]
_NEEDED_MODULES = {"phone": "phonenumbers", "iban": "stdnum", "national_id": "stdnum", "regex": "re2"}
_KEYS_OF_TYPES = {
    "patterns": ("regex",),
    "max_chars": ("regex",),
    "words": ("words",),
    "regions": ("phone",),
    "countries": ("national_id",),
    "ignore_case": ("regex",),
}
DEFAULT_REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "BR", "IN", "JP", "CN", "KR", "MX")
Entry = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=256)]
Expression = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class DetectorConfig(Settings):
    """One detector of a policy: what is looked for, where, and what happens to it."""

    type: DetectorType
    """Kind of text that is detected."""
    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")] | None = None
    """Named in findings, decisions and logs. None: the type."""
    action: DetectorAction = DetectorAction.MASK
    """mask: replaced. block: the text is blocked, as a guard would. flag: reported. allow: within what this detector
    finds, no other finds anything."""
    style: Literal["placeholder", "reversible", "hash", "last_four"] = "placeholder"
    """Text that replaces a masked span. placeholder: `[EMAIL]`. reversible: `[EMAIL_1]`, numbered in each
    conversation and put back in the answer. hash: `[EMAIL:1f8a0c2b9d3e]`, keyed. last_four: all but the last four
    letters and digits become `*`."""
    label: Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{0,31}$")] | None = None
    """The word in the placeholder. None: the id, or else the type, in capitals."""
    applies_to: tuple[DetectorTarget, ...] = Field(default=tuple(DetectorTarget), min_length=1)
    """Texts that the detector reads."""
    exceptions: tuple[Entry, ...] = ()
    """Words or phrases within which nothing is found, in either case."""
    exception_patterns: tuple[Expression, ...] = ()
    """Expressions of RE2; what one of them matches as a whole is no finding."""
    hash_key_env: Annotated[str, StringConstraints(pattern="^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """Environment variable with the key of style hash, at least 32 characters."""
    regions: tuple[str, ...] = DEFAULT_REGIONS
    """For type phone: countries whose national numbers are found without a country code in front, by ISO 3166 code."""
    countries: tuple[str, ...] = COUNTRIES
    """For type national_id: countries whose numbers are found, by ISO 3166 code in lower case."""
    patterns: tuple[Expression, ...] = ()
    """For type regex: expressions of RE2, matched in linear time; classes such as `\\d` and `\\w` are ASCII's."""
    ignore_case: bool = False
    """For type regex: if true, letters match in either case."""
    max_chars: int = Field(default=256, ge=1, le=4096)
    """For type regex: maximum length of a match, which bounds the text that is held back of a stream."""
    words: tuple[Entry, ...] = ()
    """For type words: words and phrases, in either case."""

    @field_validator("countries")
    @classmethod
    def _knows_the_countries(cls, countries: tuple[str, ...]) -> tuple[str, ...]:
        for country in countries:
            if country not in COUNTRIES:
                raise ValueError(f"{country!r} is not known; known are {', '.join(COUNTRIES)}")
        return countries

    @field_validator("regions")
    @classmethod
    def _knows_the_regions(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        if find_spec("phonenumbers") is not None:
            from phonenumbers import SUPPORTED_REGIONS

            for region in regions:
                if region not in SUPPORTED_REGIONS:
                    near = suggest(region, SUPPORTED_REGIONS)
                    raise ValueError(f"{region!r} is not a country with a numbering plan, as 'DE' is{near}")
        return regions

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        for key, types in _KEYS_OF_TYPES.items():
            is_given = getattr(self, key) != type(self).model_fields[key].default
            if is_given and self.type not in types:
                raise ValueError(f"`{key}` belongs to type {' or '.join(types)}; this detector is of type {self.type}")
        for key in ("patterns", "words"):
            if self.type in _KEYS_OF_TYPES[key] and not getattr(self, key):
                raise ValueError(f"a detector of type {self.type} needs `{key}`")
        if (self.style == "hash") != (self.hash_key_env is not None):
            raise ValueError("style hash needs `hash_key_env`, and no other style has it")
        if self.action is DetectorAction.ALLOW and (self.exceptions or self.exception_patterns):
            raise ValueError("a detector whose action is allow has no exceptions")
        return self

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        module = _NEEDED_MODULES.get(self.type)
        if module is not None and find_spec(module) is None:
            raise ValueError(
                f"a detector of type {self.type} needs the extra pii; install it with: pip install 'streamward[pii]'"
            )
        if self.patterns:
            expression_scanner(self.patterns, max_chars=self.max_chars, ignores_case=self.ignore_case)
        if self.exception_patterns:
            full_matcher(self.exception_patterns)
        return self

    @property
    def name(self) -> str:
        """The id, or the type where there is none."""
        return self.id or self.type

    @property
    def shown_label(self) -> str:
        """The word in the placeholder."""
        return self.label or re.sub("[^A-Z0-9]", "_", self.name.upper())
