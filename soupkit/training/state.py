"""What changes while a run goes on, and how a checkpoint holds it."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from soupkit.training.checkpoints import Checkpoints

# The parts of a checkpoint.
MODEL = "model"
OPTIMIZER = "optimizer"
AVERAGE = "average"
_SETTINGS = "param_groups"  # of the optimizer, as torch calls them
COUNTS = "counts"  # int64 [3]: steps, skipped steps, damaged samples


@dataclass
class TrainState:
    """What changes while a run goes on: all of it is in a checkpoint. `average` is None without a moving average."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor] | None
    step: int = 0
    skipped: int = 0
    damaged: int = 0
    loss: float = math.nan

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        model, optimizer = get_state_dict(self.model, self.optimizer)
        counts = torch.tensor([self.step, self.skipped, self.damaged])
        state = {MODEL: model, OPTIMIZER: optimizer, COUNTS: counts}
        return state if self.average is None else {**state, AVERAGE: self.average}

    def restore(self, checkpoints: Checkpoints, samples: int) -> None:
        """Go on from the checkpoint after `samples` samples. Raises StorageError when it is damaged."""
        state = self.state()
        # The entry says what they are. Nothing but tensors is read: anything else in a checkpoint may be code.
        settings = state[OPTIMIZER].pop(_SETTINGS)
        checkpoints.read(state, samples)
        state[OPTIMIZER][_SETTINGS] = settings
        set_state_dict(self.model, self.optimizer, model_state_dict=state[MODEL], optim_state_dict=state[OPTIMIZER])
        self.step, self.skipped, self.damaged = (int(n) for n in state[COUNTS])
