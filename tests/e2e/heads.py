"""What went over a connection to a server: the heads of its requests, each with what was answered."""

from collections.abc import Callable
from dataclasses import dataclass, field

_END = b"\r\n\r\n"
_LINE = b"\r\n"
_BODILESS = {204, 304}


@dataclass(slots=True)
class Head:
    """A request as it came over the wire; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body_bytes: int = 0
    """How many bytes of its body came, without the framing of chunks."""
    status: int | None = None
    """What was answered, None for nothing."""
    answer: dict[str, str] = field(default_factory=dict)

    @property
    def asked(self) -> str:
        """The method that is meant: a POST may stand for another."""
        return self.headers.get("x-http-method-override", self.method)

    @property
    def offset(self) -> int:
        return int(self.headers["upload-offset"])

    @property
    def upload_id(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    @property
    def creates(self) -> bool:
        """Whether it makes an upload that bytes are then sent to: a final is made of what is there."""
        is_final = self.headers.get("upload-concat", "").startswith("final")
        return self.asked == "POST" and self.path.endswith(("/files/", "/files")) and not is_final

    def __str__(self) -> str:
        offset = self.headers.get("upload-offset", "-")
        told = self.answer.get("upload-offset", "-")
        return f"{self.asked} {self.path} {offset} +{self.body_bytes} -> {self.status} {told}"


class Messages:
    """Takes one direction of a connection as it comes. ``on_head`` gets each head's lines and returns
    whether a body may follow it; ``on_body`` counts that body's bytes.
    """

    def __init__(
        self, on_head: Callable[[list[str]], bool], on_body: Callable[[int], None]
    ) -> None:
        self._on_head = on_head
        self._on_body = on_body
        self._data = bytearray()
        self._left = 0
        self._is_chunked = False
        self._is_lost = False

    def feed(self, data: bytes) -> None:
        """Take what came; of what is no HTTP nothing more is noted."""
        if self._is_lost:
            return
        self._data += data
        try:
            while self._step():
                pass
        except (ValueError, IndexError):
            self._is_lost = True

    def _step(self) -> bool:
        """Take one thing off the data; False when more must come first."""
        if self._left:
            return self._take_body()
        if self._is_chunked:
            return self._take_chunk_size()
        return self._take_head()

    def _take_body(self) -> bool:
        taken = min(self._left, len(self._data))
        self._on_body(taken)
        del self._data[:taken]
        self._left -= taken
        return taken > 0

    def _take_chunk_size(self) -> bool:
        if self._data.startswith(_LINE):  # the end of the chunk before
            del self._data[:2]
        line, found, _ = self._data.partition(_LINE)
        if not found:
            return False
        size = int(line.partition(b";")[0], 16)
        if size:
            del self._data[: len(line) + 2]
            self._left = size
            return True
        if len(self._data) < len(line) + 4:
            return False
        del self._data[: len(line) + 4]  # nobody here sends trailers
        self._is_chunked = False
        return True

    def _take_head(self) -> bool:
        head, found, _ = self._data.partition(_END)
        if not found:
            return False
        del self._data[: len(head) + 4]
        lines = head.decode("latin-1").split("\r\n")
        if self._on_head(lines):
            headers = headers_of(lines)
            self._is_chunked = "chunked" in headers.get("transfer-encoding", "")
            self._left = 0 if self._is_chunked else int(headers.get("content-length", "0"))
        return True


def headers_of(lines: list[str]) -> dict[str, str]:
    """Return the headers below a first line, by their names in lower case."""
    pairs = (line.partition(":") for line in lines[1:])
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


class Conversation:
    """Both directions of a connection. The requests are noted in ``found``, and get their answers."""

    def __init__(self, found: list[Head]) -> None:
        self._found = found
        self._unanswered: list[Head] = []
        self._latest: Head | None = None
        self._requests = Messages(self._on_request, self._on_request_body)
        self._responses = Messages(self._on_response, lambda _: None)

    def from_client(self, data: bytes) -> None:
        self._requests.feed(data)

    def from_server(self, data: bytes) -> None:
        self._responses.feed(data)

    @property
    def position(self) -> int:
        """Up to which byte of its upload the latest request has come, if it is not answered yet."""
        head = self._latest
        if head is None or not head.body_bytes or head.status is not None:
            return 0
        return int(head.headers.get("upload-offset", "0")) + head.body_bytes

    def _on_request(self, lines: list[str]) -> bool:
        method, path, _ = lines[0].split(" ", 2)
        self._latest = Head(method, path, headers_of(lines))
        self._found.append(self._latest)
        self._unanswered.append(self._latest)
        return True

    def _on_request_body(self, size: int) -> None:
        assert self._latest is not None
        self._latest.body_bytes += size

    def _on_response(self, lines: list[str]) -> bool:
        status = int(lines[0].split(" ", 2)[1])
        if status < 200:
            return False
        head = self._unanswered.pop(0)
        head.status, head.answer = status, headers_of(lines)
        return head.method != "HEAD" and status not in _BODILESS
