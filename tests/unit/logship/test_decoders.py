"""Decoders of one class that several threads need for the first time at once."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from logship.decoders import convert, json_decoder, msgpack_decoder

# A program of its own: what it shows where a decoder is made without the lock is SIGSEGV.  The
# first thread is held where msgspec runs Python for the inner class, with the outer one half
# learned; it goes on once the second has decoded, or waits.
TWO_THREADS = """
import linecache, sys, threading, time
import msgspec
from logship import decoders

class Inner(msgspec.Struct):
    number: int

class Outer(msgspec.Struct):
    inner: Inner
    text: str

WAYS = {
    "json": lambda: decoders.json_decoder(Outer).decode(b'{"inner": {"number": 1}, "text": "a"}'),
    "msgpack": lambda: decoders.msgpack_decoder(Outer).decode(
        msgspec.msgpack.encode({"inner": {"number": 1}, "text": "a"})
    ),
    "convert": lambda: decoders.convert({"inner": {"number": 1}, "text": "a"}, Outer),
}
first, second = (WAYS[name] for name in sys.argv[1:])
found, held = [], threading.Event()

def is_waiting(thread):
    frame = sys._current_frames().get(thread.ident)
    if frame is None or frame.f_code.co_filename != decoders.__file__:
        return False
    return "with _making" in linecache.getline(decoders.__file__, frame.f_lineno)

def hold(frame, event, argument):
    if frame.f_code.co_name == "get_class_annotations" and frame.f_locals["obj"] is Inner:
        sys.settrace(None)
        other = threading.Thread(target=lambda: found.append(second()))
        other.start()
        end = time.monotonic() + 30
        while other.is_alive() and not is_waiting(other) and time.monotonic() < end:
            time.sleep(0.001)
        held.set()

def run():
    sys.settrace(hold)
    found.append(first())

begun = threading.Thread(target=run)
begun.start()
begun.join()
assert held.is_set(), "it was not held: msgspec learns in another way by now"
while len(found) < 2:
    time.sleep(0.001)
print(found == [Outer(Inner(1), "a")] * 2)
"""


@pytest.mark.parametrize("first", ["json", "msgpack", "convert"])
@pytest.mark.parametrize("second", ["json", "msgpack", "convert"])
def test_two_threads_learn_a_class_one_after_the_other(first: str, second: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", TWO_THREADS, first, second],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


class Document(msgspec.Struct):
    number: int


def test_a_decoder_is_made_once() -> None:
    assert json_decoder(Document) is json_decoder(Document)
    assert msgpack_decoder(Document | None) is msgpack_decoder(Document | None)


def test_what_does_not_fit_is_refused_as_msgspec_does() -> None:
    for attempt in (
        lambda: json_decoder(Document).decode(b'{"number": "1"}'),
        lambda: msgpack_decoder(Document).decode(msgspec.msgpack.encode({"number": "1"})),
        lambda: convert({"number": "1"}, Document),
    ):
        with pytest.raises(msgspec.ValidationError, match="Expected `int`, got `str`"):
            attempt()
    assert convert({"number": "1"}, Document, strict=False) == Document(1)
