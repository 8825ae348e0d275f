"""What the journey prints where nobody watches: headings, commands, results, a table that stands straight."""

import io

from hanbit.demo.screen import Screen, fitted, padded, width
from hanbit.demo.stage import Outcome, Stage

STAGE = Stage("prepare text", "글을 토큰으로", ("hanbit", "prepare", "my text.txt"))


def test_a_file_gets_each_command_once_and_no_moving_line() -> None:
    out = io.StringIO()
    screen = Screen(2, out)
    screen.begin(STAGE)
    screen.show("half of it")
    screen.end(Outcome(STAGE, 2.0, "153K tokens"))
    assert out.getvalue() == "\n[1/2] prepare text\n$ hanbit prepare 'my text.txt'\n  2.0 s  153K tokens\n"


def test_columns_of_a_table_with_korean_stand_under_each_other() -> None:
    out = io.StringIO()
    other = Stage("글을 토큰으로", "글을 토큰으로", ("hanbit",))
    outcomes = [Outcome(STAGE, 2.0, "a"), Outcome(other, 61.0, "b")]
    Screen(2, out).table(("what", "how long", "how good"), outcomes, 63.0)
    rows = out.getvalue().splitlines()[1:4]
    assert {width(row[: row.rindex(last)]) for row, last in zip(rows, ("how good", "a", "b"), strict=True)} == {
        13 + 2 + 10 + 2
    }  # `글을 토큰으로`, `1 min 01 s`


def test_a_syllable_takes_two_columns() -> None:
    assert width("한a") == 3
    assert padded("한", 4) == "한  "
    assert fitted("한국어", 5) == "한국"
