"""Tokens of many sequences through a whole llama-shaped model in one native call.

It reads and writes the engine's own cache, so that steps of this kind and of the PyTorch path may follow each other.
What a token gets from it depends on its own sequence alone, to the last bit: not on what else is in the step, nor on
how a prompt is cut into steps.
"""

import ctypes
import weakref
from array import array
from collections.abc import Sequence

import torch
from torch import nn

from hanbit.engine.fuse import JoinedBlock, JoinedGatedMLP
from hanbit.engine.kv_cache import KVCache
from hanbit.engine.native import NativeEmbedding, NativeLinear
from hanbit.engine.quick import QuickRMSNorm
from hanbit.kernels import structs
from hanbit.kernels.blocks import Kind
from hanbit.kernels.library import native
from hanbit.models.layers.decoder import Decoder
from hanbit.models.llama.model import Llama

_FIRST_ANGLES = 1024  # positions
# Tokens of a prompt, float32 and 16 bits: of more PyTorch makes products of floats in up to half of the time, of fewer
# its threads are in the way (SmolLM2: 103 ms natively and 269 for 33 tokens, as much for 96, 1.8 and 1.1 s for 512)
_SHORT, _SHORT_OF_HALVES = 96, 64


class NativeStep:
    """`model` is a fused one that `fits`. Not safe between threads, as the cache."""

    def __init__(self, model: Decoder, cache: KVCache) -> None:
        found = native()
        assert found is not None
        self._kernels, self._model, self._cache = found, model, cache
        self._vocabulary = int(model.config.vocabulary)
        self._layers = (structs.Layer * len(cache.keys))(*map(_layer, model.layers.values(), cache.keys, cache.values))
        self._decoder = _decoder(model, cache, self._layers)
        self._short = _short(model)
        self._num_angles = 0
        self._turn(_FIRST_ANGLES)
        step = found.library.hanbit_step_new(found.kernels, ctypes.byref(self._decoder))
        self._step = ctypes.c_void_p(step)
        ending = weakref.finalize(self, found.library.hanbit_step_free, self._step)
        ending.atexit = False  # a daemon thread may be in a step when the process ends

    def takes(self, num_tokens: int) -> bool:
        """Is this the way for so many tokens of one sequence?"""
        return self._short is None or num_tokens <= self._short

    def __call__(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        blocks: "Sequence[array[int]]",
        wanted: Sequence[int],
    ) -> torch.Tensor:
        """Feed tokens, a row each, sequence by sequence and in the order of their positions.

        `blocks`: of each row's sequence, of its positions from 0 on. Logits [wanted, vocabulary] of the rows in
        `wanted`, which ascend.
        """
        assert 0 <= min(tokens) <= max(tokens) < self._vocabulary
        ends = [len(table) * self._cache.block_size for table in blocks]
        assert min(positions) >= 0
        assert all(position < end for position, end in zip(positions, ends, strict=True))
        tables = {id(table): table for table in blocks}.values()
        assert all(table.itemsize == ctypes.sizeof(ctypes.c_int32) for table in tables)
        assert all(0 <= min(table) <= max(table) < self._cache.num_blocks for table in tables)
        self._turn(max(positions) + 1)
        logits = torch.empty(len(wanted), self._vocabulary, dtype=torch.float32, device="cpu")  # whatever the defaults
        rows = len(tokens)
        assert not wanted or 0 <= wanted[0] <= wanted[-1] < rows
        numbers, addresses = ctypes.c_int64 * rows, ctypes.c_void_p * rows
        self._kernels.library.hanbit_step_run(
            self._step,
            numbers(*tokens),
            numbers(*positions),
            addresses(*(table.buffer_info()[0] for table in blocks)),
            rows,
            (ctypes.c_int64 * len(wanted))(*wanted),
            len(wanted),
            logits.data_ptr(),
            torch.get_num_threads(),
        )
        return logits

    def _turn(self, end: int) -> None:
        """Have the angles of positions below `end`; a long context's are not computed before they are needed."""
        if end <= self._num_angles:
            return
        self._num_angles = max(end, 2 * self._num_angles)
        cosines, sines = self._model.rotation(torch.arange(self._num_angles, device="cpu"))  # [positions, 1, rotated]
        half = cosines.shape[-1] // 2
        self._angles = cosines[:, 0, :half].contiguous(), sines[:, 0, :half].contiguous()
        self._decoder.rotated = 2 * half
        self._decoder.cosines, self._decoder.sines = (angles.data_ptr() for angles in self._angles)


