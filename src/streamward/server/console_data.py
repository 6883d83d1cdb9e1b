"""Data for the console: statistics, the state of guard and upstreams, decisions and policies."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import computed_field

from streamward.detectors.config import DetectorType
from streamward.detectors.finding import DetectorAction, DetectorTarget
from streamward.policy import FailurePolicy, SidePolicy
from streamward.schema import Action, RiskLevel, Side
from streamward.server.auth import Caller, IdentifiedCaller
from streamward.server.errors import ERRORS
from streamward.server.health import Readiness, readiness
from streamward.server.logged_decisions import DecisionFilter, LoggedDecision, read_decisions
from streamward.server.policy_folder import LoadedPolicy
from streamward.server.state import ServiceState, service_state
from streamward.server.stats import WINDOW, Stats, read_stats
from streamward.settings import Settings

router = APIRouter(tags=["operations"], responses=ERRORS)


class UpstreamState(Settings):
    """A guarded server that the caller may reach."""

    models: tuple[str, ...]
    """Models that may be asked for; none listed: any."""
    is_reachable: bool
    """True if it took a connection when it was last tried."""


class Load(Settings):
    """The load of the guard."""

    num_in_flight: int
    """Requests being worked on."""
    guard_step_s: float
    """Seconds since the guard last showed life; 0 while nothing waits for it."""
    guard_wait_s: float
    """Seconds that the text which is furthest behind has waited; 0 while none waits."""


class ConsoleStats(Settings):
    """Values that the console shows besides the live view."""

    guard: str
    tenant: str
    """Tenant whose decisions they are; an admin sees everybody's."""
    is_admin: bool
    shows_text: bool
    """True if live events contain the text, not only its verdicts."""
    policies: tuple[str, ...]
    """Policies that the caller may ask for, its own first."""
    health: Readiness
    """As `/ready` says it."""
    load: Load
    upstream_states: Mapping[str, UpstreamState]
    """Guarded servers that the caller may reach, by name."""
    window: timedelta
    stats: Stats


class Overview(ConsoleStats):
    """The reply of the former path `/v1/overview`."""

    @computed_field(json_schema_extra={"deprecated": True})  # type: ignore[prop-decorator]  # pydantic's way to put it
    @property
    def numbers(self) -> Stats:
        """The former name of `stats`."""
        return self.stats

    @computed_field(json_schema_extra={"deprecated": True})  # type: ignore[prop-decorator]  # pydantic's way to put it
    @property
    def upstreams(self) -> Mapping[str, tuple[str, ...]]:
        """The former shape of `upstream_states`: models by name."""
        return {name: each.models for name, each in self.upstream_states.items()}


class DecisionList(Settings):
    """Decisions, the newest first."""

    decisions: tuple[LoggedDecision, ...]
    has_more: bool
    """True if there are older ones: ask again with `before` set to the last id."""


class DetectorView(Settings):
    """A detector of a policy, without its words and expressions."""

    id: str
    type: DetectorType
    action: DetectorAction
    applies_to: tuple[DetectorTarget, ...]


class RuleView(Settings):
    """A rule of a policy, without its words and examples."""

    id: str
    severity: RiskLevel
    threshold: float
    actions: Mapping[Side, Action]
    """Actions on a text that breaks the rule, by side on which it is judged."""


class PolicyView(Settings):
    """A policy that the caller may ask for."""

    name: str
    version: str
    digest: str
    is_default: bool
    """True if it judges the caller's requests that name none."""
    prompt: SidePolicy
    response: SidePolicy
    on_error: FailurePolicy
    thresholds: Mapping[Side, Mapping[RiskLevel, float]]
    """Thresholds in force where no category has its own: the policy's, or else the guard's operating point."""
    consecutive_tokens: Mapping[Side, int]
    """Number of successive tokens that must be over the threshold."""
    detectors: tuple[DetectorView, ...]
    rules: tuple[RuleView, ...]

    @classmethod
    def of(cls, state: ServiceState, kept: LoadedPolicy, *, is_default: bool) -> "PolicyView":
        """Describe a policy under the service's guard."""
        policy = kept.policy
        return cls(
            name=policy.name,
            version=policy.version,
            digest=kept.digest,
            is_default=is_default,
            prompt=policy.prompt,
            response=policy.response,
            on_error=policy.on_error,
            thresholds={
                side: policy.side(side).thresholds_for(None, state.moderator.guard_thresholds(side)) for side in Side
            },
            consecutive_tokens={side: policy.consecutive_tokens(side) for side in Side},
            detectors=tuple(
                DetectorView(id=each.name, type=each.type, action=each.action, applies_to=each.applies_to)
                for each in policy.detectors
            ),
            rules=tuple(
                RuleView(
                    id=rule.id,
                    severity=rule.severity,
                    threshold=rule.threshold,
                    actions={side: policy.rule_action(rule, side) for side in Side if side in rule.sides},
                )
                for rule in policy.rules
            ),
        )


@router.get("/v1/stats")
async def stats(request: Request, caller: IdentifiedCaller) -> ConsoleStats:
    """Count the last hour's decisions of the caller's tenant, and say how guard and upstreams are."""
    return await _stats(service_state(request), caller)


@router.get("/v1/overview", deprecated=True)
async def overview(request: Request, caller: IdentifiedCaller) -> Overview:
    """Answer under the former name of `/v1/stats`, until the next release."""
    found = await _stats(service_state(request), caller)
    return Overview(**dict(found))


@router.get("/v1/decisions")
async def decisions(
    request: Request, caller: IdentifiedCaller, wanted: Annotated[DecisionFilter, Query()]
) -> DecisionList:
    """List the latest decisions of the caller's tenant, an admin's of all tenants, the newest first; without texts."""
    state = service_state(request)
    more = wanted.model_copy(update={"limit": wanted.limit + 1})
    found = await asyncio.to_thread(read_decisions, state.engine, _whose(caller), more)
    return DecisionList(decisions=found[: wanted.limit], has_more=len(found) > wanted.limit)


@router.get("/v1/policies")
async def policies(request: Request, caller: IdentifiedCaller) -> tuple[PolicyView, ...]:
    """List the policies that the caller may ask for, its own first, with the thresholds in force."""
    state = service_state(request)
    names = _policy_names(state, caller)
    return tuple(PolicyView.of(state, state.policies.get(name), is_default=name == names[0]) for name in names)


async def _stats(state: ServiceState, caller: Caller) -> ConsoleStats:
    health = await readiness(state)
    guard = state.moderator.health()
    return ConsoleStats(
        guard=state.config.guard,
        tenant=caller.tenant,
        is_admin=caller.is_admin,
        shows_text=state.config.console.live_text,
        policies=_policy_names(state, caller),
        health=health,
        load=Load(num_in_flight=state.admission.num_in_flight, guard_step_s=guard.step_s, guard_wait_s=guard.wait_s),
        upstream_states={
            name: UpstreamState(models=upstream.models, is_reachable=state.reachability.found.get(name, False))
            for name, upstream in state.config.upstreams.items()
            if caller.upstreams is None or name in caller.upstreams
        },
        window=WINDOW,
        stats=await asyncio.to_thread(read_stats, state.engine, _whose(caller)),
    )


def _whose(caller: Caller) -> str | None:
    return None if caller.is_admin else caller.tenant


def _policy_names(state: ServiceState, caller: Caller) -> tuple[str, ...]:
    own = caller.policy or state.config.policies.default
    others = state.policies.all if caller.other_policies is None else caller.other_policies & set(state.policies.all)
    return (own, *sorted(set(others) - {own}))
