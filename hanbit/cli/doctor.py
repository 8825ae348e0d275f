"""Explain this machine: cores, memory, GPUs, versions, and what is missing with its pip line."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from hanbit.common.capability import Processor
from hanbit.common.errors import ConfigError
from hanbit.common.units import readable_bytes
from hanbit.kernels.library import native, why_not

NEEDED = (
    "torch",
    "numpy",
    "safetensors",
    "tokenizers",
    "pydantic",
    "ruamel.yaml",
    "typer",
    "rich",
    "jinja2",
    "pyarrow",
    "gguf",
)
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"  # in a checkout; an installed wheel has none
EXTRAS = {
    **dict.fromkeys(("starlette", "uvicorn", "grpcio", "tritonclient"), "serve"),
    **{name: name for name in ("tensorboard", "wandb")},
    "mlflow-skinny": "mlflow",
    **dict.fromkeys(("transformers", "accelerate"), "bench"),
    **dict.fromkeys(("pytest", "openai", "peft"), "dev"),
}


def command(as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False) -> None:
    """Explain this machine: cores, memory, GPUs, versions, and what is missing with its pip line."""
    facts = {"machine": machine(), "torch": torch_facts(), "versions": versions(), "advice": advice()}
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for title, section in facts.items():
        typer.echo(f"{title}:")
        for key, value in section.items() if isinstance(section, dict) else enumerate(section, 1):
            typer.echo(f"  {key}: {value}")


def machine() -> dict[str, Any]:
    disk = shutil.disk_usage(Path.cwd())
    flags = _cpu_flags()
    vector = [name for name, flag in (("AVX2", "avx2"), ("AVX-512", "avx512f"), ("NEON", "asimd")) if flag in flags]
    return {
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "vector instructions": ", ".join(vector) or "none known",
        "memory": readable_bytes(_memory_bytes()),
        "disk free here": readable_bytes(disk.free),
        "native kernels": native_kernels(),
        "C++ compiler (for native kernels and torch.compile)": shutil.which("g++") or shutil.which("clang++") or "none",
    }


def native_kernels() -> str:
    """Which instruction set the engine's own kernels use, or why there are none: a wrong HANBIT_NATIVE, too."""
    try:
        found = native()
    except ConfigError as problem:
        return f"none: {problem}"
    return f"built, {found.instruction_set}" if found else f"none: {why_not()}"


def torch_facts() -> dict[str, Any]:
    """Read from torch itself, which takes a second or two to import."""
    if importlib.util.find_spec("torch") is None:
        return {"installed": "no"}
    import torch
    import torch.distributed as dist

    cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    processors = [Processor(card.name, (card.major, card.minor)) for card in cards] or [Processor("CPU")]
    return {
        "version": torch.__version__,
        "GPUs": ", ".join(f"{card.name} {readable_bytes(card.total_memory)}" for card in cards)
        or "none: the CPU is used",
        "precision": "; ".join(sorted({computes(processor) for processor in processors})),
        "process groups": ", ".join(
            name
            for name, is_there in (("gloo", dist.is_gloo_available()), ("nccl", dist.is_nccl_available()))
            if is_there
        ),
    }


def computes(processor: Processor) -> str:
    """What it can train in, what `training.precision=auto` takes, and what it lacks."""
    capability = processor.capability
    flash = "" if capability.flash_attention_2 or processor.compute_capability is None else ", no FlashAttention 2"
    missing = "".join(f", no {precision}" for precision in capability.lacks)
    has = f"{processor}: {', '.join(capability.precisions)}{missing}{flash}"
    return f"{has}; auto is {capability.auto}: it {capability.why}"


def versions() -> dict[str, str]:
    return {name: found for name in (*NEEDED, *EXTRAS) if (found := _version(name))}


def tested_versions() -> dict[str, str]:
    """Of constraints.txt, by name; empty where there is no such file."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines() if CONSTRAINTS.exists() else []
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name.strip(): version.strip() for name, version in pairs}


def untested() -> list[str]:
    """Packages in another version than the tested one. `2.13.0+cpu` is a build of 2.13.0."""
    tested = tested_versions()
    return [
        f"{name} is {version}, tested with {tested[name]}: pip install -c {CONSTRAINTS} {name}=={tested[name]}"
        for name, version in versions().items()
        if name in tested and version.split("+")[0] != tested[name]
    ]


def advice() -> list[str]:
    """What is missing or untested, each with the line that brings it."""
    lines = [f"{name} is missing: pip install hanbit" for name in NEEDED if not _version(name)]
    for name, extra in EXTRAS.items():
        if not _version(name):
            lines.append(f'{name} is missing (only for the extra "{extra}"): pip install "hanbit[{extra}]"')
    if not (shutil.which("g++") or shutil.which("clang++")):
        lines.append(
            "no C++ compiler: native kernels cannot be built, training.compile=true will not work on the CPU (Debian: "
            "apt install g++)"
        )
    return lines + untested() or ["nothing is missing"]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cpu_flags() -> set[str]:
    """Linux tells; elsewhere nothing is known."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return set()
    lines = path.read_text(encoding="utf-8").splitlines()
    return set(next((line for line in lines if line.lower().startswith(("flags", "features"))), "").split())
