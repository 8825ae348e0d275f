"""Families by name. To add one: a folder with {model, plan, huggingface}.py, its config class, and a line here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hanbit.common.errors import ModelError
from hanbit.config.model import ModelConfig
from hanbit.models.bert.huggingface import BERT
from hanbit.models.bert.model import Bert
from hanbit.models.bert.plan import PLAN as BERT_PLAN
from hanbit.models.bloom.huggingface import BLOOM
from hanbit.models.bloom.model import Bloom
from hanbit.models.bloom.plan import PLAN as BLOOM_PLAN
from hanbit.models.exaone.huggingface import EXAONE
from hanbit.models.exaone.model import Exaone
from hanbit.models.exaone.plan import PLAN as EXAONE_PLAN
from hanbit.models.gemma.huggingface import GEMMA
from hanbit.models.gemma.model import Gemma
from hanbit.models.gemma.plan import PLAN as GEMMA_PLAN
from hanbit.models.gpt.huggingface import GPT2
from hanbit.models.gpt.model import GPT
from hanbit.models.gpt.plan import PLAN as GPT_PLAN
from hanbit.models.huggingface import Adapter
from hanbit.models.layers.attend import (
    MakeAttend,
    bidirectional_in_batch,
    causal_in_batch,
    encoder_decoder_in_batch,
)
from hanbit.models.llama.huggingface import LLAMA
from hanbit.models.llama.model import Llama
from hanbit.models.llama.plan import PLAN as LLAMA_PLAN
from hanbit.models.mixture.huggingface import MIXTURE
from hanbit.models.mixture.model import Mixture
from hanbit.models.mixture.plan import PLAN as MIXTURE_PLAN
from hanbit.models.neox.huggingface import NEOX
from hanbit.models.neox.model import NeoX
from hanbit.models.neox.plan import PLAN as NEOX_PLAN
from hanbit.models.opt.huggingface import OPT_FOLDERS
from hanbit.models.opt.model import OPT
from hanbit.models.phi3.huggingface import PHI3
from hanbit.models.plan import Plan
from hanbit.models.t5.huggingface import T5 as T5_FOLDERS
from hanbit.models.t5.model import T5
from hanbit.models.t5.plan import PLAN as T5_PLAN


@dataclass(frozen=True)
class Family:
    """`build` makes the whole model on torch's current default device, its numbers not set to anything useful.

    make_attend: how training attends within a micro-batch.
    """

    build: Callable[[Any], Any]
    plan: Plan
    huggingface: Adapter
    make_attend: MakeAttend = causal_in_batch


FAMILIES: dict[str, Family] = {
    "gpt": Family(GPT, GPT_PLAN, GPT2),
    "llama": Family(Llama, LLAMA_PLAN, LLAMA),
    "mixture": Family(Mixture, MIXTURE_PLAN, MIXTURE),
    "bert": Family(Bert, BERT_PLAN, BERT, bidirectional_in_batch),
    "t5": Family(T5, T5_PLAN, T5_FOLDERS, encoder_decoder_in_batch),
    "neox": Family(NeoX, NEOX_PLAN, NEOX),
    "opt": Family(OPT, GPT_PLAN, OPT_FOLDERS),
    "bloom": Family(Bloom, BLOOM_PLAN, BLOOM),
    "gemma": Family(Gemma, GEMMA_PLAN, GEMMA),
    "phi3": Family(Llama, LLAMA_PLAN, PHI3),
    "exaone": Family(Exaone, EXAONE_PLAN, EXAONE),
}


def family_of(config: ModelConfig) -> Family:
    return FAMILIES[config.family]


def adapter_of(architecture: str) -> Adapter:
    """Who reads a Hugging Face architecture; raises ModelError with all that are known."""
    for family in FAMILIES.values():
        if architecture in family.huggingface.architectures:
            return family.huggingface
    known = sorted(name for family in FAMILIES.values() for name in family.huggingface.architectures)
    raise ModelError(f"architecture {architecture!r:.80} is not one that hanbit reads. Known: {', '.join(known)}")
