"""A raw socket sink: what comes is read into one buffer and written to a file, without any protocol.

    sink.py FOLDER PORT [fsync]

Each connection sends the number of its bytes (8 bytes, big endian), a name of 32 characters, and the
bytes; one byte back says that they are in the file.
"""

import os
import socket
import sys
import threading
from pathlib import Path

PIECE = 1 << 20


def serve(connection: socket.socket, folder: Path, *, fsync: bool) -> None:
    buffer = bytearray(PIECE)
    view = memoryview(buffer)
    with connection:
        head = connection.recv(40, socket.MSG_WAITALL)
        left, name = int.from_bytes(head[:8], "big"), head[8:].decode()
        with (folder / name).open("wb", buffering=0) as file:
            while left and (count := connection.recv_into(view)):
                file.write(view[:count])
                left -= count
            if fsync:
                os.fdatasync(file.fileno())
        connection.sendall(b"\1")


def main() -> None:
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    fsync = sys.argv[3:] == ["fsync"]
    listener = socket.create_server(("127.0.0.1", port))
    while True:
        connection, _ = listener.accept()
        threading.Thread(
            target=serve, args=(connection, folder), kwargs={"fsync": fsync}, daemon=True
        ).start()


if __name__ == "__main__":
    main()
