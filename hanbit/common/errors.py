"""Errors that a user can act on.

A message names the value, the rule, the place and the way out. `cli/main.py` prints it without a traceback
(`--debug` shows one) and exits with the class's code. Our own mistakes are `assert`s, never these.
"""


class HanbitError(Exception):
    """Anything a user can put right. `exit_code` is what the process ends with.

    `is_told_by_another`: another of the processes that fail with it says it; this one ends in silence.
    """

    exit_code = 1
    is_told_by_another = False


class ConfigError(HanbitError):
    """A recipe, an override, a flag or an environment variable is wrong; nothing has been started."""

    exit_code = 2


class DataError(HanbitError):
    """A corpus, a tokenizer or a token file is missing, empty, damaged or does not fit the model."""


class ModelError(HanbitError):
    """A model folder is missing, damaged, or of a shape that cannot be read."""


class FormatError(HanbitError):
    """A file of another tool is damaged, contradicts itself, or holds what is not read here."""


class CheckpointError(HanbitError):
    """A checkpoint is damaged, incomplete, or belongs to another model."""


class RunFolderError(HanbitError):
    """A run folder cannot be used: another run holds it, or the disk refuses."""


class LaunchError(HanbitError):
    """A group of processes could not be started, or one of its ranks failed."""


class GenerationError(HanbitError):
    """A prompt or a sampling parameter that the engine cannot serve."""


class GrammarError(GenerationError):
    """The form that an answer is asked to have (a JSON schema, a pattern, a grammar) cannot be kept."""


class EngineBusy(GenerationError):
    """As many prompts wait for the engine as may; come again later."""


class EngineClosed(GenerationError):
    """The engine has ended, and no prompt is at fault."""

    def __init__(self) -> None:
        super().__init__("the engine has been closed")


class EngineFailed(GenerationError):
    """The engine failed at an answer, and the prompt is not at fault as far as anybody knows."""


class DeadlinePassed(GenerationError):
    """The time that an answer was given is up."""


class RepositoryError(HanbitError):
    """A model repository, or a config.pbtxt in it, is missing or wrong."""


class ServingError(HanbitError):
    """A server cannot start: a port is in use, an address is public without a key, no model is there."""


class TrainingError(HanbitError):
    """Training cannot go on: the loss is not a number, or a process of the group failed."""
