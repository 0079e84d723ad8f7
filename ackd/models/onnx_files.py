"""Classifiers as ONNX files, which answer without torch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ackd.errors import InputError, reason
from ackd.models.families import takes
from ackd.models.forward import Model
from ackd.types import Batch

ONNX, INT8 = "model.onnx", "model_quantized.onnx"  # as Hugging Face's optimum calls them
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
TRACED = (2, 8)  # texts and tokens of the batch that is traced; any other will do, but 1
LARGE = 3 << 29  # bytes of weights behind which they get a file of their own: one of protobuf holds 2 GiB at most


def check_onnx() -> None:
    """Looks for the packages that write and run ONNX files.

    Raises:
        InputError: if one is missing.
    """
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(f'writing ONNX needs {", ".join(missing)}, not installed here: pip install "ackd[onnx]"')


def onnx_inputs(model: Model, given: Sequence[str]) -> tuple[str, ...]:
    """Which of a tokenizer's outputs a model's file reads, in this order.

    Args:
        model: a classifier.
        given: what its tokenizer gives.
    """
    known = takes(model)
    single = getattr(model.config, "type_vocab_size", 2) < 2  # nothing tells two sentences apart
    return tuple(
        name
        for name in INPUTS
        if name in known and (name != INPUTS[2] or (name in given and not single))
    )  # fmt: skip


class _Logits(nn.Module):
    """A classifier that answers with its logits alone."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.more = {"use_cache": False} if "use_cache" in takes(model) else {}

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """[B, C], from [B, n] each."""
        given = zip(INPUTS, (input_ids, attention_mask, token_type_ids), strict=True)
        answer: Tensor = self.model(**{name: one for name, one in given if one is not None}, **self.more).logits
        return answer


def as_read(model: Model, inputs: Sequence[str]) -> Callable[[Batch], Tensor]:
    """A model as whoever has never heard of us asks it: from a batch to logits, [B, C], without gradient."""
    plain = _Logits(model).eval()

    def ask(batch: Batch) -> Tensor:
        with torch.no_grad():
            answer: Tensor = plain(**{name: batch.inputs[name] for name in inputs})
        return answer

    return ask


def write_onnx(model: Model, path: Path, inputs: Sequence[str]) -> None:
    """Writes a classifier as ONNX, for any number of texts and of tokens, by torch's exporter.

    Args:
        model: in float32, as it was read: nothing has looked into its layers.
        path: of the file; weights of more than 1.5 GiB go to `path`.data.
        inputs: as of `onnx_inputs`.

    Raises:
        InputError: if the exporter cannot write a model of this family.
    """
    tokens = torch.arange(TRACED[0] * TRACED[1]).reshape(TRACED) % (model.config.vocab_size - 1)
    mask = torch.ones(TRACED, dtype=torch.int64)
    mask[0, TRACED[1] // 2 :] = 0
    example = dict(zip(INPUTS, (tokens, mask, torch.zeros_like(tokens)), strict=True))
    try:
        with _quietly(), torch.no_grad():
            torch.onnx.export(
                _Logits(model).eval(),
                (),
                path,
                kwargs={name: example[name] for name in inputs},
                input_names=list(inputs),
                output_names=["logits"],
                dynamic_shapes={name: {0: "batch", 1: "sequence"} for name in inputs},
                dynamo=True,
                external_data=_large(model),
                verbose=False,
            )
    except Exception as error:  # hundreds of families compute in ways that an exporter may not know
        why = reason(error.__cause__ or error)
        raise InputError(
            f"torch {torch.__version__} cannot write a {model.config.model_type} as ONNX ({why}): take a family that "
            "it can, such as bert or deberta-v2"
        ) from error


def write_int8(source: Path, path: Path, model: Model) -> None:
    """Writes an ONNX file again with the weights of its matrices and embeddings in 8 bits, a scale for each channel.

    What goes through them is brought to 8 bits as it comes (onnxruntime's dynamic quantisation), so no data is needed.

    Args:
        source: as `write_onnx` has written it.
        path: of the new file.
        model: what it was written from.
    """
    quantization = import_module("onnxruntime.quantization")
    with _quietly():
        quantization.quantize_dynamic(
            source,
            path,
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            use_external_data_format=_large(model),
        )


def _large(model: Model) -> bool:
    return bool(sum(one.nbytes for one in model.parameters()) > LARGE)


@contextmanager
def _quietly() -> Iterator[None]:
    """Keeps what the libraries note about themselves from the terminal; what they raise goes on."""
    sink, before = logging.NullHandler(), logging.root.manager.disable
    logging.root.addHandler(sink)  # or the first note would set up a handler for all that follows
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            yield
    finally:
        logging.disable(before)
        logging.root.removeHandler(sink)


class OnnxModel:
    """An ONNX file of a classifier, answering on the CPU with as many threads as torch has.

    Args:
        path: of the file.

    Raises:
        InputError: if onnxruntime cannot run it.
    """

    def __init__(self, path: Path) -> None:
        runtime = import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4
        self.path = path
        with self._telling():
            self._session: Any = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = tuple(one.name for one in self._session.get_inputs())

    def __call__(self, batch: Batch) -> Tensor:
        """The logits, [B, C].

        Raises:
            InputError: if it cannot answer a batch of that shape.
        """
        given = {name: batch.inputs[name].numpy() for name in self.inputs}
        with self._telling():
            (logits,) = self._session.run(["logits"], given)
        return torch.from_numpy(logits)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the runtime has an exception for each of its states
            raise InputError(f"onnxruntime cannot run {self.path.name} ({reason(error)})") from error
