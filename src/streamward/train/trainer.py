"""Optimises what a task says over a fixed plan of batches; resumable, on one device or several."""

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from tqdm import tqdm

from streamward.errors import CheckpointError, ConfigError
from streamward.model.decoder import Decoder
from streamward.reasons import reason_of
from streamward.train.batching import plan_batches
from streamward.train.compiling import compiled_layers
from streamward.train.config import RunConfig
from streamward.train.lora import lowest_frozen
from streamward.train.parallel import World

logger = logging.getLogger(__name__)
STATE_FILE = "state.pt"


class Loss(NamedTuple):
    """Loss of a batch, and its parts for the log."""

    total: Tensor
    parts: dict[str, float]


class ParameterGroup(NamedTuple):
    """Parameters that share a learning rate."""

    parameters: Sequence[nn.Parameter]
    lr: float


class Task(Protocol):
    """The examples of a training run and the loss on them."""

    @property
    def model(self) -> nn.Module:
        """The model in training."""
        ...

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each example."""
        ...

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Return what changes, and how fast."""
        ...

    def loss(self, indices: Sequence[int]) -> Loss:
        """Return the loss of some examples as one batch."""
        ...


def train_task(config: RunConfig, task: Task, *, decoder: Decoder, folder: Path, world: World) -> dict[str, int]:
    """Train with the decoder frozen and compiled as the run wants it; returns what the report says of it.

    Raises:
        ConfigError: There is nothing to learn from, or the layers cannot be frozen or compiled as asked.
        CheckpointError: The folder holds a damaged state.
    """
    with lowest_frozen(decoder, config.frozen_layers):
        trainer = Trainer(config, task=task, folder=folder, world=world)
        with compiled_layers(decoder, config, num_steps=trainer.num_steps) as is_compiled:
            trainer.run()
    return {"training_seconds": round(trainer.seconds), "is_compiled": is_compiled}


class Trainer:
    """One pass of optimisation; state lives in `folder`."""

    def __init__(self, config: RunConfig, *, task: Task, folder: Path, world: World | None = None) -> None:
        """Plan the run; nothing is computed yet.

        Raises:
            ConfigError: There is nothing to learn from, or there are fewer batches than processes.
        """
        self.config = config
        self.task = task
        self.folder = folder
        self.world = world or World()
        self.lengths = list(task.lengths)
        if not self.lengths:
            raise ConfigError("no row is left to learn from; see the sources' labels, fold and learn")
        self.plan = _plan(config, self.lengths)
        self.num_steps = len(self.plan) // self.world.size
        if not self.num_steps:
            raise ConfigError(f"{len(self.plan)} batches are too few; the run has {self.world.size} processes")
        if self.num_steps <= config.warmup_steps:
            logger.warning(
                f"the run has {self.num_steps} steps, and warmup_steps is {config.warmup_steps}: the learning rate is"
                " below lr in all of them. Lower warmup_steps, or give the run more rows or epochs"
            )
        groups = [{"params": list(group.parameters), "lr": group.lr} for group in task.parameter_groups()]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.step = 0
        self.seconds = 0.0

    def run(self) -> None:
        """Train to the end of the plan, saving every `checkpoint_minutes`."""
        self._resume()
        is_main_process, saved = self.world.is_main_process, time.perf_counter()
        bar = tqdm(
            total=self.num_steps, initial=self.step, desc=self.config.name, mininterval=5, disable=not is_main_process
        )
        averages: dict[str, float] = {}
        tokens = 0
        while self.step < self.num_steps:
            indices = self.plan[self.step * self.world.size + self.world.rank]
            started = time.perf_counter()
            parts = self._optimise(indices)
            self.seconds += time.perf_counter() - started
            self.step += 1
            tokens += sum(self.lengths[index] for index in indices)
            for name, value in parts.items():
                averages[name] = 0.98 * averages.get(name, value) + 0.02 * value
            bar.set_postfix({**{name: f"{value:.3f}" for name, value in averages.items()}, "tokens": tokens})
            bar.update()
            if is_main_process and time.perf_counter() - saved > 60 * self.config.checkpoint_minutes:
                self.save()
                saved = time.perf_counter()
        bar.close()
        if is_main_process:
            self.save()

    def _optimise(self, indices: Sequence[int]) -> dict[str, float]:
        loss, parts = self.task.loss(indices)
        self.optimizer.zero_grad()
        loss.backward()
        changing = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.world.average_gradients(changing)
        nn.utils.clip_grad_norm_(changing, 1.0)
        self.optimizer.step()
        self.schedule.step()
        return {"loss": loss.item(), **parts}

    def _rate(self, step: int) -> float:
        if step < self.config.warmup_steps:
            return (step + 1) / self.config.warmup_steps
        left = (self.num_steps - step) / max(1.0, self.num_steps * self.config.decay_fraction)
        return min(1.0, max(0.0, left))

    def save(self) -> None:
        """Write weights, optimiser and progress in one step."""
        state: dict[str, Any] = {  # Any: what torch.save takes
            "trained": trained_tensors(self.task.model),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "config": json.loads(self.config.model_dump_json()),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{STATE_FILE}.partial"
        torch.save(state, partial)
        partial.replace(self.folder / STATE_FILE)

    def _resume(self) -> None:
        path = self.folder / STATE_FILE
        if not path.exists():
            return
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            is_same = _parsed(type(self.config), state["config"]) == self.config
        except Exception as error:  # torch raises its own and pickle's kinds for every defect of a file
            raise CheckpointError(f"{path} cannot be read: {reason_of(error)}; delete it to start afresh") from error
        if not is_same:
            logger.warning("the run's settings changed; starting afresh", extra={"folder": str(self.folder)})
            return
        self.task.model.load_state_dict(state["trained"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.step, self.seconds = state["step"], state["seconds"]


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that training changes, by name, on the CPU."""
    return {name: value.detach().cpu() for name, value in model.named_parameters() if value.requires_grad}


def pick_device(config: RunConfig) -> torch.device:
    """Return where a run computes.

    Raises:
        ConfigError: There is no GPU, and the run wants one.
    """
    has_gpu = torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise ConfigError("device is cuda; this machine or this build of torch has no GPU")
    return torch.device("cuda", World().local_rank) if has_gpu and config.device != "cpu" else torch.device("cpu")


_REMOVED: Mapping[str, float | str] = {"mil_loss_weight": 0.0, "prefix_fraction": 0.0, "long_rows": "cut"}
"""Settings that states of earlier versions hold and that no longer exist, with the values that changed nothing."""


def _parsed(kind: type[RunConfig], values: Mapping[str, Any]) -> RunConfig | None:  # Any: JSON values
    """Read the settings of a saved state, which may be older than some keys."""
    removed = {name for name, default in _REMOVED.items() if name in values and values[name] == default}
    try:
        return kind.model_validate({name: value for name, value in values.items() if name not in removed})
    except ValidationError:
        return None


def _plan(config: RunConfig, lengths: Sequence[int]) -> list[list[int]]:
    plan: list[list[int]] = []
    for epoch in range(int(config.epochs) + 1):
        plan += plan_batches(lengths, max_tokens=config.batch_tokens, seed=config.seed + epoch)
    one_epoch = len(plan) // (int(config.epochs) + 1)
    return plan[: max(1, round(one_epoch * config.epochs))]


def split_parameters(model: nn.Module, heads: Iterable[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return what is trained outside and inside the heads."""
    own = list(heads)
    head_ids = {id(parameter) for parameter in own}
    adapters = [value for value in model.parameters() if value.requires_grad and id(value) not in head_ids]
    return adapters, own
