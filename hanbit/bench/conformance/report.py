"""What came of a run, for people: a table by groups, and what failed."""

from collections.abc import Mapping, Sequence

from hanbit.bench.conformance.known import outdated, unknown, why
from hanbit.bench.conformance.run import Row, summary


def table(runs: Mapping[str, Sequence[Row]]) -> str:
    """A line a group: of each server how many passed of how many; then the failures and what was not offered."""
    lines = [f"{'group':18}" + "".join(f"{name:>14}" for name in runs)]
    counts = {name: summary(rows) for name, rows in runs.items()}
    for group in dict.fromkeys(group for found in counts.values() for group in found):
        line = f"{group:18}"
        for found in counts.values():
            passed, all_of_it = found[group]["pass"], sum(found[group].values())
            line += f"{f'{passed} of {all_of_it}':>14}"
        lines.append(line)
    line = f"{'all':18}"
    for rows in runs.values():
        passed = sum(row.outcome == "pass" for row in rows)
        line += f"{f'{passed} of {len(rows)}':>14}"
    return "\n".join([*lines, line, *(part for name, rows in runs.items() for part in _failures(name, rows))])


def line_of(row: Row) -> str:
    return f"{row.outcome:12}{row.id:44}{row.seen if row.outcome != 'pass' else row.says}"


def is_good(name: str, rows: Sequence[Row]) -> bool:
    """Nothing fails but what is known to, and nothing known has been mended unseen."""
    return not unknown(name, rows) and not outdated(name, rows)


def _failures(name: str, rows: Sequence[Row]) -> list[str]:
    lines = [f"\n{name}:"]
    for row in rows:
        if row.outcome == "fail":
            lines.append(f"  {row.id}: {row.seen}")
            lines.append(f"    known: {known}" if (known := why(name, row.id)) else "    NOT KNOWN")
        elif row.outcome == "not offered":
            lines.append(f"  {row.id}: not offered: {row.seen}")
    lines += [f"  {row.id}: passes, though it is listed as failing" for row in outdated(name, rows)]
    return lines if len(lines) > 1 else []
