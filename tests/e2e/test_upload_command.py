"""`tidemill upload` as a person and as a script uses it, against a real server and a bad line."""

import json
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.frames import assert_is_cut
from tests.e2e.harness import Server, free_port, run_command, start_command, wait_for
from tests.e2e.proxy import Proxy

MIB = 1024 * 1024
TRIM = ("--then", "trim", "--start", "2", "--end", "7")


def _upload(
    server: str, *arguments: str | Path, home: Path, seconds: float = 90
) -> subprocess.CompletedProcess[str]:
    return run_command("upload", *arguments, "--server", server, home=home, seconds=seconds)


def _facts(stdout: str) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in stdout.splitlines())


def test_it_sends_waits_and_fetches_the_cut(
    shared_server: Server, clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.mp4"
    done = _upload(shared_server.url, clip, *TRIM, "-o", out, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_is_cut(out, clip, start=2, end=7)
    assert not list(tmp_path.glob("*.part"))
    facts = _facts(done.stdout)
    assert {"upload", "batch", "job", "output", "file"} == set(facts)
    assert facts["file"] == str(out)
    assert "Uploading clip.mp4: 100 %" in done.stderr
    assert "Running trim: 100 %, completed" in done.stderr
    assert "Downloading out.mp4: 100 %" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr, "no escape codes outside a terminal"
    with shared_server.client() as api:
        assert api.get(f"/api/v1/jobs/{facts['job']}").json()["status"] == "completed"


def test_delete_leaves_nothing_on_the_server(
    server: Server, short_clip: Path, tmp_path: Path
) -> None:
    done = _upload(
        server.url, short_clip, "--then", "trim", "--param", "start=00:00:00.5",
        "--param", "end=1.5", "-o", tmp_path, "--delete", "--json", "-q", home=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (result,) = json.loads(done.stdout)["files"]
    assert_is_cut(Path(result), short_clip, start=0.5, end=1.5)
    assert server.leftovers() == []


def test_without_an_operation_it_names_upload_and_batch(
    shared_server: Server, short_clip: Path, tmp_path: Path
) -> None:
    done = _upload(shared_server.url, short_clip, home=tmp_path)
    assert done.returncode == 0, done.stderr
    facts = _facts(done.stdout)
    assert {"upload", "batch"} == set(facts)
    with shared_server.client() as api:
        batch = api.get(f"/api/v1/batches/{facts['batch']}").json()
        (file,) = batch["files"]
        assert file["id"] == facts["upload"]
        assert file["filename"] == "clip.mp4"
        assert file["media_type"] == "video/mp4"
        assert api.get(f"/files/{facts['upload']}").content == short_clip.read_bytes()


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_a_restart_of_the_server_in_between_costs_no_byte(
    way: str, server: Server, clip: Path, tmp_path: Path
) -> None:
    out, size = tmp_path / "out.mp4", clip.stat().st_size
    with (
        Proxy(server.port, bytes_per_second=3 * MIB) as proxy,
        start_command(
            "upload", clip, *TRIM, "-o", out, "--server", proxy.url, home=tmp_path
        ) as running,
    ):
        wait_for(lambda: proxy.bytes_from_clients > size // 2, "half of the clip")
        server.stop() if way == "stop" else server.kill()
        time.sleep(0.5)
        server.start()
        proxy.speed_up()
        output, messages = running.communicate(timeout=60)
        assert running.returncode == 0, messages
        assert proxy.bytes_from_clients < size + 2 * MIB
    assert "Trying again for up to 300 s." in messages
    assert re.search(r"The server is back\. Going on at byte [1-9]\d+\.", messages)
    assert_is_cut(out, clip, start=2, end=7)
    assert _facts(output)["file"] == str(out)


def test_a_line_that_is_cut_again_and_again_is_gone_on_with(
    shared_server: Server, clip: Path, tmp_path: Path
) -> None:
    size = clip.stat().st_size
    with Proxy(shared_server.port, cut_after=[size // 4, size // 2, 3 * size // 4]) as proxy:
        done = _upload(proxy.url, clip, home=tmp_path)
        assert proxy.cuts == 3
    assert done.returncode == 0, done.stderr
    with shared_server.client() as api:
        assert api.get(f"/files/{_facts(done.stdout)['upload']}").content == clip.read_bytes()


def test_ctrl_c_says_how_to_go_on_and_that_works(
    shared_server: Server, clip: Path, tmp_path: Path
) -> None:
    out, size = tmp_path / "out.mp4", clip.stat().st_size
    with (
        Proxy(shared_server.port, bytes_per_second=2 * MIB) as proxy,
        start_command(
            "upload", clip, *TRIM, "-o", out, "--server", proxy.url, home=tmp_path
        ) as running,
    ):
        wait_for(lambda: proxy.bytes_from_clients > size // 3, "a third of the clip")
        running.send_signal(signal.SIGINT)
        _, messages = running.communicate(timeout=20)
        assert running.returncode == 130
        assert not out.exists()
        proxy.speed_up()
        hint = messages.strip().splitlines()[-1]
        words = shlex.split(hint)
        assert words[:2] == ["tidemill", "upload"]
        already = proxy.bytes_from_clients
        done = run_command(*words[1:], home=tmp_path)
        assert done.returncode == 0, done.stderr
        assert proxy.bytes_from_clients - already < size - size // 4
        assert re.search(r"Going on at byte [1-9]\d+\.", done.stderr)
        assert_is_cut(out, clip, start=2, end=7)
        # Once more, now that all is there: nothing is sent, the result is fetched again.
        already = proxy.bytes_from_clients
        again = run_command(*words[1:], "--force", home=tmp_path)
        assert again.returncode == 0, again.stderr
        assert proxy.bytes_from_clients - already < 64 * 1024


def test_a_download_goes_on_with_what_is_there_and_starts_over_on_other_bytes(
    shared_server: Server, short_clip: Path, tmp_path: Path
) -> None:
    out, part = tmp_path / "out.mp4", tmp_path / "out.mp4.part"
    cut = ("--then", "trim", "--end", "1")
    first = _upload(shared_server.url, short_clip, *cut, "-o", out, home=tmp_path)
    assert first.returncode == 0, first.stderr
    whole, upload_id = out.read_bytes(), _facts(first.stdout)["upload"]
    for left_over in (whole[: len(whole) // 2], b"other bytes", whole + b"and more", whole):
        part.write_bytes(left_over)
        done = _upload(
            shared_server.url, short_clip, "--resume", upload_id, "-o", out, "-f", home=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert out.read_bytes() == whole
        assert not part.exists()


def test_a_server_that_is_away_is_given_up_after_the_time_that_was_asked_for(
    short_clip: Path, tmp_path: Path
) -> None:
    begun = time.monotonic()
    done = _upload(f"http://127.0.0.1:{free_port()}", short_clip, "--timeout", "1", home=tmp_path)
    assert done.returncode == 3
    assert time.monotonic() - begun < 10
    assert "cannot be reached" in done.stderr
    assert "gave up" in done.stderr


def test_a_failed_job_is_a_failed_command(shared_server: Server, tmp_path: Path) -> None:
    text = tmp_path / "clip.mp4"
    text.write_text("no film")
    done = _upload(shared_server.url, text, *TRIM, "-o", tmp_path / "out.mp4", home=tmp_path)
    assert done.returncode == 1
    assert "(not_media)" in done.stderr
    assert not (tmp_path / "out.mp4").exists()


def test_an_empty_file_is_sent_too(shared_server: Server, tmp_path: Path) -> None:
    empty = tmp_path / "empty.bin"
    empty.touch()
    done = _upload(shared_server.url, empty, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "batch" in _facts(done.stdout)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--start", "2"], "--then"),
        (["-o", "out.mp4"], "--then"),
        (["--then", "trim", "--end", "1", "--delete"], "-o"),
        (["--then", "trim", "--param", "nonsense"], "KEY=VALUE"),
        (["--then", "trim", "--start", "1", "--param", "start=2"], "leave one out"),
        (["--then", "trim", "--end", "1", "-o", "no/such/out.mp4"], "not there"),
        (["--then", "trim", "--end", "1", "-o", "taken.mp4"], "--force"),
        (["--resume", "nonsense"], "32 hex"),
        (["--resume", "0" * 32, "--then", "trim"], "leave --then out"),
        (["--server", "ftp://somewhere"], "http"),
        (["--key-file", "empty.key"], "no key"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong_and_sends_nothing(
    arguments: list[str], said: str, short_clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken.mp4").write_bytes(b"mine")
    (tmp_path / "empty.key").write_text("\n")
    done = run_command("upload", short_clip, *arguments, home=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert (tmp_path / "taken.mp4").read_bytes() == b"mine"


def test_an_upload_that_the_server_does_not_have_is_not_begun_anew_in_silence(
    shared_server: Server, short_clip: Path, tmp_path: Path
) -> None:
    done = _upload(shared_server.url, short_clip, "--resume", "0" * 32, home=tmp_path)
    assert done.returncode == 1
    assert "leave --resume out" in done.stderr


def test_another_file_than_the_one_that_was_begun_is_refused(
    shared_server: Server, short_clip: Path, clip: Path, tmp_path: Path
) -> None:
    first = _upload(shared_server.url, short_clip, home=tmp_path)
    done = _upload(
        shared_server.url, clip, "--resume", _facts(first.stdout)["upload"], home=tmp_path
    )
    assert done.returncode == 1
    assert str(clip.stat().st_size) in done.stderr


def test_a_key_is_sent_where_one_is_required(
    make_server: Callable[..., Server], short_clip: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("correct-horse-battery-staple-0123456789\n")
    key.chmod(0o600)
    server = make_server({"ADMIN_KEY_FILE": key}).start()
    refused = _upload(server.url, short_clip, home=tmp_path)
    assert refused.returncode == 1
    assert "credentials_required" in refused.stderr
    wrong = tmp_path / "wrong"
    wrong.write_text("another-key-altogether-0123456789-abcdef\n")
    refused = _upload(server.url, short_clip, "--key-file", wrong, home=tmp_path)
    assert "credentials_invalid" in refused.stderr
    done = _upload(server.url, short_clip, "--key-file", key, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "correct-horse" not in server.log_text() + done.stderr + done.stdout
