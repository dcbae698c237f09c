"""Two baselines that look inside the large model: entropy exits (DeeBERT) and agreement of a cheap tier (ABC).

DeeBERT (Xin et al., ACL 2020): a classifier after every layer, trained with the encoder frozen; an input leaves at the
first layer whose output has an entropy below S. Ours are linear on CLS, trained on the data that the large model was.
ABC (arXiv 2407.02348): a tier answers where its members agree. Its members here are the small model and the exit after
layer 2 of the large one, which goes on from there where they do not.

Both are served, by one graph per layer (exit_graphs.py, exit_backend.py) in a process of their own: without the hop to
the large model's executor, in favour of the baselines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from scipy.special import log_softmax
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from elastriton.core.confidence import IntArray

Floats = NDArray[np.float64]
ENTROPIES = (0.0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0, 1.5, 2.0)
TRAINED = 2000
STEPS = 60
TIER_LAYER = 2
BATCH = 32


@dataclass(frozen=True)
class Exits:
    """The logits [layers, n, classes] of every exit on calibration data; the last is the model's own.

    `labels` name its classes, `ramps` are weight [classes, width] and bias [classes] after all layers but the last.
    """

    logits: Floats
    labels: tuple[str, ...]
    ramps: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]

    def leave_at(self, entropy: float) -> IntArray:
        """The layer (from 0) at which each sample leaves."""
        logs = log_softmax(self.logits, axis=-1)
        sure = -(np.exp(logs) * logs).sum(axis=-1) < entropy
        sure[-1] = True
        return np.asarray(sure.argmax(axis=0))

    def answers(self, layers: IntArray) -> IntArray:
        """The class of each sample at the layer where it leaves."""
        return np.asarray(self.logits[layers, np.arange(len(layers))].argmax(axis=-1))


def choose_entropy(exits: Exits, truth: IntArray, max_drop: float) -> float:
    """The entropy that leaves earliest among those that cost at most `max_drop` on calibration data."""
    best = (exits.answers(np.full(len(truth), len(exits.logits) - 1)) == truth).mean()
    kept = [s for s in ENTROPIES if (exits.answers(exits.leave_at(s)) == truth).mean() >= best - max_drop]
    return max(kept, default=0.0)


def exits_of(
    folder: str, trained: Sequence[tuple[str, ...]], labels: Sequence[str], items: Sequence[tuple[str, ...]]
) -> Exits:
    """Train the exits of a Hugging Face classifier on the first of `trained` and its `labels`; run it on `items`."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    names = tuple(str(model.config.id2label[i]) for i in range(model.config.num_labels))
    seen, _ = _states(model, tokenizer, trained[:TRAINED])
    new, own = _states(model, tokenizer, items)
    target = torch.tensor([names.index(label) for label in labels[:TRAINED]])
    ramps = [_ramp(seen[layer], target, model.config.num_labels) for layer in range(len(seen) - 1)]
    logits = [(new[layer] @ weight.T + bias).numpy() for layer, (weight, bias) in enumerate(ramps)]
    stored = tuple((weight.numpy(), bias.numpy()) for weight, bias in ramps)
    return Exits(np.stack([*logits, own.numpy()]).astype(np.float64), names, stored)


@torch.inference_mode()
def _states(model: torch.nn.Module, tokenizer: object, items: Sequence[tuple[str, ...]]) -> tuple[Tensor, Tensor]:
    """CLS after every layer [layers, n, width], and the model's own logits [n, classes]."""
    columns = [list(column) for column in zip(*items, strict=True)]
    encoded = tokenizer(*columns, truncation="longest_first", max_length=128)  # type: ignore[operator]
    order = sorted(range(len(items)), key=lambda i: len(encoded["input_ids"][i]))
    states, logits = [], []
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        inputs = {
            name: pad_sequence([torch.tensor(encoded[name][i]) for i in rows], batch_first=True)
            for name in ("input_ids", "attention_mask", "token_type_ids")
        }
        output = model(**inputs, output_hidden_states=True)
        states.append(torch.stack([hidden[:, 0] for hidden in output.hidden_states[1:]]))
        logits.append(output.logits)
    back = torch.tensor(order).argsort()
    return torch.cat(states, dim=1)[:, back].clone(), torch.cat(logits)[back].clone()


def _ramp(states: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression with a little weight decay, by L-BFGS."""
    states = states.clone()
    weight = torch.zeros(classes, states.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = functional.cross_entropy(states @ weight.T + bias, y) + 1e-4 * (weight**2).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return weight.detach(), bias.detach()
