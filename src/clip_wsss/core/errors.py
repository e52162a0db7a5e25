"""The one exception that a user is meant to read."""


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is a single line: it names the file or the config key, says what is wrong
    with it and what to do about it. Jobs print that line and no traceback.
    """
