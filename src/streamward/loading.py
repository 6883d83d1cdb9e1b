"""`streamward.load`: from a name to a moderator."""

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from streamward.bundled.adapter import ADAPTER_FILE
from streamward.bundled.embedded import (
    DEFAULT_GUARD,
    embedded_guards,
    guard_folder,
    prepare_adapter,
    prepare_guard,
    prepare_int8,
    suits_int8,
)
from streamward.bundled.packages import DISTRIBUTION_PREFIX
from streamward.engine.config import EngineConfig
from streamward.engine.engine import Engine
from streamward.engine.runner_choice import load_runner
from streamward.errors import CheckpointError, ConfigError
from streamward.generative.lm_loading import load_language_model
from streamward.generative.local import LocalGenGuard
from streamward.hub import check_hub, fetch, is_hub_id
from streamward.model.config_file import read_config
from streamward.model.dtypes import dtype_name
from streamward.model.fingerprint import identity_of
from streamward.model.guard_config import is_stream_checkpoint
from streamward.model.parameters import read_shapes
from streamward.moderation.engine_worker import EngineWorker
from streamward.moderation.gen_guard_adapter import GenGuardAdapter, remote_guard
from streamward.moderation.guard import Guard
from streamward.moderation.moderator import DEFAULT_MAX_CHARS, DEFAULT_MAX_WORKERS, Moderator
from streamward.moderation.stream_guard import StreamGuard
from streamward.policy import Policy
from streamward.policy_guards.config import SecondOpinionConfig
from streamward.suggestions import suggest
from streamward.tokenizer import GuardTokenizer
from streamward.vllm.config import VllmConfig

API_KEY_ENV = "STREAMWARD_API_KEY"
"""Environment variable with the key of an endpoint."""


def load(
    name: str | Path = "stream-135m",
    *,
    policy: str | Path | Policy = "strict",
    engine: EngineConfig | VllmConfig | str | None = None,
    vllm: VllmConfig | str | None = None,
    dtype: object | None = None,
    max_chars: int = DEFAULT_MAX_CHARS,
    max_workers: int = DEFAULT_MAX_WORKERS,
    second_opinion: SecondOpinionConfig | Mapping[str, Any] | None = None,  # Any: TOML or JSON values
) -> Moderator:
    """Load a guard and put it under a policy.

    Args:
        name: An embedded guard, a checkpoint's folder, a Hugging Face Hub id (`org/name`), a ModelScope id
            (`modelscope:org/name`), or a Gen guard behind an OpenAI-compatible endpoint (`http://host/v1#model`; its
            key, if it needs one, is taken from the environment variable STREAMWARD_API_KEY).
        policy: `strict`, `loose`, a TOML file or a policy.
        engine: Limits of the engine; the defaults suit one machine. A value for `vllm` is accepted here too until the
            next release, with a DeprecationWarning.
        vllm: Run a Stream guard with vLLM instead of the engine: `vllm` for one in this process, the address of a vLLM
            server (`http://host:port`), or a `VllmConfig`.
        dtype: Data type of weights and cache, a name (`float32`) or a `torch.dtype`. By default the embedded guards
            have 8-bit weights and others bfloat16; where torch runs the model on a CPU slow with bfloat16, float32.
        max_chars: Longest conversation accepted, in characters.
        max_workers: Conversations of a batch, or asynchronous calls and streams, that are judged together.
        second_opinion: A slower guard that reads policies, and when it is asked: the table `[second_opinion]` of the
            service's settings, or a `SecondOpinionConfig`.

    Raises:
        ConfigError: There is no such policy, a setting of the second guard is wrong, the hub's package is missing,
            `engine` and `vllm` are both given, or vLLM cannot serve the guard.
        CheckpointError: There is no such guard, or its files are damaged.
        UpstreamError: The vLLM server does not answer.
    """
    chosen = Policy.load(policy)  # before loading weights, which takes seconds
    wrap = None if second_opinion is None else _second_opinion(second_opinion)
    how = _backend(engine, vllm)
    if isinstance(name, str) and name.startswith(("http://", "https://")):
        if isinstance(how, VllmConfig):
            raise ConfigError("a guard behind an endpoint has its own engine; leave vllm out")
        guard = _endpoint(name)
    elif isinstance(how, VllmConfig):
        guard = _vllm_guard(find_checkpoint(name), how, dtype_name(dtype))
    else:
        guard = load_guard(find_served(name, engine=how, dtype=dtype), engine=how, dtype=dtype)
    if wrap is not None:
        guard = wrap(guard)
    return Moderator(guard, policy=chosen, max_chars=max_chars, max_workers=max_workers)


def _second_opinion(
    values: SecondOpinionConfig | Mapping[str, Any],  # Any: as for `load`
) -> Callable[[Guard], Guard]:
    # Imported late, because an HTTP client is slow to import.
    from streamward.moderation.cascade import with_second_opinion

    if isinstance(values, SecondOpinionConfig):
        return with_second_opinion(values)
    return with_second_opinion(SecondOpinionConfig.parse(values, source="second_opinion"))


def _backend(
    engine: EngineConfig | VllmConfig | str | None, vllm: VllmConfig | str | None
) -> EngineConfig | VllmConfig | None:
    """Return what runs the guard: the engine's limits, or vLLM."""
    if isinstance(engine, VllmConfig | str):
        warnings.warn(
            "load(engine=...) takes an EngineConfig; give vllm=... for vLLM", DeprecationWarning, stacklevel=3
        )
        engine, vllm = None, engine if vllm is None else vllm
    if engine is not None and vllm is not None:
        raise ConfigError("engine and vllm are both given; a guard runs with one of them")
    return engine if vllm is None else (VllmConfig.of(vllm) if isinstance(vllm, str) else vllm)


