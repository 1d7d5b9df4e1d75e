"""A file in memory with a name."""

import io


class NamedBytes(io.BytesIO):
    """A file in memory that messages call by a name, as they do files on a disk."""

    def __init__(self, content: bytes, name: str):
        super().__init__(content)
        self._name = name

    def __str__(self):
        return self._name

    def __repr__(self):
        return repr(self._name)
