"""One file per kind of corpus file; the folder is the list. Each has `SUFFIXES` and
`documents(path, text_key) -> Iterator[(text, bytes of the file read so far)]`."""
