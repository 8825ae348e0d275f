"""Everything a recipe may say.

A field has a sentence and a unit; `docs/recipes.md` and the JSON schema are made from them.
"""

from typing import Annotated, Literal

from pydantic import Field

from hanbit.config.data import DataSection
from hanbit.config.model import ModelConfig
from hanbit.config.section import Auto, Count, Section

NotNegative = Annotated[float, Field(ge=0)]
NotNegativeCount = Annotated[int, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Schedule = Literal["gpipe", "1f1b", "interleaved", "zero_bubble"]
Target = Literal["query", "key", "value", "output", "gate", "up", "down"]


class TokenizerSection(Section):
    """How text became tokens."""

    path: str | None = Field(
        None,
        description="Folder or tokenizer.json whose tokens the data was made with; "
        "null: the one beside the token files.",
    )


class ParallelSection(Section):
    """How processes share the work; tensor x context x pipeline x data is their number."""

    tensor: int = Field(1, ge=1, description="Processes that share each layer's matrices.")
    sequence: bool = Field(
        False,
        description="Between the cut matrices each of the `tensor` processes keeps its part of the sequence only.",
    )
    context: int = Field(
        1, ge=1, description="Processes that share each sequence, the early and late parts of it spread evenly."
    )
    pipeline: int = Field(1, ge=1, description="Processes that the layers are shared out to, in stages.")
    schedule: Schedule | Auto = Field(
        "auto",
        description="Order of the stages' work: gpipe; 1f1b; interleaved, with several stages in each process; "
        "zero_bubble, whose backward pass is in two parts. auto: 1f1b, or interleaved where `virtual` is above 1.",
    )
    virtual: int = Field(1, ge=1, description="Stages of each process of the pipeline.")
    layers_per_stage: list[Count] | Literal["balanced"] = Field(
        "balanced",
        description="Layers of each of the pipeline x virtual stages, in order; balanced: so that the heaviest stage "
        "is as light as can be by its parameters, the head counted with the last one.",
    )
    data: Count | Auto = Field(
        "auto",
        description="Replicas that each take a part of the batch; auto: what is left of the processes.",
    )
    expert: int = Field(
        1,
        ge=1,
        description="Neighbours on the data axis that share out each layer's experts; divides data and model.experts.",
    )
    shard: Literal[0, 1, 2, 3] = Field(
        0,
        description="0: whole replicas (DDP); 1: the optimizer's moments shared out over data; 2: gradients too; 3: "
        "parameters too (2 and 3: FSDP2).",
    )
    offload: bool = Field(
        False,
        description="Each process's part of weights, gradients and moments stays in the CPU's memory, where the update "
        "then runs; a block's weights come to the GPU for its turn (FSDP2: with shard 2 or 3).",
    )


class RampUp(Section):
    """A global batch that begins small, and grows by equal steps (Megatron-LM's `--rampup-batch-size`)."""

    start: int = Field(gt=0, description="Sequences of the first step.")
    increment: int = Field(gt=0, description="Sequences by which it grows each time, up to `batch.global_batch`.")
    samples: int = Field(gt=0, description="Sequences over which it grows; from then on it is `batch.global_batch`.")


class BatchSection(Section):
    """How much one optimizer step sees."""

    micro_batch: Count | Auto = Field(
        "auto", description="Sequences in one forward pass of one replica; auto: the largest divisor up to 8."
    )
    global_batch: int = Field(gt=0, description="Sequences of one optimizer step over all replicas.")
    sequence_length: int = Field(gt=1, description="Tokens in one sequence.")
    ramp_up: RampUp | None = Field(
        None, description="Growth of the global batch by samples seen; the learning rate goes by steps. null: none."
    )


class TrainingSection(Section):
    """How long, in which arithmetic, from what start. Either `steps` or `tokens`."""

    steps: Count | Auto = Field("auto", description="Optimizer steps; auto: tokens / (global_batch x sequence_length).")
    tokens: int | None = Field(None, gt=0, description="Tokens to train on, instead of steps.")
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp8"] = Field(
        "fp32",
        description="Arithmetic of the matrix products; weights and sums stay fp32. auto: bf16 or fp16 where the GPU "
        "has it; fp8 needs `hanbit[fp8]`.",
    )
    initial_loss_scale: float = Field(
        65536.0,
        ge=1,
        le=2.0**40,
        description="What fp16 multiplies the loss with at first, so that small gradients stay.",
    )
    loss_scale_window: int = Field(
        2000, ge=1, description="Steps with finite gradients after which it doubles; one without halves it, unstepped."
    )
    recompute: Literal["none", "selective", "full"] = Field(
        "none",
        description="What the backward pass computes again; full: all of a block; selective: all but its matrix "
        "products, so attention's scores, norms and activation functions.",
    )
    recompute_layers: Count | Literal["all"] = Field(
        "all", description="Of how many blocks of each stage, the first ones."
    )
    recompute_every: int = Field(1, ge=1, description="Of every k-th block only, from each stage's first on.")
    compile: bool = Field(False, description="torch.compile on each block.")
    seed: int = Field(1234, ge=0, lt=2**63, description="Seed of the fresh weights and of the order of the data.")
    initial_model: str | None = Field(
        None, description="Model folder to start from, `model` is read from it; null: fresh weights."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is one.")


class OptimizerSection(Section):
    """AdamW and the course of its learning rate."""

    name: Literal["adamw"] = Field("adamw", description="Update rule: Adam with decoupled weight decay.")
    learning_rate: float = Field(3e-4, gt=0, description="Highest learning rate.")
    min_learning_rate: NotNegative | Auto = Field(
        "auto", description="Learning rate at the last step; auto: a tenth of the highest."
    )
    schedule: Literal["cosine", "constant"] = Field("cosine", description="Course after warm-up.")
    warmup_steps: NotNegativeCount | Auto = Field(
        "auto", description="Steps of linear rise from 0; auto: a hundredth of the steps, at most 2000."
    )
    betas: tuple[Beta, Beta] = Field((0.9, 0.95), description="Decay of the two running means.")
    epsilon: float = Field(1e-8, gt=0, description="Added to the root of the second mean.")
    weight_decay: float = Field(0.1, ge=0, description="Decoupled decay, on matrices only (not on norms, biases).")
    clip_grad_norm: float | None = Field(
        1.0, gt=0, description="Gradients are scaled down to this total L2 norm; null: never."
    )


class CheckpointSection(Section):
    """What a killed run continues from."""

    every_steps: Count | Auto = Field(
        "auto",
        description="Steps between checkpoints; auto: a tenth of the steps. The last step always has one.",
    )
    keep: int = Field(
        2, ge=1, description="How many checkpoints stay; older ones are removed after a newer one is whole."
    )
    resume: bool = Field(True, description="Continue from the newest whole checkpoint of the run folder.")
    export: bool = Field(True, description="Write a Hugging Face model folder `model/` at the end.")


class ValidationSection(Section):
    """The loss on held-back text."""

    every_steps: NotNegativeCount | Auto = Field(
        "auto", description="Steps between validations; auto: a tenth of the steps; 0: never."
    )
    batches: int = Field(8, ge=1, description="Global batches in one validation.")


class TraceSection(Section):
    """Steps as pictures of what each process did when, `trace/step-000010.json`, for ui.perfetto.dev."""

    steps: list[Count] = Field(min_length=1, description="Numbers of the steps, from 1.")
    ranks: list[NotNegativeCount] | Literal["all"] = Field(
        "all", description="Ranks that are in the picture; each takes about 100 bytes for every layer and micro-batch."
    )


class WandbSection(Section):
    """Weights & Biases (extra `hanbit[wandb]`); its server, key and mode are `WANDB_*` of the environment."""

    project: str = Field(min_length=1, description="Project of the run; the run's name there is the recipe's.")
    entity: str | None = Field(None, description="User or team that the project belongs to; null: the key's own.")


class MlflowSection(Section):
    """MLflow (extra `hanbit[mlflow]`); user and password are `MLFLOW_*` of the environment."""

    experiment: str = Field(min_length=1, description="Experiment of the run; made where there is none.")
    tracking_uri: str | None = Field(None, description="Address of the server; null: `MLFLOW_TRACKING_URI`.")


class LoggingSection(Section):
    """What a run says while it goes."""

    every_steps: int = Field(
        10,
        ge=1,
        description="Steps between lines on the terminal when it is not interactive; metrics.jsonl has every step.",
    )
    peak_flops_per_second: float | None = Field(
        None,
        gt=0,
        description="What one device could do at best, for mfu; null: from its data sheet where the card is known.",
    )
    tensorboard: bool = Field(False, description="Also write `tb/` (extra `hanbit[tensorboard]`).")
    wandb: WandbSection | None = Field(None, description="Also log to Weights & Biases; null: no.")
    mlflow: MlflowSection | None = Field(None, description="Also log to MLflow; null: no.")
    trace: TraceSection | None = Field(None, description="Steps to record; null: none.")


class TuningSection(Section):
    """What `hanbit tune` adds to a base model that stays as it is."""

    method: Literal["lora"] = Field("lora", description="lora: low-rank additions to linear layers (arXiv 2106.09685).")
    model: str = Field(description="Model folder of the base; the section `model` is read from it.")
    rank: int = Field(16, ge=1, le=4096, description="Width of the additions.")
    alpha: float = Field(32.0, gt=0, description="Additions are scaled by alpha / rank.")
    targets: list[Target] | Literal["all"] = Field(
        "all", description="Linear layers that get an addition; all: every one inside the blocks."
    )


class ClusterSection(Section):
    """The machines that a run is meant for; a dry run is one of all their processes."""

    nodes: int = Field(1, gt=0, description="Number of machines.")
    gpus_per_node: int = Field(8, gt=0, description="GPUs of one machine, each with a process of its own.")
    gpu_memory_gb: float | None = Field(
        None, gt=0, description="Memory of one GPU, GB of 10^9 bytes: a dry run says how much of it a process needs."
    )

    @property
    def processes(self) -> int:
        return self.nodes * self.gpus_per_node


class Recipe(Section):
    """One run, whole."""

    name: str = Field(
        pattern=r"^[^/\\\s.\-][^/\\\s]*$",
        max_length=80,
        description="Name of the run; its folder is `runs/<name>`. One word, without `/`.",
    )
    runs: str = Field("runs", description="Folder that holds the run folders.")
    model: ModelConfig
    tokenizer: TokenizerSection = TokenizerSection()
    tuning: TuningSection | None = None
    data: DataSection
    parallel: ParallelSection = ParallelSection()
    batch: BatchSection
    training: TrainingSection = TrainingSection()
    optimizer: OptimizerSection = OptimizerSection()
    checkpoint: CheckpointSection = CheckpointSection()
    validation: ValidationSection = ValidationSection()
    logging: LoggingSection = LoggingSection()
    cluster: ClusterSection | None = None
