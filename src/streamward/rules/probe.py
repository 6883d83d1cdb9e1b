"""Taught rules: linear heads on normalised hidden states of a Stream guard, pooled over time, and their file."""

# Shapes: T tokens; L taps; D hidden size; N rules; C channels.

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from streamward.errors import ConfigError
from streamward.schema import Side

Floats = NDArray[np.float32]
PROBE_SUFFIX = ".probe.safetensors"
"""A policy `house.toml` keeps its taught rules in `house.probe.safetensors` beside it."""
FORMAT = "streamward-probe-2"


@dataclass(frozen=True, slots=True)
class Channel:
    """One pooled linear score of a rule.

    Attributes:
        is_gate: Whether it says that a text is on the rule's matter at all; else that it breaks the rule rather than
            being one of its allowed look-alikes.
        window: Tokens it is averaged over, the newest among them; 0 for all tokens of the text so far.
        is_contrast: Whether, in a response, a share of the average over what stands well before these tokens is taken
            off: it tells where a text changes from what kind of text it is.
    """

    is_gate: bool
    window: int
    is_contrast: bool = False


CHANNELS = (Channel(False, 6, is_contrast=True), Channel(True, 24), Channel(True, 0))
CONTRAST = 0.6
"""Share of the average over earlier tokens that a contrast takes off."""
CONTRAST_LAG = 12
"""Newest tokens that are not in that average."""
CONTRAST_PRIOR = 16
"""Tokens of ordinary traffic, whose average is 0, that are counted in as well, so that few tokens weigh little."""
GATE_MIX = 0.5
"""Share of the score for violations that is added to that of the gate: what clearly breaks a rule needs less of its
matter, which costs fewer violations at the same rate of false positives than two separate thresholds."""
WARM_TOKENS = 4
"""Tokens of a response that are not scored, unless it has no more: averages over so few are noise."""


@dataclass(frozen=True, slots=True)
class RuleProbe:
    """The learnt probe of one rule.

    Attributes:
        rule_id: The rule.
        digest: Digest of the rule's text and examples when it was taught; tells whether they changed since.
        sides: Sides it was taught on.
        weights: [C, L, D], float32.
        biases: Added to the sums of the two kinds of channels: look-alikes first, gate second.
        thresholds: What the two scores must reach, in the same order, by side: the highest of many tokens of a response
            is higher than the one of a prompt.
        scales: One logistic unit of each sum.
    """

    rule_id: str
    digest: str
    sides: frozenset[Side]
    weights: Floats
    biases: tuple[float, float]
    thresholds: Mapping[Side, tuple[float, float]]
    scales: tuple[float, float]


