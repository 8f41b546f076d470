"""The error that users can fix."""


class UserError(Exception):
    """An error the user can fix; its message is shown as one line."""
