"""Numbers as people read them: 1.2 GB, 60.5M, 3 min 20 s."""


def readable_bytes(count: float) -> str:
    """Decimal units, as disks and GPU data sheets use them: 1_234_567 -> '1.23 MB'."""
    return _scaled(count, 1000, ["B", "kB", "MB", "GB", "TB", "PB"], " ")


def readable_count(count: float) -> str:
    """60_500_000 -> '60.5M'; used for parameters and tokens."""
    return _scaled(count, 1000, ["", "K", "M", "B", "T"], "")


def readable_seconds(seconds: float) -> str:
    """0.4 -> '0.4 s', 200 -> '3 min 20 s', 7260 -> '2 h 01 min'."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def _scaled(value: float, step: int, units: list[str], gap: str) -> str:
    index = 0
    while abs(value) >= step and index < len(units) - 1:
        value /= step
        index += 1
    digits = f"{value:.3g}" if index and abs(value) < 999.5 else f"{value:.0f}"
    return f"{digits}{gap}{units[index]}"
