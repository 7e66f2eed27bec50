"""The judge: a backbone and a head behind one forward, `(tokens, lengths) -> logits`."""

import math
from typing import Any

import torch
from torch import nn

from tiebreak.models import deberta
from tiebreak.models.attention import ROWS, Attention
from tiebreak.models.heads import FeatureHead, SiameseHead, head_of, pool, pooled_tokens
from tiebreak.models.last_layer import CHOSEN, choose_in_decoder, choose_in_encoder
from tiebreak.models.packed_sdpa import Rows


class PreferenceModel(nn.Module):
    """A sequence classifier of `transformers`, with or without `peft` adapters, fed by flattened rows.

    Args:
        network: what is trained and saved; parameter names are its own behind `network.`.
        attention: the backend it was loaded with.
        autocast: dtype of the backbone's matrix products, or None for the weights' own.
        pooling: `cls`, `last`, `mean`, or `auto`: the last token of a decoder, the first of an encoder.
        dropout: on what a linear head sees, while training.
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
        self.decoder = hasattr(self.classifier, "score")
        self.pooling = pooling if pooling != "auto" else "last" if self.decoder else "cls"
        self.dropout = nn.Dropout(dropout)
        self.early = self._pools_early()
        """Whether the last layer of a packed forward gives the pooled tokens alone."""

    @property
    def classifier(self) -> Any:
        """The transformers classifier below any adapters."""
        return self.network.get_base_model() if hasattr(self.network, "peft_config") else self.network

    @property
    def _backbone(self) -> Any:
        return getattr(self.classifier, self.classifier.base_model_prefix)

    def _pools_early(self) -> bool:
        if self.pooling == "mean" or not self.attention.packed:
            return False
        if self.decoder:
            return choose_in_decoder(self._backbone.layers)
        by_rows = self.attention.implementation != "flash_attention_2"
        return by_rows and choose_in_encoder(self._backbone.encoder.layer)

    def forward(self, tokens: torch.Tensor, lengths: list[int], numbers: torch.Tensor | None = None) -> torch.Tensor:
        """Logits of each row, as the row would get alone.

        Args:
            tokens: (T,) int64, the tokens of all texts, one after another.
            lengths: tokens of each text, summing to T: n texts, or under a siamese head 2n, a row's two sides
                one after the other.
            numbers: (n, k) float32, the rows' features, for a head that sees them.

        Returns:
            (n, 3) float32 logits of A, B, tie.
        """
        device = tokens.device
        with torch.autocast(device.type, self.autocast, enabled=self.autocast is not None):
            hidden, starts = (self._packed if self.attention.packed else self._padded)(tokens, lengths)
            if self.early and self.attention.packed:
                pooled = hidden.float()
            else:
                pooled = pool(hidden, starts.to(device), torch.tensor(lengths, device=device), self.pooling)
        classifier = self.classifier
        head = classifier.score if self.decoder else classifier.classifier
        with torch.autocast(device.type, enabled=False):
            if not self.decoder:
                pooler = classifier.pooler if hasattr(classifier, "pooler") else self._backbone.pooler
                pooled = classifier.dropout(pooler(pooled[:, None]))
            pooled = self.dropout(pooled)
            inner = head_of(classifier)
            if isinstance(inner.head if isinstance(inner, FeatureHead) else inner, SiameseHead):
                pooled = pooled.unflatten(0, (-1, 2))
            return head(pooled, numbers) if isinstance(inner, FeatureHead) else head(pooled)

    def _packed(self, tokens: torch.Tensor, lengths: list[int]):
        """Hidden states (T, hidden), or of the n pooled tokens alone (n, hidden), and each text's first index."""
        device = tokens.device
        ends = torch.tensor(lengths).cumsum(0)
        starts = ends - torch.tensor(lengths)
        positions = torch.cat([torch.arange(length) for length in lengths]).to(device)[None]
        chosen = pooled_tokens(starts, torch.tensor(lengths), self.pooling).to(device) if self.early else None
        if self.attention.implementation == "flash_attention_2":
            bounds = torch.cat([starts[:1], ends]).to(device, torch.int32)
            told: dict[str, Any] = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
            told |= {"max_length_q": max(lengths), "max_length_k": max(lengths)}
        else:
            told = {"rows": Rows.of(lengths, device, chosen)}
        if self.attention.implementation in (ROWS, "flash_attention_2"):
            told |= {CHOSEN: chosen} if self.decoder and self.early else {}
            # A cache or any mask would make transformers build its own idea of the packed rows.
            output = self._backbone(tokens[None], position_ids=positions, use_cache=False, **told)
            hidden = output.last_hidden_state
        else:
            hidden = deberta.packed_backbone(self._backbone, tokens[None], positions, told["rows"])
        return hidden[0], starts

    def _padded(self, tokens: torch.Tensor, lengths: list[int]):
        """The same from a batch padded on the right, for backbones that cannot run packed."""
        rows, longest = len(lengths), max(lengths)
        real = torch.arange(longest) < torch.tensor(lengths)[:, None]
        mask = real.to(tokens.device)
        batch = tokens.new_full((rows, longest), self.classifier.config.pad_token_id)
        batch[mask] = tokens
        extra = {"use_cache": False} if hasattr(self.classifier, "score") else {}
        hidden = self._backbone(batch, attention_mask=mask.long(), **extra).last_hidden_state
        return hidden.flatten(0, 1), torch.arange(rows) * longest


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """How many weights there are and how many are trained; of 4-bit layers the weights, not the bytes they fill."""
    sizes = [
        (math.prod(state.shape) if (state := getattr(parameter, "quant_state", None)) else parameter.numel(), parameter)
        for parameter in module.parameters()
    ]
    return sum(size for size, _ in sizes), sum(size for size, parameter in sizes if parameter.requires_grad)
