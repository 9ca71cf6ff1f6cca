"""What can go wrong behind a store.

DurableStreamError
+-- StoreError              the store could not do its work; what was asked is not stored
    +-- StoreFullError      no space: the disk is full, or the store's own limit is reached
    +-- StoreLockedError    this or another process serves this directory
    +-- StoreFormatError    the directory was written by a newer version, or is not a store
"""

from __future__ import annotations

from durable_streams.errors import DurableStreamError


class StoreError(DurableStreamError):
    """The store could not do its work. Nothing of the failed request is stored."""

    code = "STORE"


class StoreFullError(StoreError):
    """No space: the disk is full, or the store's own limit is reached."""

    code = "STORE_FULL"


class StoreLockedError(StoreError):
    """This or another process serves this directory."""

    code = "STORE_LOCKED"


class StoreFormatError(StoreError):
    """The directory holds a store of a newer version, or something that is not a store."""

    code = "STORE_FORMAT"
