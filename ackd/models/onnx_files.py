"""Writes classifiers as ONNX files, and runs these files."""

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
TRACED = (2, 8)  # texts and tokens of the traced batch; any numbers above 1
LARGE = 3 << 29  # larger weights (in bytes) get their own file, because a protobuf file has at most 2 GiB


def check_onnx() -> None:
    """Checks that the packages for ONNX files are installed.

    Raises:
        InputError: if one is missing.
    """
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(f'writing ONNX needs {", ".join(missing)}, not installed here: pip install "ackd[onnx]"')


def onnx_inputs(model: Model, given: Sequence[str]) -> tuple[str, ...]:
    """The inputs of a model's ONNX file, in order.

    Args:
        model: a classifier.
        given: names of the outputs of its tokenizer.
    """
    known = takes(model)
    single = getattr(model.config, "type_vocab_size", 2) < 2  # the model has no token types
    return tuple(
        name
        for name in INPUTS
        if name in known and (name != INPUTS[2] or (name in given and not single))
    )  # fmt: skip


class _Logits(nn.Module):
    """A classifier that returns only its logits."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.options = {"use_cache": False} if "use_cache" in takes(model) else {}

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """The logits [B, C] of inputs [B, n]."""
        given = zip(INPUTS, (input_ids, attention_mask, token_type_ids), strict=True)
        logits: Tensor = self.model(**{name: one for name, one in given if one is not None}, **self.options).logits
        return logits


def as_read(model: Model, inputs: Sequence[str]) -> Callable[[Batch], Tensor]:
    """Returns a function that computes the logits [B, C] of a batch without gradient, by the unchanged model."""
    plain = _Logits(model).eval()

    def forward(batch: Batch) -> Tensor:
        with torch.no_grad():
            logits: Tensor = plain(**{name: batch.inputs[name] for name in inputs})
        return logits

    return forward


def write_onnx(model: Model, path: Path, inputs: Sequence[str]) -> None:
    """Writes a classifier as ONNX with torch's exporter, for any number of texts and tokens.

    Args:
        model: the model in float32; its layers must not have been changed by `capturing`.
        path: path of the file; weights of more than 1.5 GiB are written to `path`.data.
        inputs: the result of `onnx_inputs`.

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
    except Exception as error:  # the exporter does not support the operations of all families
        cause = reason(error.__cause__ or error)
        raise InputError(
            f"torch {torch.__version__} cannot write a {model.config.model_type} as ONNX ({cause}): use a supported "
            "family, such as bert or deberta-v2"
        ) from error


def write_int8(source: Path, path: Path, model: Model) -> None:
    """Writes an ONNX file with 8-bit matrices and embeddings, with one scale per channel.

    Activations are quantised at run time (onnxruntime's dynamic quantisation), so no data are needed.

    Args:
        source: a file from `write_onnx`.
        path: path of the new file.
        model: the model of `source`.
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
    """Context manager that suppresses the libraries' output, warnings and log messages, but not their errors."""
    sink, before = logging.NullHandler(), logging.root.manager.disable
    logging.root.addHandler(sink)  # without a handler, the first message would install one for good
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            yield
    finally:
        logging.disable(before)
        logging.root.removeHandler(sink)


class OnnxModel:
    """Runs the ONNX file of a classifier on the CPU, with torch's number of threads.

    Args:
        path: path of the file.

    Raises:
        InputError: if onnxruntime cannot load the file.
    """

    def __init__(self, path: Path) -> None:
        runtime = import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4
        self.path = path
        with self._refusing():
            self._session: Any = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = tuple(one.name for one in self._session.get_inputs())

    def __call__(self, batch: Batch) -> Tensor:
        """The logits of a batch, [B, C].

        Raises:
            InputError: if onnxruntime cannot run the file on this batch.
        """
        given = {name: batch.inputs[name].numpy() for name in self.inputs}
        with self._refusing():
            (logits,) = self._session.run(["logits"], given)
        return torch.from_numpy(logits)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the runtime raises many kinds of errors
            raise InputError(f"onnxruntime cannot run {self.path.name} ({reason(error)})") from error
