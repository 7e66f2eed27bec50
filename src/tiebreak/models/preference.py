"""The judge: a backbone and a head behind one forward, `(tokens, lengths) -> logits`."""

import math
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from tiebreak.attention import deberta
from tiebreak.attention.backends import Attention
from tiebreak.attention.flex import FlexRows
from tiebreak.attention.packing import Packing
from tiebreak.cluster.transfer import to_device
from tiebreak.compatibility import find_family
from tiebreak.models.frozen import Frozen, real_tokens
from tiebreak.models.heads import (
    FeatureHead,
    SiameseHead,
    backbone_of,
    before_head,
    head_name,
    heads_of,
    pool,
    pooled_tokens,
)
from tiebreak.models.last_layer import POOLED


class PreferenceModel(nn.Module):
    """A sequence classifier of `transformers`, with or without `peft` adapters, fed by flattened rows.

    Args:
        network: what is trained and saved; parameter names are its own behind `network.`.
        attention: the backend it was loaded with.
        autocast: dtype of the backbone's matrix products, or None for the weights' own.
        pooling: `cls`, `last`, `mean`, or `auto`: the last token of a decoder, the first of an encoder.
        dropout: before a linear head, while training.

    Attributes:
        early: whether the last layer of a packed forward returns the pooled tokens alone
            (`last_layer.return_pooled_tokens_only`).
        frozen: the bottom whose states can be given, once `frozen.open_gate` was called.
    """

    def __init__(
        self,
        network: Any,
        attention: Attention,
        autocast: torch.dtype | None = None,
        pooling: str = "auto",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.network: Any = network
        self.attention = attention
        self.autocast = autocast
        self.pooling = pooling if pooling != "auto" else "last" if self.is_decoder else "cls"
        self.dropout = nn.Dropout(dropout)
        self.early = False
        self.frozen: Frozen | None = None

    @property
    def classifier(self) -> Any:
        """The transformers classifier below any adapters."""
        return self.network.get_base_model() if hasattr(self.network, "peft_config") else self.network

    @property
    def backbone(self) -> Any:
        """What turns tokens into hidden states."""
        return backbone_of(self.classifier)

    @property
    def is_decoder(self) -> bool:
        """Whether attention is causal and the last token is judged."""
        return find_family(self.classifier.config.model_type).decoder

    @property
    def layers(self) -> list[nn.Module]:
        """The backbone's transformer layers, the lowest first."""
        layers = self.backbone.get_submodule(find_family(self.classifier.config.model_type).layers)
        return list(layers.children())

    @property
    def heads(self) -> dict[str, nn.Module]:
        """The modules by name that are trained whole under adapters."""
        return heads_of(self.classifier)

    @property
    def head(self) -> nn.Module:
        """The head itself, out of the wrapper that adapters put around what is trained whole."""
        head: Any = self.classifier.get_submodule(head_name(self.classifier))
        inner: nn.Module = head.modules_to_save["default"] if hasattr(head, "modules_to_save") else head
        return inner

    def train(self, mode: bool = True) -> Self:
        """Set the mode, but for frozen modules behind an open gate, which stay without dropout."""
        super().train(mode)
        for module in self.frozen.modules if self.frozen else ():
            module.eval()
        return self

    def forward(
        self,
        tokens: torch.Tensor,
        lengths: list[int],
        features: torch.Tensor | None = None,
        states: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits of each row, as the row would get alone.

        Args:
            tokens: (T,) int64, the tokens of all texts, one after another.
            lengths: tokens of each text, summing to T: n texts, or under a siamese head 2n, a row's two sides
                one after the other.
            features: (n, k) float32 of the rows, for a head that sees them.
            states: of the frozen bottom for these texts, as `frozen.frozen_states` gives them; None computes them.

        Returns:
            (n, 3) float32 logits of A, B, tie.
        """
        device = tokens.device
        pooled = self.pooled(tokens, lengths, states)
        classifier, inner = self.classifier, self.head
        head = classifier.get_submodule(head_name(classifier))  # with its wrapper, which chooses the adapter's own
        with torch.autocast(device.type, enabled=False):
            if not self.is_decoder:
                pooled = before_head(classifier, pooled)
            pooled = self.dropout(pooled)
            if isinstance(inner.head if isinstance(inner, FeatureHead) else inner, SiameseHead):
                pooled = pooled.unflatten(0, (-1, 2))
            logits: torch.Tensor = head(pooled, features) if isinstance(inner, FeatureHead) else head(pooled)
            return logits

    def pooled(self, tokens: torch.Tensor, lengths: list[int], states: torch.Tensor | None = None) -> torch.Tensor:
        """The vector (n, width) float32 that stands for each text, from what `forward` takes."""
        whole = self.frozen is not None and self.frozen.depth is None
        if states is not None and whole:
            return states
        with torch.autocast(tokens.device.type, self.autocast, enabled=self.autocast is not None):
            hidden, starts = self.hidden_states(tokens, lengths, states)
            if self.early and self.attention.packed:
                return hidden.float()
            return pool(hidden, starts, lengths, self.pooling)

    def hidden_states(
        self, tokens: torch.Tensor, lengths: list[int], states: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, np.ndarray]:
        """The backbone's last hidden states, and the index of each text's first.

        Args:
            tokens: (T,) int64, as `forward` takes them.
            lengths: tokens of each text.
            states: (T, width) of the frozen layers, which then are not computed.

        Returns:
            Hidden states (T, hidden), padding between texts where the backbone cannot run packed, or, under `early`,
            those of the pooled tokens alone (n, hidden); and indices (n,).
        """
        forward = self._packed if self.attention.packed else self._padded
        if states is None or self.frozen is None:
            return forward(tokens, lengths)
        if not self.attention.packed:
            longest = max(lengths)
            starts = np.arange(len(lengths)) * longest
            padded = states.new_zeros(len(lengths) * longest, states.shape[1])
            states = padded.index_copy_(0, real_tokens(starts, lengths, tokens.device), states)
        self.frozen.given = states.unflatten(0, (1 if self.attention.packed else len(lengths), -1))
        try:
            return forward(tokens, lengths)
        finally:
            self.frozen.given = None

    def _packed(self, tokens: torch.Tensor, lengths: list[int]) -> tuple[torch.Tensor, np.ndarray]:
        """Hidden states (T, hidden), or of the n pooled tokens alone (n, hidden), and each text's first index."""
        device = tokens.device
        ends = np.cumsum(lengths)
        starts = ends - lengths
        first = find_family(self.classifier.config.model_type).first_position
        from_where = 0 if first is None else self.classifier.config.pad_token_id + first
        positions = to_device(np.arange(from_where, from_where + ends[-1]) - starts.repeat(lengths), device)[None]
        pooled = to_device(pooled_tokens(starts, lengths, self.pooling), device) if self.early else None
        keywords: dict[str, Any] = {POOLED: pooled} if self.is_decoder and self.early else {}
        if self.attention.backend == "flash":
            bounds = to_device(np.array([0, *ends], dtype=np.int32), device)
            keywords |= {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
            keywords |= {"max_length_q": max(lengths), "max_length_k": max(lengths)}
        elif self.attention.backend == "flex":
            keywords["flex"] = FlexRows(lengths, device)
        else:
            packing = Packing.of(lengths, device, pooled)
            if self.attention.backend == "packed-deberta":
                return deberta.packed_backbone(self.backbone, tokens[None], positions, packing)[0], starts
            keywords["packing"] = packing
        # A cache or any mask would make transformers build its own idea of the packed rows.
        output = self.backbone(tokens[None], position_ids=positions, use_cache=False, **keywords)
        return output.last_hidden_state[0], starts

    def _padded(self, tokens: torch.Tensor, lengths: list[int]) -> tuple[torch.Tensor, np.ndarray]:
        """The same from a batch padded on the right, for backbones that cannot run packed."""
        rows, longest = len(lengths), max(lengths)
        real = np.arange(longest) < np.array(lengths)[:, None]
        mask = to_device(real, tokens.device)
        batch = tokens.new_full((rows * longest,), self.classifier.config.pad_token_id)
        batch = batch.index_copy_(0, to_device(np.flatnonzero(real), tokens.device), tokens).unflatten(0, (rows, -1))
        extra = {"use_cache": False} if self.is_decoder else {}
        hidden = self.backbone(batch, attention_mask=mask.long(), **extra).last_hidden_state
        return hidden.flatten(0, 1), np.arange(rows) * longest


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """How many weights there are and how many are trained; of 4-bit layers the weights, not the bytes they fill."""
    sizes = [
        (math.prod(state.shape) if (state := getattr(parameter, "quant_state", None)) else parameter.numel(), parameter)
        for parameter in module.parameters()
    ]
    return sum(size for size, _ in sizes), sum(size for size, parameter in sizes if parameter.requires_grad)
