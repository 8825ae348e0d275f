"""Train a byte-level BPE tokenizer and save it as a folder that `load` and transformers read.

Text is first brought to NFC, so that a Hangul syllable is one code point however it was typed, and cut into words by
the pattern of GPT-4 and Llama 3 (with combining marks kept beside their letters). Every letter of every script is
\\p{L}: a run of Hangul is never cut before the merges are learnt. Bytes are the alphabet, so there is no unknown token
and `decode(encode(text))` is NFC(text).
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from hanbit.common.atomic import write_json
from hanbit.common.errors import ConfigError, DataError
from hanbit.tokenizers.load import CONFIG_FILE, SPECIAL_FILE, TOKENIZER_FILE

END_TOKEN = "<|endoftext|>"
SPECIAL_TOKENS = (END_TOKEN, "<|im_start|>", "<|im_end|>")  # ids 0, 1, 2; the last two wait for chat tuning
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)
LARGEST_VOCABULARY = (
    2**20
)  # four times any model's; the library takes memory for all at once, and aborts for lack of it

# How a text is cut into words; tokenizers/words.py reads it too.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
    r"|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)


def untrained() -> Tokenizer:
    """The normaliser, pre-tokeniser and decoder, around a BPE that knows nothing yet."""
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    return core


def check_vocabulary(vocabulary: int) -> None:
    """Raises ConfigError if there is no room for the bytes and the special tokens, or more than any text fills."""
    if vocabulary > LARGEST_VOCABULARY:
        raise ConfigError(f"vocabulary={vocabulary} is more than any model has. Use at most {LARGEST_VOCABULARY}")
    if vocabulary < SMALLEST_VOCABULARY:
        raise ConfigError(
            f"vocabulary={vocabulary} is too small: 256 bytes and {len(SPECIAL_TOKENS)} special tokens need "
            f"{SMALLEST_VOCABULARY}. Korean text reads well from about 8192"
        )


def train(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Learn merges from `texts` until there are `vocabulary` tokens, special ones included, or no pair occurs twice.

    Memory grows with the number of distinct words. The same texts in the same order give the same tokenizer.
    """
    check_vocabulary(vocabulary)
    core = untrained()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return core


def save(core: Tokenizer, folder: Path) -> None:
    """Write `core` as a Hugging Face folder; `folder` exists already. A document ends, and begins after, END_TOKEN."""
    if core.token_to_id(END_TOKEN) is None:
        raise DataError(f"the tokenizer for {folder} has no {END_TOKEN} token; was it made by `train`?")
    # not core.save: it tells of a full disk by a bare Exception, this by OSError
    (folder / TOKENIZER_FILE).write_text(core.to_str(pretty=True), encoding="utf-8")
    roles = {"bos_token": END_TOKEN, "eos_token": END_TOKEN, "pad_token": END_TOKEN}
    write_json(folder / SPECIAL_FILE, roles)
    write_json(
        folder / CONFIG_FILE,
        {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **roles},
    )
