"""The layouts that are compared with one process, and the collective that each of them proves necessary."""

from dataclasses import dataclass, field
from typing import Any

from hanbit.parallel.collectives import Purpose

STEPS = 20
NOTICED_STEPS = 3  # of a case without one of its collectives: the first two steps already differ
TOLERANCE = 1e-5  # relative: of every loss, and of every gradient tensor's norm
NOISE = 1e-8  # of the total gradient norm: what is left in fp32 of a gradient that is zero by mathematics
LEAST_FALL = 0.20  # of the loss over the steps, so that equality is not equality of standing still


@dataclass(frozen=True)
class Case:
    """`model`: which of MODELS. `settings`: recipe sections that differ from one process."""

    name: str
    model: str
    processes: int
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)


_PLAIN: dict[str, Any] = {
    "layers": 4, "hidden": 64, "heads": 4, "inner": 256, "vocabulary": 513, "context": 64, "initial_deviation": 0.08,
}  # fmt: skip


def _llama(**more: Any) -> dict[str, Any]:
    shape = {"layers": 4, "hidden": 64, "heads": 4, "key_value_heads": 2, "inner": 176, "vocabulary": 513}
    return {"family": "llama", **shape, "context": 64, "initial_deviation": 0.08, **more}


def _mixture(**more: Any) -> dict[str, Any]:
    experts = {"experts": 4, "expert_inner": 48, "balance_coefficient": 0.05, "z_coefficient": 0.01}
    return {**_llama(query_key_norm=True), "family": "mixture", **experts, **more}


MODELS: dict[str, dict[str, Any]] = {
    # 513 token ids: an odd number, so that a cut of the vocabulary is uneven
    "llama": _llama(query_key_norm=True),
    "llama tied": _llama(tied=True, query_key_value_bias=True),
    "mixture": _mixture(),
    "mixture unbalanced": _mixture(sparse_every=2, normalize_weights=False, tied=True, balance_coefficient=0.0,
                                   z_coefficient=0.0),
    "llama 4 kv": _llama(key_value_heads=4),
    "llama window": _llama(sliding_window=9),
    "llama 6 layers": _llama(layers=6),
    "gpt": {
        "family": "gpt", "layers": 4, "hidden": 64, "heads": 4, "inner": 256, "vocabulary": 513, "context": 64,
        "initial_deviation": 0.08,
    },
    "neox": {**_PLAIN, "family": "neox", "rotary_fraction": 0.5},
    "neox as gptj": {
        **_PLAIN, "family": "neox", "rotary_fraction": 0.5, "rotary_neighbours": True, "shared_norm": True,
        "attention_bias": False, "output_bias": True,
    },
    # Not ReLU: at its kink one rounding switches a gradient on or off, and the difference grows from step to step
    "opt": {**_PLAIN, "family": "opt", "activation": "gelu"},
    "bloom": {**_PLAIN, "family": "bloom"},
    "gemma": _llama(family="gemma", tied=True, query_key_norm=True, sliding_window=9, window_rotary_base=100.0,
                    query_width=20.0),
    "gemma capped": _llama(family="gemma", tied=True, sliding_window=9, score_cap=2.0),
    "exaone": _llama(family="exaone", sliding_window=9, full_every=2),
    "phi3": _llama(family="phi3"),
    # beside 513 ids of the text those of the task: 4, and 100 sentinels and an end
    # two layers: in a later one all tokens soon look alike, and its query's gradient is mostly rounding
    "bert": {
        "family": "bert", "layers": 2, "hidden": 64, "heads": 4, "inner": 256, "vocabulary": 517, "context": 64,
        "initial_deviation": 0.08,
    },
    "t5": {
        "family": "t5", "layers": 2, "decoder_layers": 3, "hidden": 64, "heads": 4, "inner": 256, "vocabulary": 615,
    },
    "t5 gated": {
        "family": "t5", "layers": 3, "decoder_layers": 2, "hidden": 64, "heads": 4, "head_dim": 12, "inner": 176,
        "vocabulary": 615, "gated": True, "tied": False, "scaled_output": False,
    },
    "llama packed": _llama(sliding_window=9),
}  # fmt: skip
RELATIVES = ("bloom", "gemma", "exaone", "neox", "opt", "phi3")
"""Families of other blocks in the same trunk; those whose attention is most unlike Llama's first."""

