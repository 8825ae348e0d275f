"""A model folder that answers: `LLM(folder).generate([...])`, `.stream(...)`, `.chat([...])`.

The face that the command line, the server and notebooks use; how a batch is worked off is behind it (`batch.py`).
"""

import itertools
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Items
from pathlib import Path
from typing import Any

import torch

from hanbit.checkpoint.model_folder import load_model
from hanbit.common.errors import GenerationError, ModelError
from hanbit.config.model import T5Config
from hanbit.engine.adapters import JoinedAdapter, join
from hanbit.engine.as_stored import are_wanted
from hanbit.engine.batch import Batch, CacheCounts
from hanbit.engine.choices import given
from hanbit.engine.defaults import merged, read_defaults
from hanbit.engine.draft_model import ModelGuesser, check_tokens
from hanbit.engine.drafts import Drafts, PromptGuesser, SpeculationCounts
from hanbit.engine.encoder_decoder import EncoderDecoderRunner, JoinedT5
from hanbit.engine.fuse import places_of
from hanbit.engine.grammar import Grammars
from hanbit.engine.kv_cache import BLOCK_SIZE, num_blocks_for
from hanbit.engine.loading import loaded, speaking_config
from hanbit.engine.opening import check_vocabulary, device_of, dtype_of, model_folder
from hanbit.engine.output import Output, Piece, Usage
from hanbit.engine.parts import Limits
from hanbit.engine.prompts import Prompt, Prompts, Sampling
from hanbit.engine.runner import KV_CACHE_DTYPES, Runner, cache_shape_of
from hanbit.engine.sampling_params import SamplingParams
from hanbit.engine.sequence import Sequence
from hanbit.engine.sessions import Name, Sessions
from hanbit.engine.speculation import Speculation, speculation_of
from hanbit.engine.talk import Talk
from hanbit.engine.turns import Turns
from hanbit.formats.hub import folder_of
from hanbit.formats.peft import read_adapter
from hanbit.models.layers.decoder import Decoder
from hanbit.tokenizers import chat
from hanbit.tokenizers.load import load as load_tokenizer

log = logging.getLogger(__name__)

_SESSIONS = itertools.count(1)


