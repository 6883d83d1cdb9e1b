"""The admin API: keys, usage, policies, the log of decisions. And each tenant's own usage."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field

from streamward.errors import InputError
from streamward.server.audit_reading import recent
from streamward.server.auth import AdminCaller, IdentifiedCaller
from streamward.server.errors import ERRORS
from streamward.server.keys import TENANT, ApiKey
from streamward.server.policy_folder import LoadedPolicy, check_names, check_upstreams
from streamward.server.state import ServiceState, service_state
from streamward.server.wire import Name
from streamward.settings import Settings

router = APIRouter(responses=ERRORS)

Tenant = Annotated[str, Field(pattern=f"^{TENANT.pattern}$")]
Day = Annotated[str, Query(pattern=r"^\d{4}-\d{2}-\d{2}$", description="First day, as 2026-01-31 (UTC).")]
KeyId = Annotated[str, Path(pattern="^[a-z2-7]{10}$")]
JsonObject = Mapping[str, Any]  # Any: JSON values


class NewKey(Settings):
    """A key to be made."""

    tenant: Tenant
    name: Annotated[str, Field(max_length=200)] = ""
    """Purpose of the key."""
    policy: Name | None = None
    """Policy it is judged by; by default the service's."""
    other_policies: tuple[Name, ...] = ()
    """Policies its requests may ask for instead."""
    upstreams: tuple[Name, ...] | None = None
    """Servers it may reach through the gateway; by default all."""
    is_admin: bool = False
    requests_per_minute: Annotated[int, Field(gt=0, le=10**6)] | None = None
    max_concurrent: Annotated[int, Field(gt=0, le=10**6)] | None = None
    expires_at: datetime | None = None


class CreatedKey(BaseModel):
    """A key that was made."""

    key: str
    """The key. It is kept nowhere and cannot be shown again."""
    about: ApiKey


class KnownPolicy(BaseModel):
    """A policy in force."""

    name: str
    version: str
    digest: str
    body: JsonObject

    @classmethod
    def of(cls, kept: LoadedPolicy) -> "KnownPolicy":
        """Describe a policy."""
        policy = kept.policy
        return cls(name=policy.name, version=policy.version, digest=kept.digest, body=policy.model_dump(mode="json"))


class Reloaded(BaseModel):
    """Result of reloading policies."""

    is_changed: bool


@router.post("/admin/keys", status_code=201, tags=["admin"])
async def create_key(body: NewKey, request: Request, caller: AdminCaller) -> CreatedKey:
    """Make a key."""
    del caller
    state = service_state(request)
    check_names(state.policies.all, [body.policy, *body.other_policies])
    check_upstreams(state.config.upstreams, body.upstreams)
    facts = body.model_dump(exclude={"tenant", "expires_at"})
    expires_at = _utc(body.expires_at)
    secret, about = await asyncio.to_thread(state.keys.create, body.tenant, expires_at=expires_at, **facts)
    return CreatedKey(key=secret, about=about)


@router.get("/admin/keys", tags=["admin"])
async def list_keys(request: Request, caller: AdminCaller, tenant: Tenant | None = None) -> list[ApiKey]:
    """List keys, never the keys themselves."""
    del caller
    return await asyncio.to_thread(service_state(request).keys.all, tenant)


@router.delete("/admin/keys/{key_id}", tags=["admin"])
async def revoke_key(key_id: KeyId, request: Request, caller: AdminCaller) -> ApiKey:
    """End a key."""
    del caller
    return await asyncio.to_thread(service_state(request).keys.revoke, key_id)


@router.get("/admin/usage", tags=["admin"])
async def all_usage(
    request: Request, caller: AdminCaller, tenant: Tenant | None = None, since: Day = "0000-00-00"
) -> list[JsonObject]:
    """Count decisions, tokens and characters by key and day."""
    del caller
    keys = service_state(request).keys
    return await asyncio.to_thread(lambda: keys.usage(tenant=tenant, since=since))


@router.get("/v1/usage", tags=["operations"])
async def own_usage(request: Request, caller: IdentifiedCaller, since: Day = "0000-00-00") -> list[JsonObject]:
    """Count what the caller's tenant used, by key and day."""
    keys = service_state(request).keys
    return await asyncio.to_thread(lambda: keys.usage(tenant=caller.tenant, since=since))


@router.get("/admin/decisions", tags=["admin"])
async def decisions(
    request: Request,
    caller: AdminCaller,
    tenant: Tenant | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    before: Annotated[str | None, Query(max_length=40)] = None,
) -> list[JsonObject]:
    """List the latest decisions, the newest first; without texts, which are for exports only."""
    del caller
    engine = service_state(request).engine
    rows = await asyncio.to_thread(lambda: recent(engine, tenant=tenant, limit=limit, before=before))
    return [{name: value for name, value in row.items() if not name.endswith("_text")} for row in rows]


@router.get("/admin/policies", tags=["admin"])
async def policies(request: Request, caller: AdminCaller) -> list[KnownPolicy]:
    """List the policies in force."""
    del caller
    return [KnownPolicy.of(kept) for kept in service_state(request).policies.all.values()]


@router.get("/admin/policies/{name}/versions", tags=["admin"])
async def policy_versions(
    name: Annotated[str, Path(max_length=200)], request: Request, caller: AdminCaller
) -> list[JsonObject]:
    """List every version of a policy that was ever in force here."""
    del caller
    return await asyncio.to_thread(service_state(request).policies.versions, name)


@router.post("/admin/policies/reload", tags=["admin"])
async def reload_policies(request: Request, caller: AdminCaller) -> Reloaded:
    """Read the policies again now. A file that is wrong is an error, and what was in force still is."""
    del caller
    state = service_state(request)
    return Reloaded(is_changed=await asyncio.to_thread(_reload, state))


def _reload(state: ServiceState) -> bool:
    try:
        return state.policies.reload(is_forced=True)
    except ValueError as error:  # at run time a ConfigError is the caller's mistake
        raise InputError(str(error)) from error


def _utc(time: datetime | None) -> datetime | None:
    return time if time is None or time.tzinfo is not None else time.replace(tzinfo=UTC)