MODELS |= {f"{name} packed": MODELS[name] for name in ("gpt", *RELATIVES)}
PACKED = {name for name in MODELS if name.endswith(" packed")}
"""Trained on documents kept apart, data.packing=documents."""


def _recomputed(kind: str, **axes: Any) -> dict[str, dict[str, Any]]:
    return {**_parallel(**axes), "training": {"recompute": kind}}


def _parallel(**axes: Any) -> dict[str, dict[str, Any]]:
    return {"parallel": axes}


def _zero_bubble_v(**axes: Any) -> dict[str, dict[str, Any]]:
    return _parallel(**axes, schedule="zero_bubble", virtual=2)


EXPERT_AND_DATA = Case("expert 2 x data 2", "mixture", 4, _parallel(data=4, expert=2))

CASES = (
    Case("data 2", "llama", 2, _parallel(data=2)),
    Case("data 2, optimizer sharded", "llama", 2, _parallel(data=2, shard=1)),
    Case("data 2, gradients sharded", "llama", 2, _parallel(data=2, shard=2)),
    Case("data 2, parameters sharded", "llama tied", 2, _parallel(data=2, shard=3)),
    Case("data 2, parameters sharded and offloaded", "gpt", 2, _parallel(data=2, shard=3, offload=True)),
    Case("tensor 2", "llama", 2, _parallel(tensor=2)),
    Case("tensor 2", "llama tied", 2, _parallel(tensor=2)),
    Case("tensor 2", "gpt", 2, _parallel(tensor=2)),
    Case("pipeline 2", "llama", 2, _parallel(pipeline=2)),
    Case("pipeline 2", "llama tied", 2, _parallel(pipeline=2)),
    Case("pipeline 2", "gpt", 2, _parallel(pipeline=2)),
    Case("recompute, tensor 2", "llama", 2, {**_parallel(tensor=2), "training": {"recompute": "full"}}),
    Case("recompute, pipeline 2", "llama", 2, {**_parallel(pipeline=2), "training": {"recompute": "full"}}),
    Case("recompute, data 2, parameters sharded", "gpt", 2,
         {**_parallel(data=2, shard=3), "training": {"recompute": "full"}}),
    Case("data 4", "gpt", 4, _parallel(data=4)),
    Case("tensor 4", "llama 4 kv", 4, _parallel(tensor=4)),
    Case("pipeline 4", "llama tied", 4, _parallel(pipeline=4)),
    Case("data 2 x tensor 2", "llama", 4, _parallel(data=2, tensor=2)),
    Case("data 2 x pipeline 2", "llama tied", 4, _parallel(data=2, pipeline=2)),
    Case("tensor 2 x pipeline 2", "llama", 4, _parallel(tensor=2, pipeline=2)),
    Case("tensor 2 x pipeline 2", "gpt", 4, _parallel(tensor=2, pipeline=2)),
    Case("data 4, optimizer sharded", "gpt", 4, _parallel(data=4, shard=1)),
    Case("data 2 x tensor 2, optimizer sharded", "gpt", 4, _parallel(data=2, tensor=2, shard=1)),
    Case("data 2 x pipeline 2, optimizer sharded", "llama tied", 4, _parallel(data=2, pipeline=2, shard=1)),
    Case("data 2 x pipeline 2, zero bubble as a V, optimizer sharded", "llama tied", 4,
         _zero_bubble_v(data=2, pipeline=2, shard=1)),
    Case("data 2 x tensor 2, gradients sharded", "gpt", 4, _parallel(data=2, tensor=2, shard=2)),
    Case("data 2 x tensor 2, parameters sharded", "llama", 4, _parallel(data=2, tensor=2, shard=3)),
    Case("data 2 x pipeline 2, gradients sharded", "llama tied", 4, _parallel(data=2, pipeline=2, shard=2)),
    Case("data 2 x tensor 2, gradients sharded and offloaded", "llama", 4,
         _parallel(data=2, tensor=2, shard=2, offload=True)),
    Case("data 2 x pipeline 2, parameters sharded and offloaded", "llama tied", 4,
         _parallel(data=2, pipeline=2, shard=3, offload=True)),
    Case("data 2 x pipeline 2, parameters sharded", "gpt", 4, _parallel(data=2, pipeline=2, shard=3)),
    Case("data 2 x tensor 2 x pipeline 2", "llama tied", 8, _parallel(data=2, tensor=2, pipeline=2)),
    Case("data 2 x tensor 2 x pipeline 2", "gpt", 8, _parallel(data=2, tensor=2, pipeline=2)),
    Case("data 2 x tensor 2 x pipeline 2, optimizer sharded", "llama tied", 8,
         _parallel(data=2, tensor=2, pipeline=2, shard=1)),
    Case("data 2 x tensor 2 x pipeline 2, gradients sharded", "llama", 8,
         _parallel(data=2, tensor=2, pipeline=2, shard=2)),
    Case("data 2 x tensor 2 x pipeline 2, parameters sharded", "llama tied", 8,
         _parallel(data=2, tensor=2, pipeline=2, shard=3)),
    Case("pipeline 2, gpipe", "llama", 2, _parallel(pipeline=2, schedule="gpipe")),
    Case("pipeline 2, 1 and 3 layers", "gpt", 2, _parallel(pipeline=2, layers_per_stage=[1, 3])),
    Case("pipeline 2, interleaved", "llama tied", 2, _parallel(pipeline=2, virtual=2)),
    Case("pipeline 2, zero bubble", "llama", 2, _parallel(pipeline=2, schedule="zero_bubble")),
    Case("pipeline 2, zero bubble", "llama tied", 2, _parallel(pipeline=2, schedule="zero_bubble")),
    Case("pipeline 2, zero bubble in 3 stages each", "llama 6 layers", 2,
         _parallel(pipeline=2, schedule="zero_bubble", virtual=3)),
    Case("pipeline 2, zero bubble as a V", "gpt", 2, _zero_bubble_v(pipeline=2)),
    Case("pipeline 2, zero bubble as a V", "llama tied", 2, _zero_bubble_v(pipeline=2)),
    Case("recompute, pipeline 2, interleaved", "llama", 2,
         {**_parallel(pipeline=2, virtual=2), "training": {"recompute": "full"}}),
    Case("recompute, pipeline 2, zero bubble as a V", "llama tied", 2,
         {**_zero_bubble_v(pipeline=2), "training": {"recompute": "full"}}),
    Case("pipeline 4, zero bubble", "llama tied", 4, _parallel(pipeline=4, schedule="zero_bubble")),
    Case("data 2 x pipeline 2, interleaved", "llama", 4, _parallel(data=2, pipeline=2, virtual=2)),
    Case("data 2 x pipeline 2, zero bubble as a V", "llama tied", 4, _zero_bubble_v(data=2, pipeline=2)),
    Case("data 2 x pipeline 2, interleaved, parameters sharded", "llama tied", 4,
         _parallel(data=2, pipeline=2, virtual=2, shard=3)),
    Case("data 2 x pipeline 2, zero bubble, gradients sharded", "llama", 4,
         _parallel(data=2, pipeline=2, schedule="zero_bubble", shard=2)),
    Case("data 2 x pipeline 2, zero bubble as a V, gradients sharded", "llama tied", 4,
         _zero_bubble_v(data=2, pipeline=2, shard=2)),
    Case("tensor 2 x pipeline 2, interleaved", "llama", 4, _parallel(tensor=2, pipeline=2, virtual=2)),
    Case("tensor 2 x pipeline 2, zero bubble as a V", "llama tied", 4, _zero_bubble_v(tensor=2, pipeline=2)),
    Case("data 2 x tensor 2 x pipeline 2, gpipe", "gpt", 8,
         _parallel(data=2, tensor=2, pipeline=2, schedule="gpipe")),
    Case("data 2 x tensor 2 x pipeline 2, interleaved", "llama tied", 8,
         _parallel(data=2, tensor=2, pipeline=2, virtual=2)),
    Case("data 2 x tensor 2 x pipeline 2, zero bubble", "llama tied", 8,
         _parallel(data=2, tensor=2, pipeline=2, schedule="zero_bubble")),
    Case("data 2 x tensor 2 x pipeline 2, zero bubble as a V", "gpt", 8,
         _zero_bubble_v(data=2, tensor=2, pipeline=2)),
    Case("data 2 x tensor 2 x pipeline 2, zero bubble as a V, gradients sharded", "llama tied", 8,
         _zero_bubble_v(data=2, tensor=2, pipeline=2, shard=2)),
    Case("tensor 2 x pipeline 2", "neox", 4, _parallel(tensor=2, pipeline=2)),
    Case("tensor 2 x pipeline 2", "neox as gptj", 4, _parallel(tensor=2, pipeline=2)),
    Case("tensor 2 x pipeline 2", "opt", 4, _parallel(tensor=2, pipeline=2)),
    Case("tensor 2 x pipeline 2", "bloom", 4, _parallel(tensor=2, pipeline=2)),
    Case("tensor 2 x pipeline 2", "gemma", 4, _parallel(tensor=2, pipeline=2)),
    Case("tensor 2 x pipeline 2", "gemma capped", 4, _parallel(tensor=2, pipeline=2)),
    Case("tensor 2 x pipeline 2", "exaone", 4, _parallel(tensor=2, pipeline=2)),
    Case("tensor 2 x pipeline 2", "phi3", 4, _parallel(tensor=2, pipeline=2)),
    *(Case("recompute, data 2, optimizer sharded", model, 2, _recomputed("full", data=2, shard=1))
      for model in RELATIVES),
    *(Case("data 2, gradients sharded", model, 2, _parallel(data=2, shard=2)) for model in RELATIVES),
    *(Case("packing, data 2, parameters sharded and offloaded", f"{model} packed", 2,
           _parallel(data=2, shard=3, offload=True)) for model in RELATIVES),
    *(Case("selective recompute, tensor 2, sequence split", model, 2, _recomputed("selective", tensor=2, sequence=True))
      for model in RELATIVES),
    *(Case("context 2", model, 2, _parallel(context=2)) for model in (*RELATIVES, "gemma capped")),
    *(Case("packing, context 2", f"{model} packed", 2, _parallel(context=2)) for model in ("bloom", "gemma")),
    *(Case("pipeline 2, gpipe", model, 2, _parallel(pipeline=2, schedule="gpipe")) for model in RELATIVES),
    *(Case("pipeline 2, interleaved", model, 2, _parallel(pipeline=2, virtual=2)) for model in RELATIVES),
    *(Case("pipeline 2, zero bubble", model, 2, _parallel(pipeline=2, schedule="zero_bubble")) for model in RELATIVES),
    Case("data 2", "bert", 2, _parallel(data=2)),
    Case("data 2, optimizer sharded", "bert", 2, _parallel(data=2, shard=1)),
    Case("tensor 2", "bert", 2, _parallel(tensor=2)),
    Case("pipeline 2", "bert", 2, _parallel(pipeline=2)),
    Case("data 2", "t5", 2, _parallel(data=2)),
    Case("data 2, parameters sharded", "t5", 2, _parallel(data=2, shard=3)),
    Case("tensor 2", "t5", 2, _parallel(tensor=2)),
    Case("recompute, tensor 2", "t5 gated", 2, {**_parallel(tensor=2), "training": {"recompute": "full"}}),
    Case("data 2 x pipeline 2", "bert", 4, _parallel(data=2, pipeline=2)),
    Case("tensor 2 x pipeline 2", "bert", 4, _parallel(tensor=2, pipeline=2)),
    Case("pipeline 2", "t5", 2, _parallel(pipeline=2)),
    Case("pipeline 2", "t5 gated", 2, _parallel(pipeline=2)),
    Case("pipeline 4", "t5", 4, _parallel(pipeline=4)),
    Case("tensor 2 x pipeline 2", "t5", 4, _parallel(tensor=2, pipeline=2)),
    Case("data 2 x pipeline 2", "t5 gated", 4, _parallel(data=2, pipeline=2)),
    Case("data 2 x pipeline 2, optimizer sharded", "t5", 4, _parallel(data=2, pipeline=2, shard=1)),
    Case("data 2 x tensor 2 x pipeline 2", "bert", 8, _parallel(data=2, tensor=2, pipeline=2)),
    Case("data 2 x tensor 2 x pipeline 2", "t5", 8, _parallel(data=2, tensor=2, pipeline=2)),
    Case("data 2 x tensor 2 x pipeline 2", "mixture", 8, _parallel(data=2, tensor=2, pipeline=2)),
    Case("expert 2 x tensor 2 x pipeline 2, parameters sharded", "mixture", 8,
         _parallel(data=2, expert=2, tensor=2, pipeline=2, shard=3)),
    Case("data 2", "mixture", 2, _parallel(data=2)),
    Case("tensor 2", "mixture", 2, _parallel(tensor=2)),
    Case("pipeline 2", "mixture unbalanced", 2, _parallel(pipeline=2)),
    Case("pipeline 2, recompute", "mixture", 2, {**_parallel(pipeline=2), "training": {"recompute": "full"}}),
    Case("data 2, optimizer sharded", "mixture", 2, _parallel(data=2, shard=1)),
    Case("data 2, parameters sharded", "mixture", 2, _parallel(data=2, shard=3)),
    Case("expert 2", "mixture", 2, _parallel(data=2, expert=2)),
    Case("expert 2, recompute", "mixture unbalanced", 2,
         {**_parallel(data=2, expert=2), "training": {"recompute": "full"}}),
    Case("selective recompute, expert 2", "mixture unbalanced", 2, _recomputed("selective", data=2, expert=2)),
    Case("selective recompute, tensor 2", "mixture", 2, _recomputed("selective", tensor=2)),
    Case("selective recompute, expert 2 x tensor 2, parameters sharded", "mixture", 4,
         _recomputed("selective", data=2, expert=2, tensor=2, shard=3)),
    Case("selective recompute, pipeline 2", "mixture", 2, _recomputed("selective", pipeline=2)),
    EXPERT_AND_DATA,
    Case("expert 2 x data 2, optimizer sharded", "mixture", 4, _parallel(data=4, expert=2, shard=1)),
    Case("expert 2, parameters sharded", "mixture", 2, _parallel(data=2, expert=2, shard=3)),
    Case("expert 2 x data 2, gradients sharded", "mixture unbalanced", 4, _parallel(data=4, expert=2, shard=2)),
    Case("expert 2 x data 2, parameters sharded", "mixture", 4, _parallel(data=4, expert=2, shard=3)),
    Case("expert 2 x data 2, parameters sharded and offloaded, recompute", "mixture unbalanced", 4,
         {**_parallel(data=4, expert=2, shard=3, offload=True), "training": {"recompute": "full"}}),
    Case("expert 2 x tensor 2, parameters sharded", "mixture", 4, _parallel(data=2, expert=2, tensor=2, shard=3)),
    Case("expert 2 x pipeline 2, parameters sharded", "mixture", 4, _parallel(data=2, expert=2, pipeline=2, shard=3)),
    Case("expert 4", "mixture unbalanced", 4, _parallel(data=4, expert=4)),
    Case("expert 2 x tensor 2", "mixture", 4, _parallel(data=2, expert=2, tensor=2)),
    Case("expert 2 x tensor 2", "mixture unbalanced", 4, _parallel(data=2, expert=2, tensor=2)),
    Case("expert 2 x pipeline 2", "mixture", 4, _parallel(data=2, expert=2, pipeline=2)),
    Case("tensor 2, sequence split", "llama", 2, _parallel(tensor=2, sequence=True)),
    Case("tensor 2, sequence split", "llama tied", 2, _parallel(tensor=2, sequence=True)),
    Case("tensor 2, sequence split", "gpt", 2, _parallel(tensor=2, sequence=True)),
    Case("selective recompute, tensor 2, sequence split", "gpt", 2, _recomputed("selective", tensor=2, sequence=True)),
    Case("selective recompute, tensor 2", "llama", 2, _recomputed("selective", tensor=2)),
    Case("selective recompute, pipeline 2", "llama tied", 2, _recomputed("selective", pipeline=2)),
    Case("selective recompute, data 2, parameters sharded", "gpt", 2, _recomputed("selective", data=2, shard=3)),
    Case("tensor 2 x pipeline 2, sequence split", "llama tied", 4, _parallel(tensor=2, pipeline=2, sequence=True)),
    Case("tensor 2 x pipeline 2, sequence split", "gpt", 4, _parallel(tensor=2, pipeline=2, sequence=True)),
    Case("data 2 x tensor 2, sequence split, parameters sharded", "llama", 4,
         _parallel(data=2, tensor=2, sequence=True, shard=3)),
    Case("context 2", "llama", 2, _parallel(context=2)),
    Case("context 2", "gpt", 2, _parallel(context=2)),
    Case("context 2", "llama window", 2, _parallel(context=2)),
    Case("context 2, parameters sharded", "llama tied", 2, _parallel(context=2, shard=3)),
    Case("selective recompute, context 2", "llama", 2, _recomputed("selective", context=2)),
    Case("context 2 x data 2, optimizer sharded", "llama", 4, _parallel(context=2, data=2, shard=1)),
    Case("context 2 x tensor 2", "llama", 4, _parallel(context=2, tensor=2)),
    Case("context 2 x tensor 2, sequence split", "gpt", 4, _parallel(context=2, tensor=2, sequence=True)),
    Case("context 2 x pipeline 2", "llama tied", 4, _parallel(context=2, pipeline=2)),
    Case("context 2 x data 2, parameters sharded", "llama", 4, _parallel(context=2, data=2, shard=3)),
    Case("context 4", "llama window", 4, _parallel(context=4)),
    Case("packing, pipeline 2", "llama packed", 2, _parallel(pipeline=2)),
    Case("packing, tensor 2, sequence split", "llama packed", 2, _parallel(tensor=2, sequence=True)),
    Case("packing, context 2", "llama packed", 2, _parallel(context=2)),
    Case("packing, data 2 x tensor 2", "llama packed", 4, _parallel(data=2, tensor=2)),
    Case("packing, data 2, parameters sharded", "gpt packed", 2, _parallel(data=2, shard=3)),
    Case("packing, recompute, data 2, optimizer sharded", "llama packed", 2, _recomputed("full", data=2, shard=1)),
    Case("packing, selective recompute, data 2, gradients sharded and offloaded", "llama packed", 2,
         _recomputed("selective", data=2, shard=2, offload=True)),
    Case("selective recompute, data 2, gradients sharded and offloaded", "t5", 2,
         _recomputed("selective", data=2, shard=2, offload=True)),
    Case("selective recompute, data 2, parameters sharded and offloaded", "bert", 2,
         _recomputed("selective", data=2, shard=3, offload=True)),
    Case("selective recompute, pipeline 2, interleaved", "llama tied", 2,
         _recomputed("selective", pipeline=2, virtual=2)),
    Case("recompute, context 2 x data 2, gradients sharded and offloaded", "llama", 4,
         _recomputed("full", context=2, data=2, shard=2, offload=True)),
    Case("recompute, data 2 x tensor 2, sequence split, optimizer sharded", "llama", 4,
         _recomputed("full", data=2, tensor=2, sequence=True, shard=1)),
    Case("selective recompute, data 2 x tensor 2, sequence split, gradients sharded and offloaded", "gpt", 4,
         _recomputed("selective", data=2, tensor=2, sequence=True, shard=2, offload=True)),
    Case("selective recompute, data 2 x pipeline 2, gpipe, optimizer sharded", "llama", 4,
         _recomputed("selective", data=2, pipeline=2, schedule="gpipe", shard=1)),
    Case("recompute, data 2, gradients sharded", "bert", 2, _recomputed("full", data=2, shard=2)),
    Case("recompute, data 2 x pipeline 2, gpipe, gradients sharded", "gpt", 4,
         _recomputed("full", data=2, pipeline=2, schedule="gpipe", shard=2)),
    Case("data 2 x pipeline 2, gpipe, parameters sharded", "llama tied", 4,
         _parallel(data=2, pipeline=2, schedule="gpipe", shard=3)),
)  # fmt: skip

