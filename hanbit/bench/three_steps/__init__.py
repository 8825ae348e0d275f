"""A repository of three small Python models in an ensemble, for Triton and this server alike: what serving costs.

    BLOCK (FP32 [-1]) -> three_same -> SAME, for tensors that are large
    TEXT (BYTES [1]) -> three_encode -> IDS (INT32 [-1]) -> three_reverse -> REVERSED -> three_decode -> TEXT

The files beside this one are the models, as Triton runs them.
"""

import shutil
from pathlib import Path

ENSEMBLE = "three_steps"
SAME = "three_same"
_STEPS = {
    "encode": ("TEXT", "TYPE_STRING", "[ 1 ]", "IDS", "TYPE_INT32", "[ -1 ]"),
    "reverse": ("IDS", "TYPE_INT32", "[ -1 ]", "REVERSED", "TYPE_INT32", "[ -1 ]"),
    "decode": ("REVERSED", "TYPE_INT32", "[ -1 ]", "BACK", "TYPE_STRING", "[ 1 ]"),
}
_ALONE = {"same": ("BLOCK", "TYPE_FP32", "[ -1 ]", "SAME", "TYPE_FP32", "[ -1 ]")}


def write_three_steps(repository: Path, place: str = "") -> None:
    """`place`: of the models in this server ("process", "thread", "inline"); Triton knows no such parameter and does
    not mind it."""
    for step, (name, kind, dims, to, to_kind, to_dims) in (_STEPS | _ALONE).items():
        folder = repository / f"three_{step}"
        (folder / "1").mkdir(parents=True)
        shutil.copyfile(Path(__file__).with_name(f"{step}.py"), folder / "1" / "model.py")
        lines = [
            'backend: "python"',
            f'input {{ name: "{name}" data_type: {kind} dims: {dims} }}',
            f'output {{ name: "{to}" data_type: {to_kind} dims: {to_dims} }}',
            "instance_group { kind: KIND_CPU count: 1 }",
        ]
        if place:
            lines.append(f'parameters {{ key: "place" value {{ string_value: "{place}" }} }}')
        (folder / "config.pbtxt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (repository / ENSEMBLE / "1").mkdir(parents=True)
    (repository / ENSEMBLE / "config.pbtxt").write_text(_ensemble(), encoding="utf-8")


def _ensemble() -> str:
    steps = []
    for step, (name, _, _, to, _, _) in _STEPS.items():
        inputs = f'input_map {{ key: "{name}" value: "{name}" }}'
        outputs = f'output_map {{ key: "{to}" value: "{to}" }}'
        steps.append(f'  step {{ model_name: "three_{step}" model_version: -1 {inputs} {outputs} }}')
    return "\n".join(
        [
            'platform: "ensemble"',
            'input { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] }',
            'output { name: "BACK" data_type: TYPE_STRING dims: [ 1 ] }',
            "ensemble_scheduling {",
            *steps,
            "}",
            "",
        ]
    )
