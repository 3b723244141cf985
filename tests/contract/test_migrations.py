"""Migrations up, down and compared with the tables, on both databases."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, inspect, text

from app.domain.delivery import ByteSpan
from app.domain.errors import AppError, ConflictingUpdate, InternalError, StorageFailed
from app.domain.outputs import OutputStatus
from app.domain.sweeps import SweepName
from app.domain.tombstones import Reason
from app.infrastructure.database import migrate
from app.infrastructure.database.link import Link
from app.infrastructure.database.migrate import (
    check_migrations,
    current_revision,
    downgrade,
    get_instance_id,
    head_revision,
    new_revision,
    set_instance_id,
    upgrade,
)
from app.infrastructure.database.tables import metadata
from app.infrastructure.database.transaction import SqlTransaction
from app.infrastructure.database.urls import parse_url, sqlite_url
from tests.factories import (
    insert_all,
    make_batch,
    make_completed_upload,
    make_ended_job,
    make_input,
    make_output,
    make_report,
    make_session,
    make_tombstone,
)

_BROKEN = """
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{head}"


def upgrade():
    op.add_column("sessions", sa.Column("extra", sa.Text()))
    op.create_table("extra", sa.Column("id", sa.Text(), primary_key=True))
    op.execute("INSERT INTO nowhere VALUES (1)")