# Compiled blocks need a C++ compiler and minutes, so they are asked for apart.
COMPILED_CASES = (
    Case("compiled", "llama", 1, {"training": {"compile": True}}),
    Case("compiled, recompute", "llama", 1, {"training": {"compile": True, "recompute": "full"}}),
    Case("compiled, tensor 2", "llama", 2, {**_parallel(tensor=2), "training": {"compile": True}}),
    Case("compiled, tensor 2, sequence split", "llama", 2,
         {**_parallel(tensor=2, sequence=True), "training": {"compile": True}}),
    Case("compiled, selective recompute, tensor 2", "llama", 2,
         {**_parallel(tensor=2), "training": {"compile": True, "recompute": "selective"}}),
    Case("compiled, data 2, optimizer sharded", "llama", 2,
         {**_parallel(data=2, shard=1), "training": {"compile": True}}),
    Case("compiled, pipeline 2", "llama", 2, {**_parallel(pipeline=2), "training": {"compile": True}}),
    Case("compiled, data 2, parameters sharded", "llama", 2,
         {**_parallel(data=2, shard=3), "training": {"compile": True}}),
    Case("compiled, data 2, gradients sharded", "gpt", 2,
         {**_parallel(data=2, shard=2), "training": {"compile": True}}),
    Case("compiled, pipeline 2, gpipe", "llama", 2,
         {**_parallel(pipeline=2, schedule="gpipe"), "training": {"compile": True}}),
)  # fmt: skip


