"""Parts of a pair that wait on the CPU and move to the device for their turn, by accelerate's and diffusers' hooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import send_to_device
from diffusers.hooks import apply_group_offloading
from torch import nn

from hybridstitch.errors import InvalidInput, Problem

TEXT_ENCODERS = ("device", "cpu", "offload")
"""Where the text encoders are: on the device, on the CPU where they also run, or on the CPU between two prompts."""
OFFLOAD = ("none", "model", "group")
"""What waits on the CPU for its turn: nothing; every part, one of them at a time on the device; blocks of the
transformers, one of them at a time."""
WAITING = torch.device("cpu")


class Stage:
    """The device, with room for one of several parts: the one that runs.

    Unlike accelerate's own chain of hooks, it allows any order: a hybrid step runs both transformers in turn.

    Attributes:
        device: where parts run.
        current: the part that is on it; None for none.
        entered: how often a part moved there.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.current: nn.Module | None = None
        self.entered = 0

    def enter(self, part: nn.Module) -> None:
        """Move a part to the device, and the one that was there to the CPU."""
        if part is not self.current:
            self.leave()
            part.to(self.device)
            self.current = part
            self.entered += 1

    def leave(self) -> None:
        """Move the part that is on the device to the CPU."""
        if self.current is not None:
            self.current.to(WAITING)
            self.current = None

    def add(self, part: nn.Module) -> None:
        """Let a part wait on the CPU until its forward is called."""
        part.to(WAITING)
        add_hook_to_module(part, _OnStage(self, part), append=True)


class _OnStage(ModelHook):
    """Brings a part to the stage before its forward.

    Attributes:
        execution_device: where diffusers' pipelines put the inputs of the part.
    """

    def __init__(self, stage: Stage, part: nn.Module):
        self._stage, self._part = stage, part
        self.execution_device = stage.device

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self._stage.enter(self._part)
        return send_to_device(args, self.execution_device), send_to_device(kwargs, self.execution_device)


class Offload:
    """Where the parts of a pair run and wait.

    Args:
        parts: the modules by diffusers' names, and the small transformer.
        device: where they run.
        text_encoders: one of `TEXT_ENCODERS`.
        offload: one of `OFFLOAD`. With `model` the text encoders wait as well, unless they are on the CPU.

    Attributes:
        stage: for the parts that wait one by one.

    Raises:
        InvalidInput: names the argument that is none of these.
    """

    def __init__(
        self, parts: Mapping[str, nn.Module], device: torch.device, text_encoders: str = "device", offload: str = "none"
    ):
        given = {"text_encoders": (text_encoders, TEXT_ENCODERS), "offload": (offload, OFFLOAD)}
        wrong = [(name, value, known) for name, (value, known) in given.items() if value not in known]
        if wrong:
            raise InvalidInput([Problem(name, f"one of: {', '.join(known)}", value) for name, value, known in wrong])
        self.device = device
        self.text_device = WAITING if text_encoders == "cpu" else device
        self.stage = Stage(device)
        for name, part in parts.items():
            if name.startswith("text_encoder"):
                if text_encoders == "cpu":
                    part.to(WAITING)
                elif text_encoders == "offload" or offload == "model":
                    self.stage.add(part)
                else:
                    part.to(device)
            elif offload == "model":
                self.stage.add(part)
            elif offload == "group" and name.startswith("transformer"):
                apply_group_offloading(part, device, WAITING, "block_level", num_blocks_per_group=1)
            else:
                part.to(device)
