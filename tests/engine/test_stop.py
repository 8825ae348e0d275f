"""Stop texts cut exactly, however the text arrives, and nothing of them is ever said."""

from hypothesis import given, settings
from hypothesis import strategies as st

from hanbit.engine.stop import StopText

LETTERS = st.text("ab한", min_size=1, max_size=4)


def by_letters(text: str, stops: list[str]) -> str:
    """The plain rule: at the first letter that completes a stop, the text before it (the longest one) is the answer."""
    for end in range(1, len(text) + 1):
        found = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(found)]
    return text


def said(pieces: list[str], stops: list[str]) -> list[str]:
    """What is said after each piece, and at the end."""
    cutter = StopText(stops)
    out = [cutter.push(piece) for piece in pieces]
    return [*out, cutter.finish()]


@settings(deadline=None)
@given(st.lists(st.text("ab한", max_size=5), max_size=8), st.lists(LETTERS, max_size=3))
def test_any_cut_into_pieces_gives_the_text_of_the_plain_rule(pieces: list[str], stops: list[str]) -> None:
    assert "".join(said(pieces, stops)) == by_letters("".join(pieces), stops)


@settings(deadline=None)
@given(st.lists(LETTERS, max_size=8), st.lists(LETTERS, min_size=1, max_size=3))
def test_what_is_said_is_never_taken_back_by_what_follows(pieces: list[str], stops: list[str]) -> None:
    whole, spoken = by_letters("".join(pieces), stops), ""
    for piece in said(pieces, stops):
        spoken += piece
        assert whole.startswith(spoken)


def test_text_is_held_only_while_it_may_begin_a_stop() -> None:
    cutter = StopText(["</end>"])
    assert [cutter.push(piece) for piece in ("a<", "/e", "x<b", "</end>c")] == ["a", "", "</ex<b", ""]
    assert cutter.is_stopped


def test_without_stops_nothing_is_held() -> None:
    assert said(["a", "", "b"], []) == ["a", "", "b", ""]


@settings(deadline=None)
@given(st.lists(LETTERS, max_size=8), st.lists(LETTERS, min_size=1, max_size=3), st.integers(0, 9))
def test_the_first_pieces_are_said_and_a_stop_begins_behind_them(
    pieces: list[str], stops: list[str], first: int
) -> None:
    cutter = StopText(stops, first)
    found = "".join([*map(cutter.push, pieces), cutter.finish()])
    assert found == "".join(pieces[:first]) + by_letters("".join(pieces[first:]), stops)
