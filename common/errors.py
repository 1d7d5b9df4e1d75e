"""The exceptions that the exporter's modules raise."""


class ExportError(Exception):
    """What stopped an export and what mends it, in one line for the user."""


class AlreadyThere(ExportError):
    """Intact weights are in the place of the export, and nobody asked to replace them."""
