"""`from hanbit import ...`: the names that notebooks use, in any order of imports."""

import inspect
import subprocess
import sys

import pytest

import hanbit


def test_every_offered_name_is_there_and_says_what_it_does() -> None:
    assert len(hanbit.__all__) >= 4
    for name in hanbit.__all__:
        found = getattr(hanbit, name)
        assert callable(found), name
        assert inspect.getdoc(found), name


def test_name_that_is_not_offered_is_refused_with_those_that_are() -> None:
    with pytest.raises(AttributeError, match=r"hanbit has no 'Trainer'; it offers LLM, .*train"):
        _ = hanbit.Trainer


@pytest.mark.parametrize(
    "first", ["", "import hanbit.train.loop", "from hanbit import train", "import hanbit.cli.train"]
)
def test_train_is_the_verb_whatever_was_imported_before(first: str) -> None:
    """The room `hanbit/train/` has the same name, and Python would put it in the verb's place."""
    code = f"""if True:
        {first or "pass"}
        import inspect, hanbit
        from hanbit import train
        from hanbit.common.errors import ConfigError
        from hanbit.train.run import train as verb
        assert list(inspect.signature(train).parameters) == list(inspect.signature(verb).parameters)
        for call in (train, hanbit.train):
            try:
                call("no/such/recipe", ["name=x"])
            except ConfigError as problem:
                assert "no/such/recipe" in str(problem)
            else:
                raise AssertionError("not called")
    """
    subprocess.run([sys.executable, "-c", code], check=True)
