"""Text generation with causal language models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from ackd.errors import InputError
from ackd.models.forward import Model, predicts_tokens

Tokens = NDArray[np.int64]
Draws = NDArray[np.float64]


class Choice:
    """A logits processor that selects one token per step, and checks the logits for NaN and infinity.

    The token is sampled by inverse transform: the first one with a cumulative probability above the draw. Temperature
    0 selects the most likely token.

    Args:
        vocabulary: number of tokens; a model may have more outputs.
        temperature: of the distribution.
        draws: [B, T], in [0, 1): one random number per generated token.
    """

    def __init__(self, vocabulary: int, temperature: float, draws: Tensor) -> None:
        self._vocabulary, self._temperature, self._draws, self._at = vocabulary, temperature, draws, 0
        self.sound = torch.tensor(True, device=draws.device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Returns 0 for the selected token and minus infinity for all others, [B, V]."""
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
    """Generates a continuation of each text; an end-of-text token does not stop it, as in the training data.

    Args:
        model: a causal language model in eval mode; its generation config is replaced.
        texts: the tokens of each text, at least one.
        draws: for each text, one random number in [0, 1) per token to generate.
        vocabulary: size of the tokenizer's vocabulary; the model generates no other tokens.
        temperature: of the distribution; 0 selects the most likely token.
        no_repeat: n-grams of this length do not repeat; 0 allows all.

    Raises:
        InputError: if a logit is NaN or infinite.
    """
    longest, most = max(map(len, texts)), max(map(len, draws))
    ids, mask = torch.zeros(2, len(texts), longest, dtype=torch.int64)
    for row, text in enumerate(texts):  # padding on the left, so that all texts end at the same place
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
    """Refuses a model that is not causal: its tokens attend to later tokens, as in an encoder.

    Raises:
        InputError: if it predicts no tokens, or a change of the last token changes the logits of earlier tokens.
    """
    texts = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4]], device=model.device)
    learning = model.training
    with torch.no_grad():
        answer = getattr(model.eval()(input_ids=texts), "logits", None)
    model.train(learning)
    if answer is None or answer.dim() != 3 or not predicts_tokens(model):
        raise InputError(
            f"{source} is a {type(model).__name__}, which predicts no next tokens: load it with AutoModelForCausalLM"
        )
    one, other = answer[:, :-1]
    if not torch.allclose(one, other, rtol=1e-3, atol=1e-4):
        raise InputError(
            f"{source} is no causal language model: its tokens see what follows them, as those of an encoder such as "
            "BERT; take a family such as gpt2 or llama"
        )
