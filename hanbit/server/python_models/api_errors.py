"""TritonError and TritonModelException of `triton_python_backend_utils`."""


class TritonModelException(Exception):
    """What a model raises when it cannot go on, and what this module raises when it is misused."""

    def message(self) -> str:
        return str(self)


class TritonError:
    """An error of one response. The codes are Triton's own numbers."""

    UNKNOWN = 0
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    UNSUPPORTED = 5
    ALREADY_EXISTS = 6
    CANCELLED = 7

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self._message, self._code = str(message), int(code)

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code

    def __str__(self) -> str:
        return self._message
