"""Which of the two languages people are spoken to in: HANBIT_LANG, English unless it says Korean."""

import os


def is_korean() -> bool:
    return os.environ.get("HANBIT_LANG", "en").lower().startswith("ko")
