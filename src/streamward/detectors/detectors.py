"""The detectors of a policy, ready to scan."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from streamward.detectors.api_keys import api_key_scanner
from streamward.detectors.config import DetectorConfig
from streamward.detectors.contact import email_scanner, phone_scanner
from streamward.detectors.expressions import expression_scanner, full_matcher
from streamward.detectors.finding import DetectorTarget
from streamward.detectors.national_ids import national_id_scanner
from streamward.detectors.network import ip_scanner, url_credentials_scanner
from streamward.detectors.payment import card_scanner, iban_scanner
from streamward.detectors.private_keys import PrivateKeyScanner
from streamward.detectors.scanning import Scanner, TextPattern
from streamward.detectors.vault import Vault, keyed_hash, last_four
from streamward.detectors.words import WordScanner
from streamward.errors import ConfigError

_MIN_KEY_CHARS = 32


@dataclass(frozen=True, slots=True)
class CompiledDetector:
    """One detector.

    Attributes:
        config: Its table.
        scanner: Finds its spans.
        exceptions: Finds the phrases within which it finds nothing; None if there are none.
        exception_pattern: Matches what is no finding; None if there is none.
        replacement: Returns what stands in place of a text. Without a vault, reversible placeholders have no number.
    """

    config: DetectorConfig
    scanner: Scanner
    exceptions: Scanner | None
    exception_pattern: TextPattern | None
    replacement: Callable[[str, Vault | None], str]


class Detectors:
    """Detectors that read the same texts. Has no state; share it."""

    def __init__(self, detectors: Sequence[CompiledDetector] = ()) -> None:
        """Take detectors in the order of their tables: of equal spans, the first one's counts."""
        self.all = tuple(detectors)

    @classmethod
    def compile(cls, configs: Sequence[DetectorConfig], *, environ: Mapping[str, str] | None = None) -> "Detectors":
        """Build the detectors of a policy.

        Args:
            configs: Its tables.
            environ: Where keys are; by default the environment of the process.

        Raises:
            ConfigError: A package or a key is missing.
        """
        variables = os.environ if environ is None else environ
        return cls([_compile(config, variables) for config in configs])

    def restoring(self, vault: Vault) -> "Detectors":
        """Return these and one that finds the placeholders of a vault, which are replaced by what they stand for.

        The placeholders are those the vault has now.
        """
        originals = {placeholder.lower(): original for placeholder, original in vault.originals.items()}
        if not originals:
            return self
        restorer = CompiledDetector(
            DetectorConfig(type="words", id="restored", words=tuple(originals)),
            WordScanner(originals),
            None,
            None,
            lambda text, _: originals[text.lower()],
        )
        return Detectors([restorer, *self.all])

    def for_target(self, target: DetectorTarget) -> "Detectors":
        """Return those that read a kind of text."""
        return Detectors([each for each in self.all if target in each.config.applies_to])

    def __bool__(self) -> bool:
        return bool(self.all)


@lru_cache(maxsize=64)
def compiled(configs: tuple[DetectorConfig, ...]) -> Detectors:
    """Return the detectors of a policy, built once; see `Detectors.compile`."""
    return Detectors.compile(configs)


def _compile(config: DetectorConfig, environ: Mapping[str, str]) -> CompiledDetector:
    key = ""
    if config.hash_key_env is not None:
        key = environ.get(config.hash_key_env, "")
        if len(key) < _MIN_KEY_CHARS:
            raise ConfigError(
                f"the environment variable {config.hash_key_env} (detectors.hash_key_env) must hold a key of at least"
                f" {_MIN_KEY_CHARS} characters, such as the output of: openssl rand -hex 32"
            )
    return CompiledDetector(
        config,
        _scanner(config),
        WordScanner(config.exceptions) if config.exceptions else None,
        full_matcher(config.exception_patterns) if config.exception_patterns else None,
        _replacement(config, key.encode("utf-8", "surrogateescape")),
    )


def _replacement(config: DetectorConfig, key: bytes) -> Callable[[str, Vault | None], str]:
    label = config.shown_label
    match config.style:
        case "hash":
            return lambda text, _: keyed_hash(label, text, key)
        case "last_four":
            return lambda text, _: last_four(text)
        case "reversible":
            return lambda text, vault: f"[{label}]" if vault is None else vault.placeholder(label, text)
        case "placeholder":
            return lambda _, __: f"[{label}]"


def _scanner(config: DetectorConfig) -> Scanner:
    match config.type:
        case "email":
            return email_scanner()
        case "phone":
            return phone_scanner(config.regions)
        case "card":
            return card_scanner()
        case "iban":
            return iban_scanner()
        case "national_id":
            return national_id_scanner(config.countries)
        case "ip":
            return ip_scanner()
        case "url_credentials":
            return url_credentials_scanner()
        case "api_key":
            return api_key_scanner()
        case "private_key":
            return PrivateKeyScanner()
        case "regex":
            return expression_scanner(config.patterns, max_chars=config.max_chars, ignores_case=config.ignore_case)
        case "words":
            return WordScanner(config.words)
