"""What an operator may put behind `finish`: one that signs, and ones that go wrong."""

import hashlib
import hmac
import json
import struct

KEY = b"operator"
BOX = b"uuid" + b"signature-of-op!"


def sign(path, record):
    """Append a box of ISO 14496-12 with a signature over the file and what its record says; players skip it."""
    if "unsigned" in json.dumps(record):
        raise PermissionError("/etc/keys/operator is not readable")
    digest = signature(path.read_bytes(), record)
    with path.open("ab") as file:
        file.write(struct.pack(">I", 8 + 16 + len(digest)) + BOX + digest)
    return {"signed_by": "operator", "signature": digest.hex()}


def signature(content, record):
    return hmac.new(KEY, content + str(record["prompt"]).encode(), hashlib.sha256).digest()


def says_nothing(path, record):
    pass


def empties(path, record):
    path.write_bytes(b"")


def removes(path, record):
    path.unlink()


def leads_elsewhere(path, record):
    other = path.with_name("other")
    path.rename(other)
    path.symlink_to(other)


def tells_what_is_no_json(path, record):
    return {"key": object()}


no_function = "sign"
