class ExportError(Exception):
    """What stopped an export and what mends it, in one line for the user."""