"""


def tables(url: str) -> set[str]:
    engine = create_engine(parse_url(url), poolclass=NullPool)
    found = set(inspect(engine).get_table_names())
    engine.dispose()
    return found


def execute(url: str, statement: str) -> None:
    engine = create_engine(parse_url(url), poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def values(url: str, query: str) -> set[str]:
    engine = create_engine(parse_url(url), poolclass=NullPool)
    with engine.begin() as connection:
        found = set(connection.execute(text(query)).scalars())
    engine.dispose()
    return found


@contextmanager
def transaction(url: str) -> Iterator[SqlTransaction]:
    engine = create_engine(parse_url(url), poolclass=NullPool)
    with engine.begin() as connection:
        yield SqlTransaction(Link(connection))
    engine.dispose()


def test_a_new_database_is_brought_to_the_head_and_again_without_harm(blank_url: str) -> None:
    assert current_revision(blank_url) is None
    upgrade(blank_url)
    assert current_revision(blank_url) == head_revision()
    set_instance_id(blank_url, "a" * 32)
    upgrade(blank_url)
    assert get_instance_id(blank_url) == "a" * 32
    assert tables(blank_url) == {*metadata.tables, "alembic_version"}


def test_the_migrations_make_the_tables_the_code_believes_in(blank_url: str) -> None:
    check_migrations()
    upgrade(blank_url)
    check_migrations(blank_url)


@pytest.mark.parametrize(
    "drift",
    [
        "ALTER TABLE sessions ADD COLUMN extra TEXT",
        "ALTER TABLE sessions DROP COLUMN implicit",
        "DROP INDEX ix_uploads_status_spent_at",
        "DROP TABLE leases",
    ],
)
def test_a_difference_between_tables_and_migrations_is_named(url: str, drift: str) -> None:
    execute(url, drift)
    with pytest.raises(InternalError, match="differ"):
        check_migrations(url)


def test_a_database_that_is_behind_is_not_compared(blank_url: str) -> None:
    upgrade(blank_url)
    downgrade(blank_url, "base")
    with pytest.raises(InternalError, match="migrate"):
        check_migrations(blank_url)


def test_down_and_up_again(blank_url: str) -> None:
    upgrade(blank_url)
    downgrade(blank_url, "base")
    assert current_revision(blank_url) is None
    assert tables(blank_url) == {"alembic_version"}
    upgrade(blank_url)
    check_migrations(blank_url)


def test_rows_go_down_a_version_and_up_again(url: str) -> None:
    session, now = make_session(keep_inputs_hours=3.0), make_session().created_at
    batch = make_batch(session_id=session.id, keep_inputs_hours=3.0, slides=False)
    upload = make_completed_upload(session_id=session.id, batch_id=batch.id)
    job = make_ended_job(batch_id=batch.id, inputs=(make_input(upload.id),), one_time=True)
    output = make_output(
        job_id=job.id, one_time=True, status=OutputStatus.DELIVERED, delivered_at=now
    )
    gone = [make_tombstone(reason=reason) for reason in (Reason.DELIVERED, Reason.OUTPUT_EXPIRED)]
    report = make_report(sweep=SweepName.DELIVERED_OUTPUTS)
    with transaction(url) as tx:
        insert_all(tx, session, batch, upload, job, output, *gone, report)
        tx.deliveries.put(output.id, "me", [ByteSpan(0, output.size_bytes)])
    downgrade(url, "0001")
    # Only words that the version before knows: it could read no row with another.
    assert values(url, "SELECT status FROM outputs") == {"available"}
    assert values(url, "SELECT reason FROM tombstones") == {"retention_completed"}
    assert values(url, "SELECT sweep FROM sweep_reports") == set()
    upgrade(url)
    check_migrations(url)
    with transaction(url) as tx:
        assert tx.sessions.find(session.id) == replace(session, keep_inputs_hours=None)
        assert tx.batches.find(batch.id) == replace(batch, keep_inputs_hours=None, slides=True)
        assert tx.uploads.find(upload.id) == upload
        assert tx.jobs.find(job.id) == replace(job, one_time=False)
        there = replace(output, status=OutputStatus.AVAILABLE, one_time=False, delivered_at=None)
        assert tx.outputs.find(output.id) == there


def test_an_upgrade_that_fails_changes_nothing(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, head = tables(url), head_revision()
    scripts = tmp_path / "migrations"
    shutil.copytree(migrate.MIGRATIONS, scripts)
    (scripts / "versions" / "9999_broken.py").write_text(_BROKEN.format(head=head))
    monkeypatch.setattr(migrate, "MIGRATIONS", scripts)
    with pytest.raises(AppError):
        upgrade(url)
    assert tables(url) == before
    assert current_revision(url) == head
    monkeypatch.undo()
    check_migrations(url)


def test_a_database_belongs_to_one_data_folder(url: str) -> None:
    assert get_instance_id(url) is None
    set_instance_id(url, "a" * 32)
    set_instance_id(url, "a" * 32)
    with pytest.raises(ConflictingUpdate):
        set_instance_id(url, "b" * 32)
    assert get_instance_id(url) == "a" * 32


def test_the_database_itself_refuses_a_second_owner(url: str) -> None:
    set_instance_id(url, "a" * 32)
    with pytest.raises(Exception, match=r"(?i)constraint"):
        execute(url, "INSERT INTO instance SELECT 2, id, created_at FROM instance")


def test_looking_at_a_file_that_is_not_there_does_not_make_it(tmp_path: Path) -> None:
    path = tmp_path / "tidemill.db"
    assert current_revision(sqlite_url(path)) is None
    assert get_instance_id(sqlite_url(path)) is None
    assert not path.exists()


def test_a_folder_that_is_not_there_or_a_foreign_file_is_a_failure_of_the_storage(
    tmp_path: Path,
) -> None:
    with pytest.raises(StorageFailed):
        upgrade(sqlite_url(tmp_path / "nowhere" / "tidemill.db"))
    foreign = tmp_path / "foreign.db"
    foreign.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(StorageFailed):
        upgrade(sqlite_url(foreign))


def test_a_new_migration_starts_at_the_head_and_holds_the_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = tmp_path / "migrations"
    shutil.copytree(migrate.MIGRATIONS, scripts, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(migrate, "MIGRATIONS", scripts)
    head = head_revision()
    initial = scripts / "versions" / "0001_initial_tables.py"
    column = 'sa.Column("acquired_at", UtcDateTime(), nullable=False),'
    before = initial.read_text()
    assert column in before
    initial.write_text(before.replace(column, ""))
    new_revision("Say since when", "9999")
    assert head_revision() == "9999"
    (written,) = (scripts / "versions").glob("9999*.py")
    script = written.read_text()
    assert f'down_revision = "{head}"' in script
    assert 'batch_op.add_column(sa.Column("acquired_at", UtcDateTime(), nullable=False))' in (
        script.replace("'", '"')
    )
    assert "import UtcDateTime" in script
    check_migrations()
