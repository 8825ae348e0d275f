"""A batch of a recipe's task without numbers: the names, shapes and types that its data gives (train/data.py)."""

import torch

from hanbit.config.model import BertConfig, T5Config
from hanbit.config.recipe import Recipe
from hanbit.data.masked import num_hidden, room_of
from hanbit.data.spans import lengths_for
from hanbit.models.batch import Batch
from hanbit.parallel.objectives import ANSWERS, MASKED, NEXT_TOKENS, Objective, Places, masked


def blank_batch(recipe: Recipe, sequences: int, device: torch.device) -> Batch:
    """Every row is full; of packed documents each row has one."""
    model, length = recipe.model, recipe.batch.sequence_length
    shapes = {"tokens": (sequences, length), "targets": (sequences, length)}
    if isinstance(model, T5Config):
        shapes["targets"] = shapes["decoder_tokens"] = (sequences, lengths_for(length).decoder)
    if isinstance(model, BertConfig):
        shapes["segments"] = (sequences, length)
    if recipe.data.packing == "documents":
        shapes["documents"] = shapes["positions"] = (sequences, length)
    batch = {name: torch.zeros(shape, dtype=torch.int64, device=device) for name, shape in shapes.items()}
    if isinstance(model, BertConfig):
        batch["present"] = torch.ones(sequences, length, dtype=torch.bool, device=device)
        if model.sentence_order:
            batch["order"] = torch.zeros(sequences, dtype=torch.int64, device=device)
            batch["order_weights"] = torch.ones(sequences, device=device)
    return batch


def blank_objective(recipe: Recipe, objective: Objective) -> Objective:
    """One whose shapes depend on no number: every target of answers counts, as many masked words as a full row has."""
    if objective is MASKED:
        assert isinstance(recipe.model, BertConfig)
        return masked(_some_of_each_row(num_hidden(room_of(recipe.batch.sequence_length, recipe.model.sentence_order))))
    return NEXT_TOKENS if objective is ANSWERS else objective


def _some_of_each_row(count: int) -> Places:
    def places(targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.zeros(len(targets) * count, dtype=torch.int64, device=targets.device)
        return rows, rows.clone()

    return places
