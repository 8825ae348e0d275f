"""`from hanbit import ...`: the names that notebooks use, and nothing loaded before its time."""

import inspect

import pytest

import hanbit


def test_every_offered_name_is_there() -> None:
    assert len(hanbit.__all__) >= 4
    for name in hanbit.__all__:
        found = getattr(hanbit, name)
        assert found.__name__ == name
        assert found.__module__.startswith("hanbit.")
        assert inspect.getdoc(found), f"{name} does not say what it does"


def test_name_that_is_not_offered_is_refused_with_those_that_are() -> None:
    with pytest.raises(AttributeError, match=r"hanbit has no 'Trainer'; it offers LLM, .*train"):
        _ = hanbit.Trainer
