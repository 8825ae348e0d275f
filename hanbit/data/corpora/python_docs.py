"""The documentation topics of Python's standard library (`pydoc_data.topics`, what `help("for")` prints): about 0.5 MB
of English and code on every machine. Licence: PSF-2.0. The text differs between Python versions."""

from collections.abc import Iterator

from hanbit.common.errors import DataError


def documents() -> Iterator[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError("this Python has no pydoc_data (some minimal builds leave it out). Name a text file") from None
    for name in sorted(topics):
        yield topics[name]