def _endpoint(name: str) -> Guard:
    base_url, _, model = name.partition("#")
    if not model:
        raise ConfigError("an endpoint's address needs the guard's name there: http://host/v1#model")
    return remote_guard(base_url, model, api_key_env=API_KEY_ENV if API_KEY_ENV in os.environ else None)


def _vllm_guard(folder: Path, config: VllmConfig, dtype: str | None) -> Guard:
    from streamward.vllm.guard import vllm_token_scorer  # imported late, because vLLM is optional

    return StreamGuard(GuardTokenizer.from_folder(folder), vllm_token_scorer(folder, config, dtype=dtype))


def find_served(name: str | Path, *, engine: EngineConfig | None = None, dtype: object | None = None) -> Path:
    """Return the folder that our engine serves a guard from: with 8-bit weights, or the checkpoint as it is.

    Embedded guards and adapters are served with 8-bit weights unless `engine.weights` is full or a dtype is given;
    other checkpoints if `engine.weights` is int8. What is prepared for that is kept in the cache.

    Raises:
        ConfigError: As `find_checkpoint`; or the guard's shape does not suit 8-bit weights that were asked for.
        CheckpointError: As `find_checkpoint`.
    """
    weights = None if engine is None else engine.weights
    source = _adapter_source(name)
    if source is not None and weights is None and dtype is None and suits_int8(read_shapes(source)[1]):
        return prepare_int8(source)
    if weights == "int8":
        return prepare_int8(source or find_checkpoint(name))
    return find_checkpoint(name)


def _adapter_source(name: str | Path) -> Path | None:
    """Return the folder of an adapter, embedded or the user's own; None for everything else."""
    if isinstance(name, str) and name in embedded_guards():
        return guard_folder(name)
    return Path(name) if (Path(name) / ADAPTER_FILE).exists() else None


def find_checkpoint(name: str | Path) -> Path:
    """Return the folder of a guard's checkpoint in a published layout, merged or fetched if need be.

    Raises:
        ConfigError: The hub's package is not installed.
        CheckpointError: There is no such guard, or it cannot be fetched.
    """
    if isinstance(name, str) and name in embedded_guards():
        return prepare_guard(name)
    path = Path(name)
    if path.is_dir():
        return prepare_adapter(path) if (path / ADAPTER_FILE).exists() else path
    if isinstance(name, str) and is_hub_id(name):
        return fetch(name)
    raise _no_guard(name)


def check_guard(name: str) -> bool | None:
    """Look whether there is such a guard, without fetching, preparing or loading it.

    Returns:
        Whether it judges streams; None if that is not known before it is fetched.

    Raises:
        ConfigError: The hub's package is not installed, or an endpoint is named without a model.
        CheckpointError: There is no such guard.
    """
    if name.startswith(("http://", "https://")):
        _endpoint(name).close()
        return False
    if name in embedded_guards():
        return is_stream_checkpoint(read_config(guard_folder(name)))
    if Path(name).is_dir():
        return is_stream_checkpoint(read_config(Path(name)))
    if not is_hub_id(name):
        raise _no_guard(name)
    check_hub(name)
    return None


def _no_guard(name: str | Path) -> CheckpointError:
    names = embedded_guards()
    hint = suggest(str(name), names)
    if DEFAULT_GUARD not in names:
        hint += f"; the default guard is a package: pip install {DISTRIBUTION_PREFIX}{DEFAULT_GUARD}"
    return CheckpointError(
        f"there is no guard {str(name)!r}; give {', '.join([*names, 'a folder'])}, or a hub id (org/name){hint}"
    )


def load_guard(folder: Path, *, engine: EngineConfig | None = None, dtype: object | None = None) -> Guard:
    """Load a checkpoint's folder as a guard without a policy.

    Args:
        folder: A prepared guard, or a checkpoint in a published layout.
        engine: Limits of the engine; for a Gen guard only `runner` and `threads` count.
        dtype: As for `load`.

    Raises:
        CheckpointError: A file is missing or damaged.
        ConfigError: The engine's settings do not fit this kind of guard, or nothing here can run it.
    """
    tokenizer = GuardTokenizer.from_folder(folder)
    if not is_stream_checkpoint(read_config(folder)):
        config = engine or EngineConfig()
        model = load_language_model(folder, runner=config.runner, threads=config.threads, dtype=dtype_name(dtype))
        return GenGuardAdapter(LocalGenGuard(model, tokenizer))
    worker = EngineWorker(load_engine(folder, engine=engine, dtype=dtype))
    return StreamGuard(tokenizer, worker, identity=identity_of(folder))


def load_engine(folder: Path, *, engine: EngineConfig | None = None, dtype: object | None = None) -> Engine:
    """Load a Stream guard's checkpoint as an engine, which needs no tokenizer.

    Raises:
        CheckpointError: A file is missing or damaged, or it is not a Stream guard.
        ConfigError: The engine's settings do not fit the guard, or nothing here can run it.
    """
    config = engine or EngineConfig()
    return Engine(config, load_runner(folder, config, dtype=dtype_name(dtype)))
