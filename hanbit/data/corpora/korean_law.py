"""The Constitution of the Republic of Korea and ten bills of its National Assembly, 140 kB of Korean.

They are files of the wheel `konlpy` (corpora `kolaw` and `kobill`). The package is only located, never imported: its
import needs Java, and its code is GPL. The texts themselves are law and public acts, which Korean copyright does not
cover (Copyright Act, article 7).
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from hanbit.common.errors import DataError

_WAY_OUT = "Install the wheel's files with `pip install --no-deps konlpy==0.6.0`"


def documents() -> Iterator[str]:
    folder = _corpus_folder()
    files = sorted(folder.glob("kolaw/*.txt")) + sorted(folder.glob("kobill/*.txt"))
    if not files:
        raise DataError(f"{folder} holds no kolaw/*.txt or kobill/*.txt: another version of konlpy. {_WAY_OUT}")
    for file in files:
        try:
            yield file.read_text(encoding="utf-8")
        except UnicodeDecodeError as problem:
            raise DataError(f"{file} is not UTF-8 ({problem}). {_WAY_OUT}") from None


def _corpus_folder() -> Path:
    found = importlib.util.find_spec("konlpy")  # locates a top-level package without running it
    if found is None or not found.submodule_search_locations:
        raise DataError(f"corpus korean-law: the wheel konlpy is not installed. {_WAY_OUT}")
    return Path(found.submodule_search_locations[0]) / "data" / "corpus"
