"""A model folder that turns texts into vectors: `Embedder(folder).embed([...])`.

texts ─ tokens ─ batches of like lengths ─ the model's hidden states ─ one vector of each ─ in the texts' order
"""

import logging
from collections.abc import Iterable
from collections.abc import Sequence as Items
from pathlib import Path

import torch
from torch.nn import functional as F

from hanbit.checkpoint.model_folder import load_model, read_config
from hanbit.common.errors import GenerationError, ModelError
from hanbit.config.model import BertConfig
from hanbit.engine.opening import check_ids, check_vocabulary, device_of, dtype_of, model_folder
from hanbit.engine.padded import batches, padded, unless_all
from hanbit.formats.hub import folder_of
from hanbit.formats.sentences import Pooling, read_settings
from hanbit.models.bert.model import Bert
from hanbit.models.layers.attend import bidirectional
from hanbit.tokenizers.load import load as load_tokenizer

log = logging.getLogger(__name__)

Text = str | Items[int]  # or its token ids, those that the tokenizer adds included


class Embedder:
    """`folder`: a model folder of family bert, a run folder with one in it, or a hub's `org/name[@revision]`.

    How hidden states become a vector is what the folder says in sentence-transformers' files (formats/sentences.py),
    else the mean over a text's tokens, as sentence-transformers takes it. dtype, device: as of `LLM`.
    `max_num_batched_tokens` are computed at once at most, padding included; a longer text is alone.
    Raises ModelError, DataError on a folder that is not whole, or is another family's.
    """

    def __init__(
        self, folder: Path | str, *, dtype: str = "auto", device: str = "auto", max_num_batched_tokens: int = 1024
    ) -> None:
        if max_num_batched_tokens < 1:
            raise GenerationError(f"max_num_batched_tokens={max_num_batched_tokens} must be at least 1")
        folder, self.device = model_folder(folder_of(folder)), device_of(device)
        self.config = _bert_config(folder)
        self.settings = read_settings(folder)
        self.tokenizer = load_tokenizer(folder)
        check_vocabulary(folder, self.config, self.tokenizer)
        self.max_num_batched_tokens = max_num_batched_tokens
        self._model: Bert = load_model(folder, dtype_of(dtype, self.device), self.device)
        if not self.settings.is_stated:
            log.info("%s has no modules.json: a text's vector is the mean over its tokens, not normalized", folder)

    @property
    def context(self) -> int:
        """Tokens of a text at most, those that the tokenizer adds included."""
        return min(self.config.context, self.settings.max_tokens or self.config.context)

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return self.config.hidden

    def embed(
        self, texts: Items[Text], *, normalize: bool | None = None, truncate_prompt_tokens: int | None = None
    ) -> torch.Tensor:
        """[texts, width] float32 on the CPU. normalize: to a length of 1; None: as the folder says.

        A text longer than `truncate_prompt_tokens` is cut there; without it, one longer than `context` is refused.
        Every text is checked before the first is computed. Raises GenerationError.
        """
        if isinstance(texts, str) or not all(isinstance(text, Iterable) for text in texts):
            raise GenerationError("embed takes a list of texts, or of lists of token ids. Write embed([text])")
        names = ["the text"] if len(texts) == 1 else [f"text {index}" for index in range(len(texts))]
        tokens = [self.encode(text, name, truncate_prompt_tokens) for name, text in zip(names, texts, strict=True)]
        return self.finished(self.vectors(tokens), normalize)

    def encode(self, text: Text, name: str = "the text", most: int | None = None) -> list[int]:
        """Token ids, checked; `most`: cut there. `name`: what errors call the text. Raises GenerationError."""
        if most is not None and not 1 <= most <= self.context:
            raise GenerationError(f"truncate_prompt_tokens={most} must be from 1 to the model's {self.context}")
        if isinstance(text, str):
            whole = self.settings.prompt + text
            whole = whole.lower() if self.settings.lower_case else whole
            ids = self.tokenizer.encode(whole) if most is None else self.tokenizer.encode_at_most(whole, most)
        else:
            ids = list(text)[:most]
            check_ids(name, ids, self.config)
        if not 1 <= len(ids) <= self.context:
            raise GenerationError(
                f"{name} has {len(ids)} tokens, and the model reads from 1 to {self.context}. Shorten it, or let it be "
                "cut by truncate_prompt_tokens"
            )
        return ids

    @torch.inference_mode()
    def vectors(self, texts: Items[list[int]]) -> torch.Tensor:
        """[texts, width] float32 on the CPU, as they are pooled, of texts that `encode` gave."""
        found = torch.empty(len(texts), self.width)
        for places in batches([len(text) for text in texts], self.max_num_batched_tokens):
            found[places] = self._pooled([texts[place] for place in places]).float().cpu()
        if not bool(found.isfinite().all()):
            raise GenerationError("the model gives vectors that are not numbers: its dtype is too narrow. Use float32")
        return found

    def finished(self, vectors: torch.Tensor, normalize: bool | None) -> torch.Tensor:
        return F.normalize(vectors, dim=-1) if normalize or (normalize is None and self.settings.normalize) else vectors

    def _pooled(self, texts: list[list[int]]) -> torch.Tensor:
        """[texts, width]; padding is seen by no token of a text."""
        tokens, present = padded(texts, self.device)
        places = torch.arange(tokens.shape[1], device=self.device)
        hidden = self._model.embed(tokens, places, torch.zeros_like(tokens))
        hidden = self._model.trunk(hidden, bidirectional(unless_all(present)))
        return pooled(hidden, present, self.settings.pooling)


def pooled(hidden: torch.Tensor, present: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """hidden [texts, tokens, width], present [texts, tokens] bool, true from the first token on -> [texts, width]."""
    if pooling == "cls":
        return hidden[:, 0]
    lengths = present.sum(1)
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
    return hidden.masked_fill(~present.unsqueeze(-1), 0).sum(1) / lengths.unsqueeze(-1)


def _bert_config(folder: Path) -> BertConfig:
    config = read_config(folder)
    if not isinstance(config, BertConfig):
        raise ModelError(
            f"{folder} is a {config.family} model; vectors are made by models of family bert (BertModel, "
            "BertForMaskedLM, BertForPreTraining). hanbit.LLM generates with models of the next token"
        )
    return config
