"""The judge: a backbone and a head behind one forward, `(tokens, lengths) -> logits`."""

from typing import Any

import torch
from torch import nn

from tiebreak.models import deberta
from tiebreak.models.attention import ROWS, Attention
from tiebreak.models.rows import Rows


class Judge(nn.Module):
    """A sequence classifier of `transformers`, with or without `peft` adapters, fed by flattened rows.

    Args:
        network: what is trained and saved; parameter names are its own behind `network.`.
        attention: the backend it was loaded with.
        autocast: dtype of the backbone's matrix products, or None for the weights' own.
    """

    def __init__(self, network: Any, attention: Attention, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.network: Any = network
        self.attention = attention
        self.autocast = autocast

    @property
    def classifier(self) -> Any:
        """The transformers classifier below any adapters."""
        return self.network.get_base_model() if hasattr(self.network, "peft_config") else self.network

    @property
    def _backbone(self) -> Any:
        return getattr(self.classifier, self.classifier.base_model_prefix)

    def forward(self, tokens: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        """Logits of each row, as the row would get alone.

        Args:
            tokens: (T,) int64, the tokens of all rows, one row after another.
            lengths: tokens of each row, n of them, summing to T.

        Returns:
            (n, 3) float32 logits of A, B, tie.
        """
        device = tokens.device
        with torch.autocast(device.type, self.autocast, enabled=self.autocast is not None):
            hidden, starts, last = (self._packed if self.attention.packed else self._padded)(tokens, lengths)
            classifier = self.classifier
            decoder = hasattr(classifier, "score")
            pooled = hidden[last if decoder else starts]
        with torch.autocast(device.type, enabled=False):
            if decoder:
                return classifier.score(pooled.float())
            pooler = classifier.pooler if hasattr(classifier, "pooler") else self._backbone.pooler
            return classifier.classifier(classifier.dropout(pooler(pooled.float()[:, None])))

    def _packed(self, tokens: torch.Tensor, lengths: list[int]):
        """Hidden states (T, hidden), and each row's first and last index."""
        device = tokens.device
        ends = torch.tensor(lengths).cumsum(0)
        starts = ends - torch.tensor(lengths)
        positions = torch.cat([torch.arange(length) for length in lengths]).to(device)[None]
        if self.attention.implementation == "flash_attention_2":
            bounds = torch.cat([starts[:1], ends]).to(device, torch.int32)
            told: dict[str, Any] = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
            told |= {"max_length_q": max(lengths), "max_length_k": max(lengths)}
        else:
            told = {"rows": Rows.of(lengths, device)}
        if self.attention.implementation in (ROWS, "flash_attention_2"):
            # A cache or any mask would make transformers build its own idea of the packed rows.
            output = self._backbone(tokens[None], position_ids=positions, use_cache=False, **told)
            hidden = output.last_hidden_state
        else:
            hidden = deberta.packed_backbone(self._backbone, tokens[None], positions, told["rows"])
        return hidden[0], starts.to(device), (ends - 1).to(device)

    def _padded(self, tokens: torch.Tensor, lengths: list[int]):
        """The same from a batch padded on the right, for backbones that cannot run packed."""
        rows, longest = len(lengths), max(lengths)
        real = torch.arange(longest) < torch.tensor(lengths)[:, None]
        mask = real.to(tokens.device)
        batch = tokens.new_full((rows, longest), self.classifier.config.pad_token_id)
        batch[mask] = tokens
        extra = {"use_cache": False} if hasattr(self.classifier, "score") else {}
        hidden = self._backbone(batch, attention_mask=mask.long(), **extra).last_hidden_state
        starts = torch.arange(rows) * longest
        last = starts + torch.tensor(lengths) - 1
        return hidden.flatten(0, 1), starts.to(tokens.device), last.to(tokens.device)
