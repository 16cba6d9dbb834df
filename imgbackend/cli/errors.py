"""What a command may end with beside the errors of the library."""


class UsageError(Exception):
    """The command was called in a way that cannot be meant; exit status 2."""