def _case(name: str, model: str) -> Case:
    return next(case for case in CASES if (case.name, case.model) == (name, model))


_DATA, _TENSOR, _PIPELINE = _case("data 2", "llama"), _case("tensor 2", "llama"), _case("pipeline 2", "llama")
_SPLIT, _CONTEXT = _case("tensor 2, sequence split", "llama"), _case("context 2", "llama")

# Where each collective is left out to show that the comparison then fails: a case that relies on it.
NEEDED_BY: dict[Purpose, Case] = {
    Purpose.REGION_ENTER: _TENSOR,
    Purpose.ROW_LEAVE: _TENSOR,
    Purpose.EMBEDDING_LEAVE: _TENSOR,
    Purpose.HEAD_ENTER: _TENSOR,
    Purpose.LOSS_MAXIMUM: _TENSOR,
    Purpose.LOSS_DENOMINATOR: _TENSOR,
    Purpose.LOSS_TARGET: _TENSOR,
    Purpose.SHARED_GRADIENT: _TENSOR,
    Purpose.REGION_GATHER: _SPLIT,
    Purpose.REGION_SCATTER: _SPLIT,
    Purpose.ROW_SCATTER: _SPLIT,
    Purpose.ROW_GATHER: _SPLIT,
    Purpose.EMBEDDING_SCATTER: _SPLIT,
    Purpose.EMBEDDING_GATHER: _SPLIT,
    Purpose.HEAD_GATHER: _SPLIT,
    Purpose.HEAD_SCATTER: _SPLIT,
    Purpose.CONTEXT_GATHER: _CONTEXT,
    Purpose.CONTEXT_SCATTER: _CONTEXT,
    Purpose.REPLICA_GRADIENT: _DATA,
    Purpose.EXPERT_DISPATCH: EXPERT_AND_DATA,
    Purpose.EXPERT_COMBINE: EXPERT_AND_DATA,
    Purpose.EXPERT_GRADIENT: EXPERT_AND_DATA,
    Purpose.SHARD_REDUCE: _case("data 2, gradients sharded", "llama"),
    Purpose.SHARD_GATHER: _case("data 2, parameters sharded", "llama tied"),
    Purpose.UPDATE_GATHER: _case("data 2, optimizer sharded", "llama"),
    Purpose.STAGE_FORWARD: _PIPELINE,
    Purpose.STAGE_BACKWARD: _PIPELINE,
    Purpose.TIED_GRADIENT: _case("pipeline 2", "llama tied"),
    Purpose.GRADIENT_NORM: _TENSOR,
    Purpose.LOSS_REPORT: _DATA,
}
