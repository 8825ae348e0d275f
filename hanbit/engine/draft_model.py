"""A smaller model that guesses what a larger one will say: it reads the same tokens, into a cache of its own.

It always guesses what it holds the likeliest. What it reads of a text stays in its cache while the answer grows; behind
a wrong guess it goes on from the last right one. It never makes the larger model wait for room: whose text does not
fit, or is not read to its end yet, is not guessed for in that step. A text that has grown beyond its context, or has
tokens that it does not know, is not guessed for any more and gives its room back.
"""

from array import array
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hanbit.common.errors import ModelError
from hanbit.engine.adapters import JoinedAdapter
from hanbit.engine.blocks import Blocks
from hanbit.engine.native import largest
from hanbit.engine.parts import Part
from hanbit.engine.runner import Runner
from hanbit.engine.sequence import Sequence
from hanbit.tokenizers.load import load as load_tokenizer
from hanbit.tokenizers.tokenizer import Tokenizer


def check_tokens(folder: Path, tokenizer: Tokenizer) -> None:
    """Raises ModelError where a token of the folder's tokenizer is another one in `tokenizer`, by name."""
    own = load_tokenizer(folder)
    ids, wanted = own.core.get_vocab(), tokenizer.core.get_vocab()
    if ids == wanted:
        return
    token = min((ids.items() ^ wanted.items()), key=lambda pair: pair[1])[0]
    raise ModelError(
        f"draft model {folder}: token {token!r:.80} has id {ids.get(token)}, and {wanted.get(token)} in "
        f"{tokenizer.source}: tokenizers of {len(ids)} and {len(wanted)} tokens. What guesses must be of "
        "the model's own tokens: take a smaller model of the same family"
    )


@dataclass(eq=False)
class _Text:
    """A sequence as the small model reads it: its tokens, and guesses behind them. `num_own`: how many are no guesses;
    `num_fed`: how many are in the cache; `highest`: the largest id of all."""

    tokens: list[int] = field(default_factory=list)
    blocks: "array[int]" = field(default_factory=lambda: array("i"))
    num_own: int = 0
    num_fed: int = 0
    highest: int = 0
    adapter: JoinedAdapter | None = None
    reads_all: bool = False

    def follow(self, tokens: list[int]) -> None:
        """The sequence has these tokens now; what is in the cache of them stays known."""
        same = self.num_own
        while same < min(len(self.tokens), len(tokens)) and self.tokens[same] == tokens[same]:
            same += 1
        del self.tokens[same:]
        self.tokens += tokens[same:]
        self.highest = max([self.highest, *tokens[same:]])
        self.num_own = len(tokens)
        self.num_fed = min(self.num_fed, same, len(tokens) - 1)  # logits behind the newest token are wanted


class ModelGuesser:
    """`runner` has the small model and its cache. `step_tokens`: read in a step, at most, of texts that are new to it.
    `vocabulary`: rows that both models have; of a text with a token above (there may be more rows than tokens) nothing
    is guessed."""

    def __init__(self, runner: Runner, step_tokens: int, context: int, vocabulary: int) -> None:
        self._runner, self._step_tokens = runner, step_tokens
        self._context, self._vocabulary = context, vocabulary
        self.blocks = Blocks(runner.cache.num_blocks, runner.cache.block_size)
        self._texts: OrderedDict[Sequence, _Text] = OrderedDict()  # whom it guessed for longest ago first

    def guess(self, wanted: Mapping[Sequence, int]) -> Mapping[Sequence, list[int]]:
        for sequence in [one for one in self._texts if len(one.tokens) > self._context]:
            self.forget(sequence)
        counts: dict[Sequence, int] = {}
        for sequence, count in wanted.items():
            count = min(count, self._context - len(sequence.tokens) + 1)  # the last guess is not read
            if count > 0 and self._has_room(sequence, len(sequence.tokens) + count - 1, wanted):
                counts[sequence] = count
        going = self._read(list(counts))
        found: dict[Sequence, list[int]] = {sequence: [token] for sequence, token in going.items()}
        while going := {one: token for one, token in going.items() if len(found[one]) < counts[one]}:
            for sequence, token in going.items():
                self._texts[sequence].tokens.append(token)
            going = self._fed([self._part(sequence, 1) for sequence in going], list(going))
            for sequence, token in going.items():
                found[sequence].append(token)
        return found

    def forget(self, sequence: Sequence) -> None:
        text = self._texts.pop(sequence, None)
        if text is not None:
            self._give_back(text)

    def _give_back(self, text: _Text) -> None:
        """Its blocks are free; what was in them would be read anew."""
        self.blocks.release(text.blocks)
        text.blocks, text.num_fed = array("i"), 0

    def _has_room(self, sequence: Sequence, tokens: int, wanted: Mapping[Sequence, int]) -> bool:
        """Blocks for so many tokens of it, if need be those of texts that nobody wants a guess for now."""
        text = self._texts.setdefault(sequence, _Text())
        self._texts.move_to_end(sequence)
        text.follow(sequence.tokens)
        if text.highest >= self._vocabulary:
            self._give_back(text)
            return False
        needed = self.blocks.needed(tokens) - len(text.blocks)
        while needed > self.blocks.num_free:
            idle = next((one for one in self._texts if one not in wanted), None)
            if idle is None:
                self.forget(sequence)
                return False
            self.forget(idle)
        text.blocks.extend(self.blocks.take() for _ in range(needed))
        return True

    def _read(self, sequences: list[Sequence]) -> dict[Sequence, int]:
        """What each text has that is not in the cache, as far as the step's tokens go; a guess for those read whole."""
        parts, reading, left = [], [], self._step_tokens
        for sequence in sequences:
            text = self._texts[sequence]
            num = min(len(text.tokens) - text.num_fed, left)
            if num > 0:
                parts.append(self._part(sequence, num))
                reading.append(sequence)
                left -= num
        return self._fed(parts, reading) if parts else {}

    def _part(self, sequence: Sequence, num: int) -> Part[_Text]:
        text = self._texts[sequence]
        return Part(text, text.num_fed, text.num_fed + num, text.blocks)

    def _fed(self, parts: list[Part[_Text]], sequences: list[Sequence]) -> dict[Sequence, int]:
        """The likeliest token behind each that is read to its end."""
        found: dict[Sequence, int] = {}
        for sequence, part, logits in zip(sequences, parts, self._runner.feed(parts), strict=True):
            part.request.num_fed = part.end
            if logits is None:
                continue
            token = largest(logits[: self._vocabulary])
            if token is None:  # no numbers: nothing of this text may be looked at again
                self._runner.cache.clear(list(part.blocks))
                self.forget(sequence)
            else:
                found[sequence] = token
        return found
