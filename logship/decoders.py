"""Decoders of msgspec, made one at a time.

What msgspec has to know of a class it learns when the class is first decoded, by running Python;
and another thread that decodes the same class meanwhile finds it half learned, and the process
dies of a segmentation fault (msgspec 0.22, `StructInfo_Convert`: the class has its entry before
the entry is filled).  An applier takes up its instances in threads.  So nothing but this module
makes a decoder or converts; what is made can be used by all threads at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar, overload

import msgspec

JsonDecoder = msgspec.json.Decoder
MsgpackDecoder = msgspec.msgpack.Decoder

_T = TypeVar("_T")

_making = threading.RLock()
_json: dict[Any, JsonDecoder[Any]] = {}
_msgpack: dict[Any, MsgpackDecoder[Any]] = {}


@overload
def json_decoder(kind: type[_T]) -> JsonDecoder[_T]: ...
@overload
def json_decoder(kind: Any) -> JsonDecoder[Any]: ...
def json_decoder(kind: Any) -> JsonDecoder[Any]:
    """The decoder of JSON into `kind`, a type that is known before the process runs: it is kept.

    What it raises when it decodes is `logship.documents.UNREADABLE`.
    """
    with _making:
        if (made := _json.get(kind)) is None:
            made = _json[kind] = JsonDecoder(kind)
        return made


@overload
def msgpack_decoder(kind: type[_T]) -> MsgpackDecoder[_T]: ...
@overload
def msgpack_decoder(kind: Any) -> MsgpackDecoder[Any]: ...
def msgpack_decoder(kind: Any) -> MsgpackDecoder[Any]:
    """As `json_decoder`, of MessagePack."""
    with _making:
        if (made := _msgpack.get(kind)) is None:
            made = _msgpack[kind] = MsgpackDecoder(kind)
        return made


@overload
def convert(
    value: object,
    kind: type[_T],
    *,
    strict: bool = True,
    dec_hook: Callable[[type, Any], Any] | None = None,
) -> _T: ...
@overload
def convert(
    value: object,
    kind: Any,
    *,
    strict: bool = True,
    dec_hook: Callable[[type, Any], Any] | None = None,
) -> Any: ...
def convert(
    value: object,
    kind: Any,
    *,
    strict: bool = True,
    dec_hook: Callable[[type, Any], Any] | None = None,
) -> Any:
    """As `msgspec.convert`, which has nothing that could be made before.  Raises
    msgspec.ValidationError.  Others wait meanwhile: it is for small values."""
    with _making:
        return msgspec.convert(value, kind, strict=strict, dec_hook=dec_hook)
