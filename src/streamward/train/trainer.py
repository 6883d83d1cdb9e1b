"""Trains a Stream guard: base, adapter and heads; resumable."""

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from streamward.model.decoder import dense_hidden
from streamward.model.guard_model import GuardModel
from streamward.train.batching import collate, plan_batches
from streamward.train.config import StreamTrainConfig
from streamward.train.examples import Example
from streamward.train.loss import joint_loss

logger = logging.getLogger(__name__)


class Trainer:
    """One pass of optimisation over a fixed plan of batches; state lives in `folder`."""

    def __init__(self, config: StreamTrainConfig, *, model: GuardModel, examples: Sequence[Example], folder: Path):
        self.config = config
        self.model = model
        self.examples = examples
        self.folder = folder
        self.plan = _plan(config, examples)
        heads = [*model.prompt_heads.parameters(), *model.response_heads.parameters()]
        head_ids = {id(parameter) for parameter in heads}
        adapters = [p for p in model.parameters() if p.requires_grad and id(p) not in head_ids]
        self.optimizer = torch.optim.AdamW(
            [{"params": adapters, "lr": config.lr}, {"params": heads, "lr": config.head_lr}],
            betas=(0.9, 0.98),
            weight_decay=0.01,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.step = 0
        self.seconds = 0.0

    def run(self) -> None:
        """Train to the end of the plan, saving every `checkpoint_minutes`."""
        self._resume()
        saved = time.perf_counter()
        bar = tqdm(total=len(self.plan), initial=self.step, desc=self.config.name, unit="step", mininterval=5)
        averages: dict[str, float] = {}
        tokens = 0
        for indices in self.plan[self.step :]:
            started = time.perf_counter()
            parts = self._optimise([self.examples[index] for index in indices])
            self.seconds += time.perf_counter() - started
            self.step += 1
            tokens += sum(len(self.examples[index].ids) for index in indices)
            for name, value in parts.items():
                averages[name] = 0.98 * averages.get(name, value) + 0.02 * value
            bar.set_postfix({**{name: f"{value:.3f}" for name, value in averages.items()}, "tokens": tokens})
            bar.update()
            if time.perf_counter() - saved > 60 * self.config.checkpoint_minutes:
                self.save()
                saved = time.perf_counter()
        bar.close()
        self.save()

    def _optimise(self, examples: Sequence[Example]) -> dict[str, float]:
        batch = collate(examples, self.model.guard_config)
        hidden_BSD = dense_hidden(self.model.decoder, batch.ids_BS)
        loss, parts = joint_loss(
            self.model,
            hidden_BSD.flatten(0, 1),
            batch,
            category_weight=self.config.category_loss_weight,
            response_weight=self.config.response_loss_weight,
        )
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        return {"loss": loss.item(), **parts}

    def _rate(self, step: int) -> float:
        if step < self.config.warmup_steps:
            return (step + 1) / self.config.warmup_steps
        left = (len(self.plan) - step) / max(1.0, len(self.plan) * self.config.decay_fraction)
        return min(1.0, max(0.0, left))

    def save(self) -> None:
        """Write weights, optimiser and progress in one step."""
        state: dict[str, Any] = {  # Any: what torch.save takes
            "trained": trained_tensors(self.model),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "config": json.loads(self.config.model_dump_json()),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / "state.pt.partial"
        torch.save(state, partial)
        partial.replace(self.folder / "state.pt")

    def _resume(self) -> None:
        path = self.folder / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        if state["config"] != json.loads(self.config.model_dump_json()):
            logger.warning("the run's settings changed; starting afresh", extra={"folder": str(self.folder)})
            return
        self.model.load_state_dict(state["trained"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.step, self.seconds = state["step"], state["seconds"]


def trained_tensors(model: GuardModel) -> dict[str, Tensor]:
    """Return the tensors that training changes, by name."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def _plan(config: StreamTrainConfig, examples: Sequence[Example]) -> list[list[int]]:
    lengths = [len(example.ids) for example in examples]
    plan: list[list[int]] = []
    for epoch in range(int(config.epochs) + 1):
        plan += plan_batches(lengths, max_tokens=config.batch_tokens, seed=config.seed + epoch)
    one_epoch = len(plan) // (int(config.epochs) + 1)
    return plan[: round(one_epoch * config.epochs)]
