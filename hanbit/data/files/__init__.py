"""One file per kind of corpus file; the folder is the list. Each has `SUFFIXES` and
`documents(path, text_key) -> Iterator[(text, bytes of the file read so far)]`; a document that is not there
(null) comes as an empty text, so that the count of documents is the place in the file."""
