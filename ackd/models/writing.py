"""How a causal language model goes on with a text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from ackd.errors import InputError
from ackd.models.forward import Model

Tokens = NDArray[np.int64]
Draws = NDArray[np.float64]


class Choice:
    """A processor of logits that leaves one token each time, and sees whether the model's answers are numbers.

    It is the one at which the chances, added up in the vocabulary's order, pass a draw; the likeliest at temperature 0.

    Args:
        vocabulary: tokens there are; a model may have outputs beyond them.
        temperature: of the distribution.
        draws: [B, T], in [0, 1): one for each token that is written.
    """

    def __init__(self, vocabulary: int, temperature: float, draws: Tensor) -> None:
        self._vocabulary, self._temperature, self._draws, self._at = vocabulary, temperature, draws, 0
        self.sound = torch.tensor(True, device=draws.device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """0 for the token, and minus infinity for all others, [B, V]."""
        known = scores[:, : self._vocabulary]
        self.sound &= ~(known.isnan() | known.isposinf()).any()
        chosen = known.argmax(-1, keepdim=True)
        if self._temperature > 0:
            sums = (known.double() / self._temperature).softmax(-1).cumsum(-1)
            chosen = (sums > self._draws[:, self._at, None] * sums[:, -1:]).int().argmax(-1, keepdim=True)
        self._at += 1
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen, 0.0)


def generate_tokens(
    model: Model,
    texts: Sequence[Tokens],
    draws: Sequence[Draws],
    *,
    vocabulary: int,
    temperature: float = 1.0,
    no_repeat: int = 0,
) -> list[Tokens]:
    """What a model writes behind each text; the end of a text stops nothing, as in what such models are trained on.

    Args:
        model: a causal language model in eval mode; its own settings of how to generate are replaced.
        texts: the tokens of each, one at least.
        draws: for each as many numbers in [0, 1) as tokens are to be written: all that is random.
        vocabulary: the tokenizer's tokens; the model writes no other.
        temperature: of the distribution that is drawn from; 0 takes the likeliest token each time.
        no_repeat: no run of so many tokens comes twice; 0 lets any.

    Raises:
        InputError: if the model answers what is no number.
    """
    longest, most = max(map(len, texts)), max(map(len, draws))
    ids, mask = torch.zeros(2, len(texts), longest, dtype=torch.int64)
    for row, text in enumerate(texts):  # on the left, so that all of them end together
        ids[row, longest - len(text) :] = torch.from_numpy(text)
        mask[row, longest - len(text) :] = 1
    padded = np.stack([np.pad(row, (0, most - len(row))) for row in draws])
    choice = Choice(vocabulary, temperature, torch.from_numpy(padded).to(model.device))
    model.generation_config = GenerationConfig(pad_token_id=0, do_sample=False)
    with torch.no_grad():
        whole = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            logits_processor=LogitsProcessorList([choice]),
            max_new_tokens=most,
            no_repeat_ngram_size=no_repeat,
        )
    if not choice.sound:
        raise InputError("the model answers NaN or infinity for the next token: it is damaged, or needs fp32")
    written: Tokens = whole[:, longest:].cpu().numpy()
    return [row[: len(own)] for row, own in zip(written, draws, strict=True)]


def check_causal(model: Model, source: str) -> None:
    """Refuses a model whose tokens see what follows them, as an encoder's do: it would know the next one.

    Raises:
        InputError: if another last token changes what is said of the ones before.
    """
    texts = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4]], device=model.device)
    learning = model.training
    with torch.no_grad():
        one, other = model.eval()(input_ids=texts).logits[:, :-1]
    model.train(learning)
    if not torch.allclose(one, other, rtol=1e-3, atol=1e-4):
        raise InputError(
            f"{source} is no causal language model: its tokens see what follows them, as those of an encoder such as "
            "BERT; take a family such as gpt2 or llama"
        )
