"""A learning process that does as it is told, for tests."""

from __future__ import annotations

import os
import sys
import threading

from controller.learning.process import Message, serve

# Before serve() gives the standard output to whoever prints.
ANSWERS = os.fdopen(os.dup(sys.stdout.fileno()), "wb")


def work(job: Message) -> Message:
    match job.values["do"]:
        case "echo":
            return Message(job.values, job.blobs)
        case "pid":
            return Message({"pid": os.getpid()})
        case "print":
            print("a library that talks")  # noqa: T201
            os.write(1, b"and another")
        case "fail":
            raise ValueError("no such luck")
        case "hang":
            threading.Event().wait()
        case "garbage":
            ANSWERS.write((5).to_bytes(8, "little") + b"{nope")
            ANSWERS.flush()
        case "huge":
            ANSWERS.write((2**40).to_bytes(8, "little"))
            ANSWERS.flush()
        case "half":
            ANSWERS.write((5).to_bytes(8, "little") + b"{")
            ANSWERS.flush()
            os._exit(3)
    return Message({})


if __name__ == "__main__":
    serve(work)
