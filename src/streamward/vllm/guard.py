"""From a checkpoint's folder to a driver over vLLM."""

from pathlib import Path

from streamward.errors import ConfigError
from streamward.model.config import parse_model_config
from streamward.model.config_file import read_config
from streamward.model.guard_config import is_stream_checkpoint, parse_guard_config
from streamward.vllm.config import VllmConfig
from streamward.vllm.driver import TokenReader, VllmTokenScorer
from streamward.vllm.layout import fingerprint, head_widths
from streamward.vllm.local import LocalVllm
from streamward.vllm.server import VllmServer


def vllm_token_scorer(folder: Path, config: VllmConfig, *, dtype: str | None) -> VllmTokenScorer:
    """Start vLLM over a checkpoint, or connect to a server that has it.

    Args:
        folder: A Stream guard's checkpoint; where a server reads the tokens, only its `config.json` is needed.
        config: Which of both, and limits.
        dtype: Dtype of weights and cache of an engine in this process; None for what suits the CPU.

    Raises:
        CheckpointError: `config.json` is missing or damaged.
        ConfigError: It is no Stream guard, vLLM cannot serve it, or the server has another one.
        UpstreamError: The server does not answer.
    """
    raw = read_config(folder)
    if not is_stream_checkpoint(raw):
        raise ConfigError("vLLM serves Gen guards by itself; give its address as the guard: http://host:port/v1#model")
    model, guard = parse_model_config(raw), parse_guard_config(raw)
    reader: TokenReader
    if config.url is None:
        from streamward.model.packing import serving_dtype  # imports torch, which vLLM does anyway

        reader = LocalVllm(folder, config, dtype=dtype or str(serving_dtype()).removeprefix("torch."))
    else:
        reader = VllmServer(
            config,
            guard=fingerprint(model, guard),
            vocab_size=model.vocab_size,
            num_labels=sum(head_widths(guard)),
        )
    return VllmTokenScorer(
        reader, guard_config=guard, max_streams=config.max_streams, max_stream_tokens=config.max_stream_tokens
    )
