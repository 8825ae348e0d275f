"""Streaming text equals decoding at the end, and no piece ends inside a character."""

import json

import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from hanbit.tokenizers.stream import TextStream
from hanbit.tokenizers.tokenizer import Tokenizer

EMOJI = ["😀", "👍🏽", "👨‍👩‍👧", "🇰🇷", "한", "글", "ㅋ", "a", " ", "\n", "é", "\ufffd"]


def pieces_of(tokenizer: Tokenizer, ids: list[int], skip: bool = True) -> list[str]:
    stream = TextStream(tokenizer, skip_special_tokens=skip)
    return [stream.push(id) for id in ids] + [stream.finish()]


@settings(max_examples=200, deadline=None)
@given(text=st.lists(st.sampled_from(EMOJI), max_size=30).map("".join))
def test_pieces_of_korean_and_emoji_join_to_the_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.integers(0, 399), max_size=40), skip=st.booleans())
def test_any_ids_join_to_the_full_decode(tokenizer: Tokenizer, ids: list[int], skip: bool) -> None:
    assert "".join(pieces_of(tokenizer, ids, skip)) == tokenizer.decode(ids, skip_special_tokens=skip)


def test_text_comes_as_soon_as_it_is_whole(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a") + tokenizer.encode("😀") + tokenizer.encode("b")
    assert [piece for piece in pieces_of(tokenizer, ids) if piece] == ["a", "😀", "b"]


def test_an_answer_cut_inside_a_character_ends_like_the_full_decode(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("아😀")[:-1]
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    assert pieces[-1] == "\ufffd"


def sentencepiece_like() -> Tokenizer:
    """Llama 2's kind: word marks, byte fallback, and a decoder that strips the first space."""
    names = ["▁a", "▁b", "c", "▁"] + [f"<0x{byte:02X}>" for byte in range(256)]
    core = tokenizers.Tokenizer(models.BPE({name: id for id, name in enumerate(names)}, [], byte_fallback=True))
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    assert json.loads(core.to_str())["decoder"]["type"] == "Sequence"
    return Tokenizer(core, {}, None, "test", "")


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(
        st.one_of(
            st.integers(0, 3).map(lambda id: [id]),
            st.sampled_from(["한", "😀", "é", "\n"]).map(lambda char: [4 + byte for byte in char.encode()]),
        ),
        max_size=15,
    )
)
def test_byte_fallback_and_stripped_spaces_stream_too(parts: list[list[int]]) -> None:
    tokenizer = sentencepiece_like()
    ids = [id for part in parts for id in part]
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.one_of(st.integers(0, 3), st.integers(4, 259)), max_size=20))
@example(ids=[4 + 0x41, 4 + 0xE4, 2])  # a byte that is whole alone is none in a run that is broken
def test_any_ids_of_byte_fallback_join_to_the_full_decode(ids: list[int]) -> None:
    tokenizer = sentencepiece_like()
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)
