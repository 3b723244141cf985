"""tus-js-client over cut lines, stops and kills of the service: it goes on, never again at byte 0."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Server, wait_for
from tests.e2e.node import CLIENTS, FOLDER, Scenarios
from tests.e2e.proxy import Proxy
from tests.e2e.resumed import (
    Interruption,
    assert_is_there,
    interrupt,
    new_uploads,
    restart_while_held,
    stored_bytes,
)
from tests.e2e.tus_js import (
    CASES,
    HOLD,
    KIB,
    OPTIONS,
    SCENARIOS,
    Sending,
    assert_as_chosen,
    parts_of,
    write_clip,
)
from tests.e2e.wire import TUS

TYPES = ("lib/index.d.ts", "lib.esm/options.d.ts")
"""Where each version declares its options."""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenarios]:
    with Scenarios(tmp_path_factory.mktemp("node")) as scenarios:
        yield scenarios


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.mark.parametrize(("client", "types"), list(zip(CLIENTS, TYPES, strict=True)))
def test_the_table_names_every_option_of_the_client(
    client: str, types: str, node: Scenarios
) -> None:
    """What it has as defaults, and what it declares, is what is tested; a new option must be added."""
    (told,) = node.run({"client": client, "list": True}).of("options")
    assert set(told["names"]) == set(OPTIONS)
    text = (FOLDER / "node_modules" / client / types).read_text()
    (block,) = re.findall(r"interface UploadOptions \{\n(.*?)\n\}", text, re.DOTALL)
    indent = min(len(line) - len(line.lstrip()) for line in block.splitlines() if line.strip())
    declared = set(re.findall(rf"^ {{{indent}}}(\w+)\??:", block, re.MULTILINE))
    assert declared <= set(OPTIONS)
    assert len(declared) > 20
    assert set(OPTIONS.values()) <= set(SCENARIOS)


@pytest.mark.parametrize("way", ["cut", "stop", "kill"])
def test_every_option_survives_what_interrupts_it(
    way: str, own_server: Server, node: Scenarios, clip: Path
) -> None:
    """All scenarios of both versions at once: a restart costs most of the time."""
    content = clip.read_bytes()
    with Proxy(own_server.port, hold_each_at=HOLD) as proxy:
        interruption = Interruption(own_server, proxy, parts=sum(parts_of(n) for _, n in CASES))
        sending = Sending(node, proxy, clip)
        for client, name in CASES:
            sending.start(client, name)
        interruption.wait(seconds=90)
        interrupt(own_server, proxy, way, interruption)
        found = list(sending.finish())
    for name, told, heads in found:
        assert_is_there(own_server, told.success["url"], told.success["headers"], content)
        assert_as_chosen(name, told, heads)
    interruption.assert_went_on()
    assert not [e for _, told, _ in found for e in told.of("response") if e["status"] >= 500]


@pytest.mark.long
@pytest.mark.parametrize("way", ["cut", "stop", "kill"])
@pytest.mark.parametrize(("client", "name"), CASES)
def test_one_way_to_upload_survives_three_interruptions(
    client: str, name: str, way: str, own_server: Server, node: Scenarios, clip: Path
) -> None:
    with Proxy(own_server.port, hold_each_at=HOLD) as proxy:
        interruption = Interruption(own_server, proxy, parts=parts_of(name))
        sending = Sending(node, proxy, clip)
        sending.start(client, name)
        interruption.wait(sending.runs[client, name])
        for _ in range(3):
            interrupt(own_server, proxy, way, interruption)
            proxy.slow_down(256 * KIB)
        proxy.speed_up()
        ((_, told, heads),) = sending.finish()
    assert_is_there(own_server, told.success["url"], told.success["headers"], clip.read_bytes())
    assert_as_chosen(name, told, heads)
    interruption.assert_went_on()


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_a_creation_that_a_restart_breaks_off_is_made_anew(
    way: str, own_server: Server, node: Scenarios, clip: Path
) -> None:
    """Its address was in the answer that never came, so that no client can go on with it. A stop takes
    it away; after a kill it is an unfinished upload like any other, and expires.
    """
    before = stored_bytes(own_server)
    with Proxy(own_server.port, hold_each_at=HOLD) as proxy:
        sending = Sending(node, proxy, clip)
        for client in CLIENTS:
            sending.start(client, "all with the creation")
        wait_for(lambda: len(_with_bytes(own_server, before)) == 2, "bytes of both")
        broken = set(_with_bytes(own_server, before))
        restart_while_held(own_server, proxy, way)
        found = list(sending.finish())
    for _, told, heads in found:
        assert_is_there(own_server, told.success["url"], told.success["headers"], clip.read_bytes())
        assert {head.asked for head in heads} == {"POST"}
        assert len([head for head in heads if head.status == 201]) == 1
    made = {told.success["url"].rsplit("/", 1)[-1] for _, told, _ in found}
    left = set(new_uploads(own_server, before)) - made
    assert left == (broken if way == "kill" else set())
    with own_server.client() as http:
        for upload_id in broken:
            head = http.head(f"/files/{upload_id}", headers=TUS)
            assert head.status_code == (200 if way == "kill" else 404)
            assert ("upload-expires" in head.headers) is (way == "kill")


def test_a_creation_whose_answer_is_lost_is_made_twice(
    own_server: Server, node: Scenarios, clip: Path
) -> None:
    """All of it arrived, which its client cannot know: each of the two is a batch of its own."""
    before = stored_bytes(own_server)
    whole = clip.stat().st_size
    with Proxy(own_server.port) as proxy:
        proxy.lose_answers(len(CLIENTS))
        sending = Sending(node, proxy, clip)
        for client in CLIENTS:
            sending.start(client, "all with the creation")
        found = list(sending.finish())
    for _, told, heads in found:
        assert_is_there(own_server, told.success["url"], told.success["headers"], clip.read_bytes())
        assert [(head.asked, head.status) for head in heads] == [("POST", None), ("POST", 201)]
    assert sorted(new_uploads(own_server, before).values()) == [whole] * 4
    rows = own_server.rows("SELECT id, batch_id FROM uploads WHERE status = 'completed'")
    batches = {batch for upload, batch in rows if upload not in before}
    assert len(batches - {None}) == 4


def _with_bytes(server: Server, before: dict[str, int]) -> list[str]:
    return [name for name, size in new_uploads(server, before).items() if size]