@dataclass(frozen=True, eq=False)
class ProbeBank:
    """All taught rules of a policy, for one guard.

    Attributes:
        guard: Name of the guard.
        fingerprint: Fingerprint of the guard's weights; hidden states of others mean something else.
        taps: Decoder layers whose outputs are read.
        means: By side, [L, D]: hidden states of ordinary traffic.
        deviations: Likewise, standard deviations.
        rules: What was learnt.
        digest: Digest of all of it.
    """

    guard: str
    fingerprint: str
    taps: tuple[int, ...]
    means: Mapping[Side, Floats]
    deviations: Mapping[Side, Floats]
    rules: tuple[RuleProbe, ...]
    digest: str = ""

    def __eq__(self, other: object) -> bool:
        """Compare by content."""
        return isinstance(other, ProbeBank) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def rule_ids(self) -> frozenset[str]:
        """Ids of the rules that were learnt."""
        return frozenset(rule.rule_id for rule in self.rules)

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        tensors: dict[str, NDArray[Any]] = {}  # Any: float16 and float32
        for side in Side:
            tensors[f"{side}.mean"] = self.means[side].astype(np.float32)
            tensors[f"{side}.deviation"] = self.deviations[side].astype(np.float32)
        for index, rule in enumerate(self.rules):
            tensors[f"rule.{index:03}"] = rule.weights.astype(np.float16)
        facts = {
            "format": FORMAT,
            "guard": self.guard,
            "fingerprint": self.fingerprint,
            "taps": list(self.taps),
            "channels": _CHANNEL_FACTS,
            "rules": [_facts(rule) for rule in self.rules],
        }
        return save(tensors, metadata={"probe": json.dumps(facts, sort_keys=True)})

    @classmethod
    def from_bytes(cls, data: bytes, *, source: str) -> "ProbeBank":
        """Read the content of a file.

        Raises:
            ConfigError: It is no file of taught rules, is damaged, or is of another version.
        """
        try:
            length = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + length])["__metadata__"]
            facts = json.loads(header["probe"])
            is_current = facts["format"] == FORMAT and facts["channels"] == _CHANNEL_FACTS
        except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{source} is not a usable file of taught rules; run `streamward teach` again") from error
        if not is_current:
            raise ConfigError(f"{source} was taught by another version of Streamward; run `streamward teach` again")
        try:
            tensors = load(data)
            rules = tuple(_rule(tensors[f"rule.{i:03}"], each) for i, each in enumerate(facts["rules"]))
            means = {side: tensors[f"{side}.mean"] for side in Side}
            deviations = {side: tensors[f"{side}.deviation"] for side in Side}
            bank = cls(
                str(facts["guard"]),
                str(facts["fingerprint"]),
                tuple(int(tap) for tap in facts["taps"]),
                means,
                deviations,
                rules,
                hashlib.sha256(data).hexdigest()[:16],
            )
        except (SafetensorError, ValueError, KeyError, TypeError, IndexError, UnicodeDecodeError) as error:
            raise ConfigError(f"{source} is not a usable file of taught rules; run `streamward teach` again") from error
        bank.check(source)
        return bank

    def check(self, source: str) -> None:
        """Refuse numbers that could not have been learnt.

        Raises:
            ConfigError: A shape does not fit the others, or a value is not finite.
        """
        shape = (len(self.taps), *self.means[Side.PROMPT].shape[1:])
        arrays = [*self.means.values(), *self.deviations.values()]
        is_sound = all(each.shape == shape for each in arrays) and all(
            rule.weights.shape == (len(CHANNELS), *shape) for rule in self.rules
        )
        values = [*arrays, *(rule.weights for rule in self.rules)]
        numbers = [x for rule in self.rules for x in (*rule.biases, *rule.scales, *chain(*rule.thresholds.values()))]
        if not is_sound or not np.isfinite(numbers).all() or not all(np.isfinite(each).all() for each in values):
            raise ConfigError(f"{source} is damaged: its numbers do not fit each other; run `streamward teach` again")


_CHANNEL_FACTS = [[*astuple(channel)] for channel in CHANNELS] + [[CONTRAST, CONTRAST_LAG, CONTRAST_PRIOR, GATE_MIX]]


def probe_path(policy: Path) -> Path:
    """Return where a policy file's taught rules are kept."""
    return policy.with_name(policy.stem + PROBE_SUFFIX)


def read_probe(path: Path) -> ProbeBank:
    """Read a file of taught rules.

    Raises:
        FileNotFoundError: It is not there.
        ConfigError: It cannot be read or is damaged.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    return ProbeBank.from_bytes(data, source=repr(str(path)))


def _facts(rule: RuleProbe) -> dict[str, object]:
    return {
        "id": rule.rule_id,
        "digest": rule.digest,
        "sides": sorted(side.value for side in rule.sides),
        "biases": rule.biases,
        "thresholds": {side.value: pair for side, pair in rule.thresholds.items()},
        "scales": rule.scales,
    }


def _rule(weights: NDArray[Any], facts: Mapping[str, Any]) -> RuleProbe:  # Any: float16, JSON values
    return RuleProbe(
        str(facts["id"]),
        str(facts["digest"]),
        frozenset(Side(side) for side in facts["sides"]),
        weights.astype(np.float32),
        _pair(facts["biases"]),
        {side: _pair(facts["thresholds"][side.value]) for side in Side},
        _pair(facts["scales"]),
    )


def _pair(values: Sequence[Any]) -> tuple[float, float]:  # Any: JSON values
    first, second = values
    return float(first), float(second)
