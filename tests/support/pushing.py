"""
`python -m tests.support.pushing PORT NAME SECRET BYTES SECONDS`: one large signed push.

A process of its own, so that its work is not in what is measured beside it. It says "ready", waits
for a line, sends chunks as steadily as a line of that speed would, and prints the answer's status.
"""

import hmac
import os
import socket
import sys
import time
from hashlib import sha256

BLOCK_BYTES = 256 << 10


def main() -> None:
    port, name, secret, size, seconds = sys.argv[1:]
    block = os.urandom(BLOCK_BYTES)
    count = int(size) // BLOCK_BYTES
    mac = hmac.new(secret.encode(), f"{name}.".encode(), sha256)
    for _ in range(count):
        mac.update(block)
    lines = ["POST /api/v1/ingest/acme HTTP/1.1", "Host: x", "Content-Type: text/csv",
             f"X-Batch: {name}", f"X-Sig: {mac.hexdigest()}", "Transfer-Encoding: chunked",
             "", ""]  # fmt: skip
    piece = b"%x\r\n%b\r\n" % (len(block), block)
    print("ready", flush=True)
    sys.stdin.readline()
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", int(port)), timeout=60) as connection:
        connection.sendall("\r\n".join(lines).encode())
        for number in range(count):
            due = begun + number / count * float(seconds)
            time.sleep(max(0.0, due - time.monotonic()))
            connection.sendall(piece)
        connection.sendall(b"0\r\n\r\n")
        print(connection.recv(4096).decode().partition("\r\n")[0], flush=True)


if __name__ == "__main__":
    main()
