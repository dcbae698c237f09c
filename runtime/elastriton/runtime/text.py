"""A text encoder: any Hugging Face sequence-classification model, split before its last linear layer."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from elastriton.core.errors import ConfigError
from elastriton.core.levels import TokenLevel
from elastriton.runtime.bert import LAYERS, features, is_elastic
from elastriton.runtime.importance import features_and_attention


class TextEncoder(nn.Module):
    """A Hugging Face sequence-classification model that returns the features its classifier reads.

    Modifications: the last linear layer, the head, is replaced by the identity and kept apart, so that several tasks
    can share the encoder; a BERT-like model runs through our forward (bert.py), any other one at level 0 alone.
    """

    def __init__(self, model: Any) -> None:
        """`model` is an AutoModelForSequenceClassification. Raises ConfigError where no head can be found."""
        super().__init__()
        linears = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        heads = [(name, module) for name, module in linears if module.out_features == model.config.num_labels]
        if not heads:
            raise ConfigError(f"{type(model).__name__} has no linear layer with {model.config.num_labels} outputs")
        self.head_name, head = heads[-1]
        self.head_weight = head.weight.detach().clone()
        self.head_bias = head.bias.detach().clone() if head.bias is not None else torch.zeros(head.out_features)
        model.set_submodule(self.head_name, nn.Identity())
        self.model = model.eval()
        self.elastic = is_elastic(model)
        self.vocabulary: int | None = getattr(model.config, "vocab_size", None)
        accepted = inspect.signature(model.forward).parameters
        self.reads_segments = "token_type_ids" in accepted and getattr(model.config, "type_vocab_size", 0) > 1
        self.segments: int | None = model.config.type_vocab_size if self.reads_segments else None

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor,
        level: TokenLevel,
        prompts: Tensor | None = None,
    ) -> Tensor:
        """Features [batch, width] of int64 token ids, mask and segment ids, each [batch, tokens].

        `prompts` [batch, layers, gamma, width] go with gamma > 0. Raises ConfigError where the model has no such level.
        """
        self.check(level)
        if level.gamma > 0 and prompts is None:
            raise ConfigError(f"level {level.gamma} needs prompts")
        if self.elastic:
            read = token_type_ids if self.reads_segments else None
            return features(self.model, input_ids, attention_mask, read, level, prompts)
        segments = {"token_type_ids": token_type_ids} if self.reads_segments else {}
        out: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, **segments).logits
        return out

    def check(self, level: TokenLevel) -> None:
        """Raise ConfigError where the model cannot run at `level`."""
        if level.gamma != 0 and not self.elastic:
            raise ConfigError(
                f"level {level.gamma} {'merges tokens' if level.gamma < 0 else 'adds prompts'}; "
                f"{type(self.model).__name__} has only level 0, since elastriton knows these layers alone: "
                f"{', '.join(sorted(LAYERS))}"
            )

    def with_attention(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The plain features, and the attention [batch, tokens] that each token receives (importance.py)."""
        segments = {"token_type_ids": token_type_ids} if self.reads_segments else {}
        if self.elastic:
            return features_and_attention(self.model, input_ids, attention_mask, segments.get("token_type_ids"))
        output = self.model(
            input_ids=input_ids, attention_mask=attention_mask, output_attentions=True, return_dict=True, **segments
        )
        rows = attention_mask.to(output.logits.dtype).unsqueeze(1)  # [batch, 1, tokens]
        received = [(rows @ layer.mean(dim=1)).squeeze(1) for layer in output.attentions]
        return output.logits, torch.stack(received).mean(dim=0)
