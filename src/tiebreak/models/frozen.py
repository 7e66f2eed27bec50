"""The frozen bottom of a backbone: what it gives for a row is the same in every epoch, so it can be kept.

A gate behind the frozen layers hands the kept states on in their place. What a family's own forward does around its
layers (masks, positions, norms) still runs, so that no family needs a forward of its own for this.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from tiebreak.cluster.transfer import to_device
from tiebreak.errors import UserError

if TYPE_CHECKING:
    from tiebreak.models.preference import PreferenceModel

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
"""Of logits with kept states against those without, by the precision of the states."""


@dataclass
class Frozen:
    """The frozen bottom of a judge, and the gate behind it.

    Attributes:
        depth: frozen layers, counted from the lowest; None is the whole backbone.
        modules: those that never train: they stay in evaluation mode, without dropout.
        given: the states of the batch, as the forward has them there, that stand for the frozen layers' output.
        keeping: whether the layers above are left out and `kept` holds what the frozen ones gave.
        tuples: whether layers return a tuple whose first entry is the states.
    """

    depth: int | None
    modules: list[nn.Module] = field(default_factory=list)
    given: torch.Tensor | None = None
    keeping: bool = False
    kept: torch.Tensor | None = None
    tuples: bool = False


def open_gate(judge: "PreferenceModel", freeze: str | int) -> None:
    """Let a judge whose bottom is frozen by `layers.freeze` take kept states, and prove that it gives the same.

    From here on the frozen modules stay in evaluation mode: with dropout a row would have other states each time.

    Args:
        judge: on its device, changed in place.
        freeze: as `layers.freeze` has it: a number of layers, or `backbone`.

    Raises:
        UserError: all layers are frozen but what stands behind them is not, or the family hands on more than states
            from layer to layer.
    """
    depth = None if freeze == "backbone" else int(freeze)
    layers = judge.layers
    if depth is None:
        judge.frozen = Frozen(None, [judge.backbone])
    elif depth >= len(layers):
        raise UserError(
            f"train.frozen_cache_gb: model.freeze is {depth}, all layers of the base: take model.freeze=backbone, "
            "which keeps one vector for each text"
        )
    else:
        judge.frozen = Frozen(depth, [judge.classifier.get_input_embeddings(), *layers[:depth]])
        if embeddings := getattr(judge.backbone, "embeddings", None):
            judge.frozen.modules.append(embeddings)
        for index, layer in enumerate(layers):
            layer.forward = _Gated(judge.frozen, layer, index)
    judge.train(judge.training)
    _prove(judge)


class _Gated:
    """The forward of a layer behind the gate."""

    def __init__(self, gate: Frozen, layer: nn.Module, index: int) -> None:
        self.gate, self.layer, self.index = gate, layer, index

    def __call__(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        gate, depth = self.gate, self.gate.depth or 0
        if gate.given is not None and self.index < depth:
            return self._as_layers_do(gate.given if self.index == depth - 1 else hidden_states)
        if gate.keeping and self.index >= depth:
            return self._as_layers_do(hidden_states)
        output = type(self.layer).forward(self.layer, hidden_states, *args, **kwargs)
        gate.tuples = isinstance(output, tuple)
        if gate.keeping and self.index == depth - 1:
            gate.kept = output[0] if gate.tuples else output
        return output

    def _as_layers_do(self, states: torch.Tensor) -> Any:
        return (states, None) if self.gate.tuples else states


def frozen_states(judge: "PreferenceModel", tokens: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """What the frozen bottom gives for these rows, without gradients.

    Args:
        judge: with an open gate.
        tokens: (T,), and their `lengths`, as the judge's forward takes them.
        lengths: of the n texts.

    Returns:
        The states behind the frozen layers (T, width), or of a frozen backbone the pooled vectors (n, width).
    """
    gate = judge.frozen
    assert gate is not None
    with torch.no_grad():
        if gate.depth is None:
            return judge.pooled(tokens, lengths)
        gate.keeping = True
        try:
            with torch.autocast(tokens.device.type, judge.autocast, enabled=judge.autocast is not None):
                _, starts = judge.hidden_states(tokens, lengths)
            assert gate.kept is not None
            flat = gate.kept.flatten(0, 1)
            return flat if judge.attention.packed else flat[real_tokens(starts, lengths, tokens.device)]
        finally:
            gate.keeping, gate.kept = False, None


def real_tokens(starts: np.ndarray, lengths: list[int], device: torch.device) -> torch.Tensor:
    """Indices (T,) of the texts' tokens in a batch whose texts begin at `starts` (n,)."""
    ends = np.cumsum(lengths)
    return to_device(np.arange(ends[-1]) + (starts - ends + lengths).repeat(lengths), device)


def _prove(judge: "PreferenceModel") -> None:
    """Compare logits with and without kept states on a few short rows.

    Raises:
        UserError: they differ.
    """
    device = next(judge.parameters()).device
    lengths = [5, 9, 3, 6]
    ids = np.random.default_rng(0).integers(0, judge.classifier.get_input_embeddings().num_embeddings, sum(lengths))
    tokens = to_device(ids, device)
    was_training = judge.training
    judge.eval()
    try:
        with torch.no_grad():
            plain = judge.pooled(tokens, lengths)
            states = frozen_states(judge, tokens, lengths)
            apart = float((judge.pooled(tokens, lengths, states) - plain).abs().max())
            scale = max(1.0, float(plain.abs().max()))
    finally:
        judge.train(was_training)
    if not apart <= TOLERANCE.get(states.dtype, TOLERANCE[torch.bfloat16]) * scale:
        raise UserError(
            f"train.frozen_cache_gb: with kept states this base gives vectors that are {apart:.1e} off: its layers "
            "hand on more than their states; set it to 0"
        )
