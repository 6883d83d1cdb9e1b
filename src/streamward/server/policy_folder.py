"""Policies by name: the built-in ones, and those of a folder."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from streamward.detectors.detectors import compiled
from streamward.errors import ConfigError, InputError
from streamward.policy import LOOSE, STRICT, Policy
from streamward.server.config import PoliciesConfig

_DIGEST_CHARS = 12


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A policy in force.

    Attributes:
        policy: What it says.
        digest: Digest of the contents; changes even if the author forgot to raise the version.
        source: Its file; None for the built-in ones.
    """

    policy: Policy
    digest: str
    source: Path | None = None


def read_policies(config: PoliciesConfig) -> dict[str, LoadedPolicy]:
    """Read what the settings name.

    Raises:
        ConfigError: The folder cannot be read, files are wrong, two hold policies of one name, or there is no such
            default. Names every file at fault.
    """
    policies = {policy.name: LoadedPolicy(policy, digest(policy)) for policy in (STRICT, LOOSE)}
    problems = []
    for path in _files(config.folder):
        try:
            policy = Policy.load(path)
            compiled(policy.detectors)  # raises if the variable holds no key
        except ConfigError as error:
            problems.append(str(error))
            continue
        former = policies.get(policy.name)
        if former is not None and former.source is not None:
            problems.append(f"{former.source.name} and {path.name} both hold a policy named {policy.name!r}")
        policies[policy.name] = LoadedPolicy(policy, digest(policy), path)
    if config.default not in policies and not problems:
        problems.append(f"policies.default is {config.default!r}; there are {', '.join(sorted(policies))}")
    if problems:
        raise ConfigError("; ".join(problems))
    return policies


def _files(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    if not folder.is_dir():
        raise ConfigError(f"policies.folder {str(folder)!r} is not a folder")
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".toml")
    except OSError as error:
        raise ConfigError(f"policies.folder {str(folder)!r} cannot be read: {error.strerror}") from error


def get_policy(policies: Mapping[str, LoadedPolicy], name: str) -> LoadedPolicy:
    """Return a policy by name.

    Raises:
        InputError: There is none of this name.
    """
    found = policies.get(name)
    if found is None:
        raise InputError(f"there is no such policy; there are {', '.join(sorted(policies))}")
    return found


def check_names(policies: Mapping[str, LoadedPolicy], names: Iterable[str | None]) -> None:
    """Refuse names of policies that there are not; None is no name.

    Raises:
        InputError: There is one.
    """
    unknown = [name for name in names if name is not None and name not in policies]
    if unknown:
        raise InputError(
            f"there is no policy {', '.join(map(repr, unknown))}; there are {', '.join(sorted(policies))}"
            " (policies.folder)"
        )


def check_upstreams(known: Iterable[str], names: Iterable[str] | None) -> None:
    """Refuse names of upstreams that there are not; None stands for all of them.

    Raises:
        InputError: There is one.
    """
    there = sorted(known)
    unknown = [name for name in names or () if name not in there]
    if unknown:
        raise InputError(
            f"there is no upstream {', '.join(map(repr, unknown))}; there are {', '.join(there) or 'none'} (upstreams)"
        )


def digest(policy: Policy) -> str:
    """Return what tells this policy from every other: the start of a SHA-256 over all it says."""
    canonical = json.dumps(policy.model_dump(mode="json"), sort_keys=True, ensure_ascii=True)
    if policy.probe is not None:
        canonical += policy.probe.digest
    return hashlib.sha256(canonical.encode()).hexdigest()[:_DIGEST_CHARS]
