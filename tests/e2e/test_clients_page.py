"""What docs/clients.md says: its curl line works, and its versions are those that are tested."""

import json
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

from tests.e2e.harness import Server
from tests.e2e.node import FOLDER
from tests.e2e.resumed import assert_is_there

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "clients.md").read_text()


def test_the_curl_line_uploads_a_file(shared_server: Server, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(content := b"not quite a clip" * 1000)
    (line,) = re.findall(r"```sh\n(curl.*?)```", PAGE, re.DOTALL)
    done = subprocess.run(
        ["bash", "-c", line.replace("http://127.0.0.1:8000", shared_server.url)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    first, *lines = done.stdout.strip().splitlines()
    assert " 201" in first
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    assert_is_there(shared_server, headers["location"], headers, content)


def test_the_versions_of_the_page_are_the_tested_ones() -> None:
    wanted = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    five = wanted["tus-js-client-5"].rpartition("@")[2]
    for told in (
        f"{wanted['tus-js-client']} and {five}",
        f"{wanted['@uppy/core']}, {wanted['@uppy/tus']}",
        f"tuspy](https://github.com/tus/tus-py-client) | {version('tuspy')} |",
        f"aiotus](https://github.com/JenSte/aiotus) | {version('aiotus')} |",
    ):
        assert told in PAGE
