"""Bodies through TLS: behind nginx with the page's lines, and where the service ends it itself."""

import hashlib
import os
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.e2e import node
from tests.e2e.harness import Server, wait_for
from tests.e2e.nginx import Nginx
from tests.e2e.wire import PATCH_TYPE, TUS, create, offset_of, patch
from tests.fakes.body_ways import OneWay, Way
from tests.fakes.served import settings_for

KEY = "a-key-for-the-tests-through-tls-"
BEARER = {"Authorization": f"Bearer {KEY}"}
BODY = os.urandom(3_000_000)
SENT = 2_000_000


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that signs itself; its key lies beside it."""
    folder = tmp_path_factory.mktemp("tls")
    found = folder / "made.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(found.with_suffix(".key")), "-out", str(found)),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return found


@contextmanager
def ending_tls(nginx: Nginx, certificate: Path) -> Iterator[str]:
    """Start nginx as the page has it, TLS included, and tell its address."""
    plain = f"listen 127.0.0.1:{nginx.port};"
    config = nginx._config.read_text()
    assert config.count(plain) == 1
    tls = (
        f"listen 127.0.0.1:{nginx.port} ssl;\n"
        f"    ssl_certificate {certificate};\n"
        f"    ssl_certificate_key {certificate.with_suffix('.key')};"
    )
    nginx._config.write_text(config.replace(plain, tls))
    with nginx:
        yield f"https://127.0.0.1:{nginx.port}"


@contextmanager
def begun_patch(url: str, certificate: Path, length: int) -> Iterator[ssl.SSLSocket]:
    """A PATCH through TLS whose body is to be sent; at the end its line is cut, without a goodbye."""
    address = httpx.URL(url)
    assert address.port is not None
    trust = ssl.create_default_context(cafile=certificate)
    headers = {
        "Host": f"127.0.0.1:{address.port}",
        **TUS,
        **PATCH_TYPE,
        **BEARER,
        "Upload-Offset": "0",
        "Content-Length": str(length),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    bare = socket.create_connection(("127.0.0.1", address.port), 20)
    with trust.wrap_socket(bare, server_hostname="127.0.0.1") as line:
        line.sendall(f"PATCH {address.path} HTTP/1.1\r\n{lines}\r\n".encode())
        yield line


def client_of(url: str, certificate: Path) -> httpx.Client:
    trust = ssl.create_default_context(cafile=certificate)
    return httpx.Client(base_url=url, headers=BEARER, verify=trust, timeout=60, trust_env=False)


def cut_and_resume(url: str, certificate: Path, stored: Callable[[], int]) -> None:
    """Upload over a line that is cut in the middle, go on at what HEAD tells, and fetch it all."""
    with client_of(url, certificate) as client:
        path = httpx.URL(create(client, len(BODY))).path
        with begun_patch(f"{url}{path}", certificate, len(BODY)) as line:
            line.sendall(BODY[:SENT])
            wait_for(lambda: stored() == SENT, "what was sent on the disk")
        assert offset_of(client, path) == SENT
        answer = patch(client, path, SENT, BODY[SENT:])
        assert answer.status_code == 204
        assert answer.headers["tidemill-batch"]
        assert client.get(path).content == BODY
        part = client.get(path, headers={"Range": "bytes=7-1999999"})
        assert (part.status_code, part.content) == (206, BODY[7:2_000_000])


@pytest.fixture
def server(make_server: Callable[..., Server], tmp_path: Path) -> Server:
    key_file = tmp_path / "key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    return make_server(
        {"TRUSTED_PROXIES": "127.0.0.1", "ADMIN_KEY_FILE": key_file, "DRAIN_SECONDS": "1"}
    )


def stored_by(server: Server) -> int:
    return sum(path.stat().st_size for path in (server.data / "uploads").iterdir())


def test_through_nginx_with_tls_uploads_go_on_after_a_cut_and_a_restart(
    server: Server, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nginx = Nginx.of_the_page(tmp_path, server.port)
    server.start({"PUBLIC_URL": f"https://127.0.0.1:{nginx.port}"})
    content = os.urandom(24 * 2**20)
    file = tmp_path / "clip.bin"
    file.write_bytes(content)
    monkeypatch.setenv("NODE_EXTRA_CA_CERTS", str(certificate))
    with ending_tls(nginx, certificate) as url:
        cut_and_resume(url, certificate, lambda: stored_by(server))
        wish = {
            "client": "tus-js-client",
            "endpoint": f"{url}/files/",
            "file": str(file),
            "headers": BEARER,
            "chunkSize": 2**20,
            "retryDelays": [0, 1000, 3000, 5000, 10000],
        }
        with node.start_upload(wish) as process:
            wait_for(lambda: stored_by(server) > len(BODY) + 2 * 2**20, "some of the upload")
            assert server.stop() == 0
            server.start()
            told = node.finish(process)
    assert told.success["url"].startswith(f"{url}/files/")
    assert told.patch_offsets.count(0) == 1, "it began anew"
    stored = server.data / "uploads" / told.success["url"].rpartition("/")[2]
    assert hashlib.sha256(stored.read_bytes()).digest() == hashlib.sha256(content).digest()


def test_where_the_service_ends_tls_no_body_goes_past_its_layer(
    certificate: Path, tmp_path: Path
) -> None:
    service = OneWay(settings_for(tmp_path / "data", jobs={"workers": 0}), Way.LENT)
    config = service._server.config
    config.ssl_certfile, config.ssl_keyfile = certificate, certificate.with_suffix(".key")
    with service:
        folder = service.data / "uploads"
        cut_and_resume(
            f"https://127.0.0.1:{service.port}",
            certificate,
            lambda: sum(path.stat().st_size for path in folder.iterdir()),
        )
        assert service.lending.count == 0
