"""Errors of several rooms, and of code that calls them."""


class UsageError(ValueError):
    """A command or config that cannot work; its text is all the user needs to see."""


class ExportError(ValueError):
    """The checkpoint, the wish or the target of an export does not work out."""