class LLM:
    """`folder`: a model folder, a run folder with a `model/` in it, or a hub's `org/name[@revision]`.

    `max_model_len`: tokens of prompt and answer together, where that is to be less than the model's context; the cache
    is as much smaller. `max_sequences`: how many prompts are answered at the same time; further ones wait.

    The key-value cache has `num_blocks` of `block_size` tokens, or `kv_cache_gb` gigabytes (1e9 bytes), or what
    `max_sequences` of the model's context take, in 4 GiB and a quarter of the machine's memory at most, and one context
    at least. `enable_prefix_caching`: prompts that begin alike share what was computed of it, also in later calls.
    `max_num_batched_tokens` are fed in a step at most. `speculation`: who guesses the next tokens, so that a step may
    make several of them; a method's name, or all about it (speculation.py). `max_sessions` may be open at a time
    (sessions.py), each for `session_timeout_seconds` after its last turn.

    dtype "auto" is float32 on a CPU (torch's bfloat16 products run at under 1 GFLOP/s without AVX-512) and bfloat16
    on a GPU; device "auto" is a GPU where there is one. quantization "auto" computes with the quantised blocks that a
    folder keeps (`hanbit convert --keep-blocks`), on a CPU and unless a dtype is given; "blocks" insists on them,
    "none" takes the numbers they stand for. kv_cache_dtype "int8" keeps keys and values in a quarter of float32's
    memory, rounded. Raises ModelError, DataError, FormatError on a folder that is not whole.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        dtype: str = "auto",
        device: str = "auto",
        max_model_len: int | None = None,
        max_sequences: int = 16,
        block_size: int = BLOCK_SIZE,
        num_blocks: int | None = None,
        kv_cache_gb: float | None = None,
        max_num_batched_tokens: int = 1024,
        enable_prefix_caching: bool = True,
        quantization: str = "auto",
        kv_cache_dtype: str = "auto",
        speculation: Speculation | str = "none",
        max_sessions: int = 64,
        session_timeout_seconds: float = 600.0,
    ) -> None:
        for name, value in (
            ("max_model_len", max_model_len),
            ("max_sequences", max_sequences),
            ("block_size", block_size),
            ("num_blocks", num_blocks),
            ("max_num_batched_tokens", max_num_batched_tokens),
            ("max_sessions", max_sessions),
        ):
            if value is not None and value < 1:
                raise GenerationError(f"{name}={value} must be at least 1")
        if kv_cache_gb is not None and (num_blocks is not None or not 0 < kv_cache_gb < float("inf")):
            raise GenerationError(f"kv_cache_gb={kv_cache_gb} must be above 0, and stands instead of num_blocks")
        if not session_timeout_seconds > 0:
            raise GenerationError(f"session_timeout_seconds={session_timeout_seconds} must be above 0")
        self.sessions = Sessions(max_sessions, session_timeout_seconds, self._let_go)
        if kv_cache_dtype not in KV_CACHE_DTYPES:
            raise GenerationError(f"kv_cache_dtype={kv_cache_dtype!r:.80} must be {' or '.join(KV_CACHE_DTYPES)}")
        self.kv_cache_dtype = kv_cache_dtype
        self.speculation = speculation_of(speculation)
        folder, device = model_folder(folder_of(folder)), device_of(device)
        self.config = speaking_config(folder)
        if isinstance(self.config, T5Config):
            self._check_encoder()
        if max_model_len is not None and max_model_len > self.config.context:
            raise GenerationError(
                f"max_model_len={max_model_len} is beyond the context of {folder}, {self.config.context}. Lower it"
            )
        self._context = max_model_len or self.config.context
        self.tokenizer = load_tokenizer(folder)
        check_vocabulary(folder, self.config, self.tokenizer)
        vocabulary = self.config.vocabulary
        assert isinstance(vocabulary, int)
        self.defaults = read_defaults(folder, self.tokenizer.end_id, vocabulary)
        if self.defaults.not_used:
            log.warning("%s asks for what is not built and not used: %s", folder, self.defaults.not_used)
        if width := self.defaults.sampling.get("num_beams"):
            log.warning(
                "%s has its answers searched with num_beams=%d: they come whole, streams too, unless a request says "
                "how to draw or num_beams=1",
                folder,
                width,
            )
        self.model: Any  # a fused Decoder, or a JoinedT5
        if isinstance(self.config, T5Config):
            are_wanted(quantization, folder, dtype, device)  # refuses what cannot be had
            self.model = JoinedT5(load_model(folder, dtype_of(dtype, device), device))
        else:
            self.model = loaded(folder, dtype, device, quantization)
        self._draft = None
        if self.speculation.draft_model is not None:
            self._draft = self._load_draft(self.speculation.draft_model, dtype, device, quantization)
        self.max_sequences, self.max_num_batched_tokens = max_sequences, max_num_batched_tokens
        self.block_size, self._num_blocks, self._gigabytes = block_size, num_blocks, kv_cache_gb
        self.enable_prefix_caching = enable_prefix_caching
        self.grammars = Grammars(self.tokenizer, vocabulary, self.defaults.end_ids)
        self.joined_adapters: dict[str, JoinedAdapter] = {}  # as the fused model takes them, by name
        self._lock = threading.Lock()
        self._turns: Turns | None = None
        self._prompts = Prompts(self)

    def _check_encoder(self) -> None:
        """What an encoder and a decoder are not built with."""
        if self.speculation.method != "none":
            raise GenerationError("speculation is built for models of the next token, not for a t5. Leave it out")
        if self.kv_cache_dtype != "auto":
            raise GenerationError(f"kv_cache_dtype={self.kv_cache_dtype} is not built for a t5. Leave it at auto")

    def _load_draft(self, source: Path | str, dtype: str, device: str, quantization: str) -> Decoder:
        """Blocks are used where the folder has them, whatever the larger model does, unless they are turned off."""
        folder = model_folder(folder_of(source))
        check_tokens(folder, self.tokenizer)
        config = speaking_config(folder)
        if isinstance(config, T5Config):
            raise GenerationError(f"draft_model {source}: a t5 reads its prompt apart and cannot guess. Name another")
        check_vocabulary(folder, config, self.tokenizer)
        return loaded(folder, dtype, device, "none" if quantization == "none" else "auto")

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together, at most; of each where it `reads_apart`."""
        return self._context

    @property
    def reads_apart(self) -> bool:
        """Is the prompt read by an encoder, so that it takes nothing of the answer's room?"""
        return isinstance(self.config, T5Config)

    @property
    def cache_tokens(self) -> int:
        """Tokens that one sequence can have in the key-value cache, at most."""
        return self.blocks_for(1) * self.block_size

    @property
    def cache_counts(self) -> CacheCounts:
        """Of the cache of `generate`, `stream` and `chat`."""
        return CacheCounts() if self._turns is None else self._turns.cache_counts

    @property
    def speculation_counts(self) -> SpeculationCounts:
        """Of `generate`, `stream` and `chat`: how often what was guessed was right."""
        return SpeculationCounts() if self._turns is None else self._turns.speculation_counts

    def batch(self, max_sequences: int | None = None, patience: int | None = None) -> Batch:
        """A batch on this model with a cache of its own. `patience`: tokens of prompts that are read at most in a step
        in which answers grow. Raises GenerationError if the machine has not the memory."""
        sequences, tokens = max_sequences or self.max_sequences, self.max_num_batched_tokens
        if (width := self.defaults.sampling.get("num_beams", 1)) > sequences:
            raise ModelError(
                f"generation_config.json asks for num_beams={width}, and {sequences} are followed at the same time. "
                "Raise max_sequences, or take num_beams out of the file"
            )
        limits = Limits(sequences, tokens, min(patience or tokens, tokens))
        num_blocks = self.blocks_for(sequences)
        runner: Runner
        if isinstance(self.model, JoinedT5):
            runner = EncoderDecoderRunner(self.model, num_blocks, self.block_size, sequences, tokens)
        else:
            runner = Runner(self.model, num_blocks, self.block_size, self.kv_cache_dtype)
        return Batch(runner, limits, self.enable_prefix_caching, self.drafts(num_blocks))

    def drafts(self, num_blocks: int) -> Drafts | None:
        """For a batch whose cache has so many blocks: a draft model gets one for as many tokens."""
        options = self.speculation
        if options.method == "none":
            return None
        if self._draft is None:
            lookup = PromptGuesser(options.prompt_lookup_max, options.prompt_lookup_min)
            return Drafts(lookup, options.num_speculative_tokens, options.disable_by_batch_size)
        runner = Runner(self._draft, num_blocks, self.block_size, self.kv_cache_dtype)
        config = self._draft.config
        assert isinstance(self.config.vocabulary, int)
        assert isinstance(config.vocabulary, int)
        rows = min(self.config.vocabulary, config.vocabulary)
        guesser = ModelGuesser(runner, self.max_num_batched_tokens, config.context, rows)
        return Drafts(guesser, options.num_speculative_tokens, options.disable_by_batch_size)

    def blocks_for(self, sequences: int) -> int:
        """Blocks of a cache for so many at the same time."""
        if self._num_blocks is not None:
            return self._num_blocks
        shape = cache_shape_of(self.model, self.kv_cache_dtype)
        return num_blocks_for(shape, self.block_size, sequences * self.context, self.context, self._gigabytes)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names that `adapter=` may have."""
        return tuple(self.joined_adapters)

    def add_adapter(self, name: str, folder: Path | str) -> None:
        """Read a LoRA folder in peft's layout, to be asked for by name; the model's own weights stay as they are.

        Raises ModelError if it is damaged or was made for another model.
        """
        if isinstance(self.model, JoinedT5):
            raise ModelError(f"{folder}: adapters are built for models of the next token, not for a t5")
        weight = self.model.norm.weight
        assert isinstance(weight, torch.Tensor)
        self.joined_adapters[name] = join(read_adapter(folder, self.config), places_of(self.model), weight.detach())

    def generate(
        self, prompts: Items[Prompt], sampling: Sampling = None, *, adapter: str | None = None
    ) -> list[Output]:
        """Whole answers, in the order of the prompts. Without `sampling` as the model's makers would have them.

        Every prompt is checked before the first is read: GenerationError if one is too long for the context or has
        tokens outside the vocabulary.
        """
        if isinstance(prompts, str) or any(isinstance(prompt, int) for prompt in prompts):
            raise GenerationError("generate takes a list of prompts. Write generate([prompt]), or stream(prompt)")
        if not all(isinstance(prompt, Iterable) for prompt in prompts):
            raise GenerationError("each prompt must be a text or a list of token ids")
        params = self._prompts.params(sampling, len(prompts), self.defaults.num_answers)
        names = ["the prompt"] if len(prompts) == 1 else [f"prompt {index}" for index in range(len(prompts))]
        made = [
            self._prompts.choices(prompt, one, adapter, name)
            for name, prompt, one in zip(names, prompts, params, strict=True)
        ]
        for _ in self._answer([sequence for sequences in made for sequence in sequences]):
            pass
        return [given(one, sequences) for one, sequences in zip(params, made, strict=True)]

    def stream(
        self, prompt: Prompt, sampling: SamplingParams | None = None, *, adapter: str | None = None
    ) -> Iterator[Piece]:
        """One answer, piece by piece; one piece where it is the best of several. A wrong prompt is refused at once;
        closing the iterator ends the work."""
        params = self._prompts.params(sampling, 1)[0]
        if params.n > 1:
            raise GenerationError(f"n={params.n} answers cannot be told as one. Use generate, or leave n out")
        sequences = self._prompts.choices(prompt, params, adapter, "the prompt")
        return self._answer(sequences) if len(sequences) == 1 else self._best(params, sequences)

    def chat(
        self,
        messages: Items[Mapping[str, Any]],
        sampling: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        **variables: Any,
    ) -> Output:
        """The assistant's next message in a conversation; `variables` are for the model's chat template."""
        return self.generate([self.chat_prompt(messages, **variables)], sampling, adapter=adapter)[0]

    def chat_prompt(self, messages: Items[Mapping[str, Any]], **variables: Any) -> list[int]:
        """A conversation as token ids, by the model's chat template; also for `stream`."""
        text = chat.render(self.tokenizer, messages, **variables)
        return self.tokenizer.encode(text, add_special_tokens=False)

    def session(self, *, adapter: str | None = None) -> Talk:
        """A talk whose turns continue each other: each is told what is new, and what was computed is kept. End it by
        `close`, or as a context manager."""
        return Talk(self, next(_SESSIONS), adapter)

    def turn(
        self,
        sessions: Sessions,
        name: Name,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        is_first: bool = False,
        is_last: bool = False,
        priority: int = 0,
        deadline: float | None = None,
        seats: int | None = None,
    ) -> Sequence:
        """A session's turn, as `sequence`: its prompt is all turns before and `prompt`. Raises GenerationError, and
        leaves the session as it was then. `sessions.begun` or `.unbegun` is told whether the turn was let in."""
        if self.reads_apart:
            raise GenerationError("a t5 has no sessions: its answers do not go on from its prompts. Leave it out")
        params = params or SamplingParams(**merged(self.defaults.sampling, {}, in_one_way=True))
        session = sessions.start(name, adapter) if is_first else sessions.resume(name, adapter)
        try:
            made = self.sequence(
                self._prompts.joined(session.tokens, prompt, is_first),
                params,
                adapter=adapter,
                name=f"session {name!r:.80} with this turn",
                priority=priority,
                deadline=deadline,
                seats=seats,
            )
            if made.params.num_beams > 1:
                raise GenerationError(f"num_beams={made.params.num_beams}: a session goes on in one way. Leave it out")
        except BaseException:
            sessions.unbegun(session, is_first)
            raise
        session.ends_after_turn = is_last
        session.begin(made)
        return made

    def answer_turn(self, sequence: Sequence) -> Iterator[Piece]:
        """Of a session of this LLM's own."""
        assert sequence.session is not None
        self.sessions.begun(sequence.session)
        return self._answer([sequence])

    def _let_go(self, sequence: Sequence) -> None:
        if self._turns is not None:
            self._turns.let_go(sequence)

    def sequence(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        name: str = "the prompt",
        priority: int = 0,
        deadline: float | None = None,
        seats: int | None = None,
    ) -> Sequence:
        """A checked prompt, ready to be answered; `name` is what an error calls it.

        `priority`, `deadline`: as Sequence has them; `seats`: of the batch, else `max_sequences`. Without max_tokens
        the answer gets what context and cache leave.
        """
        return self._prompts.sequence(
            prompt, params, adapter=adapter, name=name, priority=priority, deadline=deadline, seats=seats
        )

    def _best(self, params: SamplingParams, sequences: list[Sequence]) -> Iterator[Piece]:
        for _ in self._answer(sequences):
            pass
        output = given(params, sequences)
        usage = Usage(len(output.prompt_token_ids), sum(len(sequence.answer) for sequence in sequences))
        yield Piece(output.text, output.token_ids, output.finish_reason, usage, output.logprobs)

    def _answer(self, sequences: list[Sequence]) -> Iterator[Piece]:
        with self._lock:
            self._turns = self._turns or Turns(self.batch())
        return self._turns.answer(sequences)
