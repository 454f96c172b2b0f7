"""What can go wrong, as types: one line for the user, never a trace for a user's mistake."""


class TramontaneError(Exception):
    """Base of every error that is reported to the user as one line (exit code 2 on the command line)."""


class ConfigError(TramontaneError):
    """A model configuration cannot be honoured; the message names the key, its value and the remedy."""


class CheckpointError(TramontaneError):
    """A checkpoint file is damaged, incomplete, hostile or of an unknown kind; the message names the file."""


class TokenizerError(TramontaneError):
    """A vocabulary or chat template cannot be read, or a message cannot be encoded with it."""


class RequestError(TramontaneError):
    """A request can never be served as asked (over-long prompt, impossible sampling value)."""


class ContextLengthError(RequestError):
    """A prompt, or prompt and answer together, are longer than the model's context."""


class CapacityError(TramontaneError):
    """The request is sound, but there is no room for it now (queue full) or on this machine (memory)."""


class DataError(TramontaneError):
    """Training or evaluation data is malformed; the message names file, line and remedy."""
