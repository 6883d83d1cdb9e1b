"""Scores of further classifiers that read the hidden states of chosen layers ("taps") at the tokens the heads score."""

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streamward.errors import ConfigError
from streamward.reasons import defect
from streamward.schema import Side

logger = logging.getLogger(__name__)

FINAL = -1
"""Tap after the final norm: the hidden states that the guard's heads read."""


class TokenProbe(Protocol):
    """A classifier over hidden states, evaluated at every token that the heads of its sides score.

    Attributes:
        name: Unique within an engine.
        layers: Taps: i from 0 up is the residual stream after decoder layer i, before any norm; `FINAL` is the state
            after the final norm.
        sides: Sides whose tokens are scored.
        num_scores: Scores per token.
    """

    name: str
    layers: tuple[int, ...]
    sides: frozenset[Side]
    num_scores: int

    def score(self, side: Side, hidden: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return scores [n, num_scores]; row i must depend on row i of the inputs only.

        Args:
            side: Side that the tokens belong to.
            hidden: For each of `layers`, the states [n, hidden size] of n tokens of any sequences of one step.
        """
        ...


class ProbeSet:
    """The probes of one engine."""

    def __init__(self, *, num_layers: int) -> None:
        """Start without probes.

        Args:
            num_layers: Decoder layers of the model.
        """
        self._num_layers = num_layers
        self._probes: dict[str, TokenProbe] = {}
        self._failed: set[str] = set()

    @property
    def taps(self) -> tuple[int, ...]:
        """Taps that any probe reads, ascending."""
        return tuple(sorted({layer for probe in self._probes.values() for layer in probe.layers}))

    def add(self, probe: TokenProbe) -> None:
        """Add a probe.

        Raises:
            ConfigError: A probe of this name exists, or the model has no such layer.
        """
        if probe.name in self._probes:
            raise ConfigError(f"the engine has a probe {probe.name!r} already; remove it first")
        wrong = [layer for layer in probe.layers if not FINAL <= layer < self._num_layers]
        if wrong or not probe.layers:
            raise ConfigError(
                f"probe {probe.name!r} reads the layers {list(probe.layers)}; taps are 0 to {self._num_layers - 1},"
                f" and {FINAL} for the state after the final norm"
            )
        self._probes[probe.name] = probe

    def remove(self, name: str) -> None:
        """Remove a probe; one that does not exist is no error."""
        self._probes.pop(name, None)
        self._failed.discard(name)

    def score(
        self, side: Side, taps: Mapping[int, NDArray[np.float32]], rows: Sequence[int]
    ) -> dict[str, NDArray[np.float32]]:
        """Return the scores [len(rows), K] of every probe of a side, by name.

        A probe that raises, or returns another shape, gives NaN: its scores are missing while those of the heads stay
        valid. The first failure of a probe is logged.

        Args:
            side: Side of the tokens.
            taps: Hidden states [T, D] by tap.
            rows: Rows of the tokens to score.
        """
        found: dict[str, NDArray[np.float32]] = {}
        for name, probe in self._probes.items():
            if side in probe.sides:
                found[name] = self._score(probe, side, [taps[layer][rows] for layer in probe.layers], len(rows))
        return found

    def _score(
        self, probe: TokenProbe, side: Side, hidden: Sequence[NDArray[np.float32]], num_rows: int
    ) -> NDArray[np.float32]:
        shape = (num_rows, probe.num_scores)
        try:
            scores = np.asarray(probe.score(side, hidden), dtype=np.float32)
            if scores.shape != shape:
                raise ValueError(f"the probe returned scores of shape {scores.shape}; expected {shape}")
        except Exception as error:  # whatever it is: a probe must not end the guard's own verdicts
            if probe.name not in self._failed:
                self._failed.add(probe.name)
                logger.error("a probe failed; its scores are NaN", extra={"probe": probe.name, **defect(error)})
            return np.full(shape, np.nan, np.float32)
        return scores
