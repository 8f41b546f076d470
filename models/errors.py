"""What is wrong with a model that a user has named."""


class UserError(Exception):
    """Something the user can mend; its message is the one line that is shown."""