def _short(model: Decoder) -> int | None:
    """Tokens of a prompt that are few; None: blocks are multiplied natively, however many there are."""
    linears = [module for module in model.modules() if isinstance(module, NativeLinear)]
    if not all(linear.is_float for linear in linears):
        return None
    return _SHORT if all(linear.matrices[0].kind == Kind.FLOAT32 for linear in linears) else _SHORT_OF_HALVES


def fits(model: Decoder) -> bool:
    """Can a fused model be run by a native step? All of it: shape, dtype, place. Kernels know no other family's
    blocks, nor ALiBi, nor capped scores."""
    return (
        type(model) is Llama
        and isinstance(model.output, NativeLinear)
        and isinstance(model.norm, QuickRMSNorm)
        and all(
            isinstance(block, JoinedBlock)
            and isinstance(block.mlp, JoinedGatedMLP)
            and isinstance(block.mlp.down, NativeLinear)
            for block in model.layers.values()
        )
    )


def _decoder(model: Decoder, cache: KVCache, layers: "ctypes.Array[structs.Layer]") -> structs.Decoder:
    block, norm, output = next(iter(model.layers.values())), model.norm, model.output
    assert isinstance(block, JoinedBlock)
    assert isinstance(norm, QuickRMSNorm)
    assert isinstance(output, NativeLinear)
    attention, down = block.attention, block.mlp.down
    assert isinstance(down, NativeLinear)
    return structs.Decoder(
        num_layers=len(layers),
        hidden=model.config.hidden,
        heads=attention.heads,
        key_value_heads=attention.key_value_heads,
        head_dim=attention.head_dim,
        inner=down.in_features,
        block_size=cache.block_size,
        kept=structs.Kept.INT8 if cache.shape.is_int8 else structs.Kept.FLOATS,
        epsilon=norm.epsilon,
        embedding=_table(model),
        layers=layers,
        norm=norm.weight.data_ptr(),
        head=output.struct(),
    )


def _layer(block: nn.Module, keys: torch.Tensor, values: torch.Tensor) -> structs.Layer:
    assert isinstance(block, JoinedBlock)
    attention, mlp = block.attention, block.mlp
    assert isinstance(mlp, JoinedGatedMLP)
    has_norms = attention.has_head_norms
    return structs.Layer(
        attention_norm=_address(block.attention_norm),
        projection=_struct(attention.projection),
        query_norm=_address(attention.query_norm) if has_norms else None,
        key_norm=_address(attention.key_norm) if has_norms else None,
        output=_struct(attention.output),
        mlp_norm=_address(block.mlp_norm),
        gate_up=_struct(mlp.projection),
        down=_struct(mlp.down),
        keys=keys.data_ptr(),
        values=values.data_ptr(),
        scale=attention.scale,
        window=attention.sliding_window or 0,
    )


def _struct(linear: nn.Module) -> structs.Linear:
    assert isinstance(linear, NativeLinear)
    return linear.struct()


def _table(model: Decoder) -> structs.Matrix:
    embedding: nn.Module = model.embedding
    if isinstance(embedding, NativeEmbedding):
        return embedding.struct()
    assert isinstance(embedding, nn.Embedding)
    return structs.Matrix(embedding.weight.data_ptr(), Kind.FLOAT32, len(embedding.weight))


def _address(norm: nn.Module) -> int:
    assert isinstance(norm, QuickRMSNorm)
    return norm.weight.data_ptr()
