"""The policies of a service: read from files, read again when they change, remembered by digest."""

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Protocol

from sqlalchemy import Engine, select

from streamward.errors import ConfigError
from streamward.policy import Policy
from streamward.rules.probe import PROBE_SUFFIX
from streamward.server.config import PoliciesConfig
from streamward.server.policy_folder import LoadedPolicy, get_policy, read_policies
from streamward.server.store import POLICY_VERSIONS, insert_into, translate_db_errors

logger = logging.getLogger(__name__)


class PolicyMetrics(Protocol):
    """Counter of policy reloads."""

    def policies_reloaded(self, outcome: str) -> None:
        """Count a reload: `changed` or `failed`."""
        ...


class PolicyStore:
    """Policies by name. A file that cannot be read leaves what was in force before."""

    def __init__(self, config: PoliciesConfig, *, engine: Engine, metrics: PolicyMetrics) -> None:
        """Read the folder.

        Raises:
            ConfigError: A file is wrong, two files hold policies of one name, or there is no such default.
            AuditError: The database failed.
        """
        self._config = config
        self._engine = engine
        self._metrics = metrics
        self._seen = self._stamps()
        self._policies = read_policies(config)
        self._problem: str | None = None
        self._check: Callable[[Policy], None] = _accept
        self._remember(self._policies)

    def require(self, check: Callable[[Policy], None]) -> None:
        """Refuse policies, now and whenever they are read again, that the guard cannot judge by.

        Raises:
            ConfigError: There is one now.
        """
        self._check_all(self._policies, check)
        self._check = check

    @staticmethod
    def _check_all(policies: Mapping[str, LoadedPolicy], check: Callable[[Policy], None]) -> None:
        for name, kept in policies.items():
            try:
                check(kept.policy)
            except ConfigError as error:
                raise ConfigError(f"policy {name!r}: {error}") from error

    @property
    def problem(self) -> str | None:
        """Reason for which the last reload failed; None if it did not."""
        return self._problem

    @property
    def default(self) -> LoadedPolicy:
        """The policy of callers that name none."""
        return self._policies[self._config.default]

    @property
    def all(self) -> Mapping[str, LoadedPolicy]:
        """Everything in force, by name."""
        return self._policies

    def get(self, name: str) -> LoadedPolicy:
        """Return a policy in force.

        Raises:
            InputError: There is none of this name.
        """
        return get_policy(self._policies, name)

    def reload(self, *, is_forced: bool = False) -> bool:
        """Read the folder again if one of its files changed.

        Returns:
            Whether another set of policies is in force.

        Raises:
            ConfigError: A file is wrong. What was in force still is.
            AuditError: The database failed; likewise.
        """
        stamps = self._stamps()
        if stamps == self._seen and not is_forced:
            return False
        self._seen = stamps
        try:
            policies = read_policies(self._config)
            self._check_all(policies, self._check)
            self._remember(policies)
        except ConfigError as error:
            self._problem = str(error)
            self._metrics.policies_reloaded("failed")
            logger.error("policies not reloaded", extra={"reason": str(error)})
            raise
        self._problem = None
        is_changed = policies != self._policies
        if is_changed:
            self._warn_of_same_versions(policies)
            self._metrics.policies_reloaded("changed")
            logger.info("policies reloaded", extra={"policies": ", ".join(sorted(policies))})
        self._policies = policies
        return is_changed

    def versions(self, name: str) -> list[Mapping[str, object]]:
        """Return every version of a policy that was ever in force here, oldest first.

        Raises:
            AuditError: The database failed.
        """
        query = select(POLICY_VERSIONS).where(POLICY_VERSIONS.c.name == name).order_by(POLICY_VERSIONS.c.first_used)
        with translate_db_errors("policies cannot be read"), self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def _stamps(self) -> frozenset[tuple[str, int, int]]:
        folder = self._config.folder
        if folder is None:
            return frozenset()
        stamps = set()
        for path in [*folder.glob("*.toml"), *folder.glob(f"*{PROBE_SUFFIX}"), *folder.glob("*.jsonl")]:
            try:
                found = path.stat()
            except OSError:
                continue  # the file was deleted after it was listed
            stamps.add((path.name, found.st_mtime_ns, found.st_size))
        return frozenset(stamps)

    def _warn_of_same_versions(self, policies: Mapping[str, LoadedPolicy]) -> None:
        for name, kept in policies.items():
            former = self._policies.get(name)
            if former and former.digest != kept.digest and former.policy.version == kept.policy.version:
                logger.warning("policy changed without a new version", extra={"policy": name})

    def _remember(self, policies: Mapping[str, LoadedPolicy]) -> None:
        insert = insert_into(POLICY_VERSIONS, self._engine.dialect.name)
        rows = [
            {
                "digest": kept.digest,
                "name": kept.policy.name,
                "version": kept.policy.version,
                "first_used": datetime.now(UTC),
                "body": kept.policy.model_dump(mode="json"),
            }
            for kept in policies.values()
        ]
        with translate_db_errors("policies cannot be kept"), self._engine.begin() as connection:
            connection.execute(insert.on_conflict_do_nothing(), rows)


def _accept(policy: Policy) -> None:
    """Refuse nothing, before a guard is loaded."""
