"""A property that is computed once, also under concurrent access from threads. functools.cached_property has no lock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

__all__ = ["cached_once"]

Owner = TypeVar("Owner")
Value = TypeVar("Value")
_lock = threading.RLock()


class cached_once(Generic[Owner, Value]):  # noqa: N801 - used as a decorator, as functools.cached_property is
    """See the module. The value is in the object's `__dict__`, where it may be set before the first access."""

    def __init__(self, make: Callable[[Owner], Value]) -> None:
        self._make = make
        self._name = make.__name__
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, owner: None, kind: Any = None) -> cached_once[Owner, Value]: ...
    @overload
    def __get__(self, owner: Owner, kind: Any = None) -> Value: ...
    def __get__(self, owner: Owner | None, kind: Any = None) -> cached_once[Owner, Value] | Value:
        if owner is None:
            return self
        with _lock:
            if self._name not in owner.__dict__:
                owner.__dict__[self._name] = self._make(owner)
        made: Value = owner.__dict__[self._name]
        return made
