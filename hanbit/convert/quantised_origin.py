"""A source whose matrices are rounded to int4 or int8 on the way: the folder gets the blocks, and as its float tensors
the numbers that these stand for, so that whoever reads it computes the same model.

The embedding and the output projection are int8 in groups of 32 whatever the others are: each token reads one row of
the first, and the second decides between all tokens. llama.cpp keeps them wider, too; AWQ and GPTQ leave them float.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors import safe_open

from hanbit.checkpoint.block_names import places_in_blocks, whole_of
from hanbit.checkpoint.model_folder import is_packed, load_model, read_tensors
from hanbit.checkpoint.model_weights import empty_model, shapes_of
from hanbit.checkpoint.rounded_blocks import blocks_of, type_of
from hanbit.common.errors import ConfigError, FormatError, ModelError
from hanbit.config.model import ModelConfig
from hanbit.convert.calibration import calibration_tokens
from hanbit.convert.folded import Folded
from hanbit.convert.gguf_origin import GGUFOrigin
from hanbit.convert.logits import logits_of_ours, tokens_to_try
from hanbit.convert.origin import Origin, Report
from hanbit.convert.perplexity import perplexities, windows_of
from hanbit.convert.quantisation import Quantisation
from hanbit.formats.gguf.blocks import FILE, write_blocks
from hanbit.models.layers.decoder import Decoder
from hanbit.quantize.calibrate import ENDS, calibrated
from hanbit.quantize.groups import Rounded, Scheme, rounded
from hanbit.tokenizers.load import TOKENIZER_FILE
from hanbit.tokenizers.load import load as load_tokenizer

_END_SCHEME = Scheme(8, 32)
_FURTHEST = 0.7  # of the logits' size; logits of another model are further away than their size


class QuantisedOrigin:
    """Raises FormatError, ModelError, ConfigError where the source cannot be quantised so."""

    dtype = torch.float32  # what the numbers of blocks are exact in

    def __init__(self, origin: Origin, asked: Quantisation, report: Report) -> None:
        _refuse_quantised(origin)
        self.path, self.license = origin.path, origin.license
        self.config: ModelConfig = origin.config
        self._origin, self._asked, self._report = origin, asked, report
        self._places = places_in_blocks(self.config, shapes_of(self.config))
        self._sources = {own: source for places in self._places.values() for own, source in places.items()}
        self._names = {own: source.name for own, source in self._sources.items()}
        if set(self._names) <= set(ENDS):
            raise ModelError(
                f"{origin.path}: no matrix of family {self.config.family} can be in blocks: its files have them "
                "turned. Quantised are llama (Mistral, Qwen too), phi3, gemma, exaone, neox, opt, bloom"
            )
        self._check_groups()
        self._rounded: dict[str, Rounded] = {}
        self._calibration = torch.empty(0)
        self.described = (
            f"{origin.described}; {len(self._names)} matrices to {asked.choice} by {asked.method} in groups of "
            f"{asked.group} ({asked.scheme.bits_per_number:.4g} bits a number; embedding and output int8)"
        )

    def sha256(self) -> str:
        return self._origin.sha256()

    def tensors(self, dtype: torch.dtype) -> Mapping[str, torch.Tensor]:
        """Of a method that looks at a text `tokenizer` has to be called before: the text is read with it."""
        source: Mapping[str, torch.Tensor] = _Each(self._origin.tensors(torch.float32), self._finite)
        if not self._asked.calibration:
            return _Each(source, lambda name, numbers: self._nearest(name, numbers).to(dtype))
        return _Each(self._calibrated(source), lambda _, numbers: numbers.to(dtype))

    def tokenizer(self, folder: Path) -> Path | None:
        """A text that is too short is refused now, before the rounding."""
        found, sources = self._origin.tokenizer(folder), self._asked.calibration
        if found is not None:
            self._windows(found)
            if sources:
                self._calibration = calibration_tokens(load_tokenizer(found), sources, self.config.context)
        elif sources:
            raise ConfigError(f"--method {self._asked.method} reads a text, and {self.path} has no {TOKENIZER_FILE}")
        return found

    def require_blocks(self) -> None:
        """It makes its own."""

    def complete(self, folder: Path, keep_blocks: bool) -> None:
        self._origin.complete(folder, False)
        blocks = {name: blocks_of(one) for name, one in self._rounded.items()}
        write_blocks(folder, {stored: whole_of(blocks, places) for stored, places in self._places.items()})

    def prove(self, folder: Path, report: Report) -> dict[str, Any]:
        """The folder's blocks, read by the package gguf, are its float tensors; the others are the source's, or with
        awq as folded.py says; logits are near the source's. And perplexities, over texts."""
        source, target = self._origin.tensors(torch.float32), read_tensors(folder)
        folded = Folded(empty_model(self.config), source, target, {name: self._scheme_of(name) for name in self._names})
        with safe_open(folder / FILE, framework="np") as blocks:
            for count, name in enumerate(target, 1):
                found = target[name]
                if name in self._names:
                    stored = blocks.get_tensor(self._names[name])
                    wanted = torch.from_numpy(gguf.dequantize(stored, type_of(self._scheme_of(name))))
                    is_right = torch.equal(self._sources[name].read(wanted).to(found.dtype), found)
                elif self._asked.method == "awq":
                    is_right = folded.is_right(name)
                else:
                    is_right = torch.equal(source[name].to(found.dtype), found)
                if not is_right:
                    raise ModelError(f"proof failed: {name} of {folder} is not what its blocks or {self.path} say")
                report("comparing tensors", count / len(target))
        readers = "gguf.dequantize and safetensors"
        return {
            "tensors": len(target),
            "in_blocks": len(self._names),
            **self._compared(folder, report),
            "readers": readers,
        }

    def _finite(self, name: str, numbers: torch.Tensor) -> torch.Tensor:
        if not all(bool(end.isfinite()) for end in numbers.aminmax()):
            stored = self._names.get(name, name)
            raise ModelError(f"{self.path}: {stored} has numbers that are NaN or infinite. It is damaged: get it anew")
        return numbers

    def _nearest(self, name: str, numbers: torch.Tensor) -> torch.Tensor:
        """Rounded where the tensor is to be; its codes are kept for `complete`."""
        if name not in self._names:
            return numbers
        try:
            self._rounded[name] = rounded(numbers, self._scheme_of(name))
        except ValueError as problem:
            raise ModelError(f"{self.path}: {self._names[name]}: {problem}. It cannot be quantised") from None
        return self._rounded[name].numbers()

    def _calibrated(self, source: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        model, schemes = _model_of(self.config, source), {name: self._scheme_of(name) for name in self._names}
        try:
            self._rounded = calibrated(model, schemes, self._asked.method, self._calibration, self._report)
        except ValueError as problem:
            raise ModelError(f"{self.path}: {problem}. It cannot be quantised") from None
        return {name: parameter.detach() for name, parameter in model.named_parameters()}

    def _scheme_of(self, name: str) -> Scheme:
        return _END_SCHEME if name in ENDS else self._asked.scheme

    def _check_groups(self) -> None:
        shapes = shapes_of(self.config)
        for name, stored in self._names.items():
            columns, group = shapes[name][1], self._scheme_of(name).group
            if columns % group:
                fitting = [str(one) for one in (32, 64, 128) if columns % one == 0]
                way_out = f"Use --group {' or '.join(fitting)}" if fitting else "Rows must be a multiple of 32"
                raise ConfigError(f"--group {group} does not divide the rows of {stored}, {columns} numbers. {way_out}")

    def _windows(self, folder: Path) -> dict[str, torch.Tensor]:
        return windows_of(load_tokenizer(folder), self._asked.text, self.config.context)

    def _compared(self, folder: Path, report: Report) -> dict[str, Any]:
        """Logits and perplexity of source and folder; memory for one model at a time."""
        vocabulary = self.config.vocabulary
        assert isinstance(vocabulary, int)
        tokens = tokens_to_try(vocabulary, self.config.context)
        windows = self._windows(folder) if (folder / TOKENIZER_FILE).is_file() else {}
        report("logits and perplexity of the source", 0.0)
        before = _model_of(self.config, self._origin.tensors(torch.float32))
        wanted, of_source = logits_of_ours(before, tokens), perplexities(before, windows)
        del before
        report("logits and perplexity of the folder", 0.0)
        after = load_model(folder)
        distance = _distance(wanted, logits_of_ours(after, tokens))
        if not distance <= _FURTHEST:
            raise ModelError(
                f"proof failed: logits of {folder} are {distance:.3g} of their size away from the source's, at most "
                f"{_FURTHEST} is rounding. These weights do not bear {self._asked.choice}"
            )
        return {
            "logit_tokens": len(tokens),
            "logits_difference": distance,
            "perplexity_before": of_source,
            "perplexity_after": perplexities(after, windows),
            "text_sha256": self._asked.text_sha256(),
        }


def quantised(origin: Origin, asked: Quantisation | None, report: Report) -> Origin:
    return origin if asked is None else QuantisedOrigin(origin, asked, report)


def _refuse_quantised(origin: Origin) -> None:
    if isinstance(origin, GGUFOrigin) and origin.has_blocks:
        raise FormatError(
            f"{origin.path} is quantised already, and rounding twice loses twice. Convert it with --keep-blocks, or "
            "quantise the model it was made of"
        )
    if origin.path.is_dir() and ((origin.path / FILE).is_file() or is_packed(origin.path)):
        raise FormatError(
            f"{origin.path} is quantised already: it has {FILE} or a quantization_config. Quantise the model "
            "it was made of"
        )


def _model_of(config: ModelConfig, tensors: Mapping[str, torch.Tensor]) -> Decoder:
    model: Decoder = empty_model(config).to_empty(device="cpu")
    model.tie()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])
    return model.eval().requires_grad_(False)


def _distance(wanted: torch.Tensor, found: torch.Tensor) -> float:
    """Root mean square of the difference, of that of `wanted`."""
    return float((wanted.float() - found).norm() / wanted.float().norm().clamp(min=1e-30))


class _Each(Mapping[str, torch.Tensor]):
    """Tensors that go through `change`, (name, tensor), when they are asked for."""

    def __init__(
        self, tensors: Mapping[str, torch.Tensor], change: Callable[[str, torch.Tensor], torch.Tensor]
    ) -> None:
        self._tensors, self._change = tensors, change

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._change(name, self._tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
