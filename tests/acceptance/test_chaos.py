"""A short `make chaos` with a fixed seed; and that it would see a lost or a doubled effect."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.chaos.batches import OPEN_IN_CAMPAIGN, again, read
from benchmarks.chaos.campaign import Campaign, Wanted
from benchmarks.chaos.generations import Generation
from benchmarks.chaos.ground import DATABASES, Ground
from dharma_tasks.local import LocalEngines
from dharma_tasks.settings import Settings

KINDS = (
    "pool child killed",
    "worker killed",
    "worker frozen",
    "worker told to end",
    "redis killed",
    "redis flushed",
    "redis set back",
    "messages delivered again",
    "mongodb stepped down",
    "postgresql killed",
)
"""Drawn from these. Elasticsearch takes 12 s to start: it is killed by tests of its own."""


@pytest.fixture
def ground(engines: LocalEngines, settings: Settings, tmp_path: Path) -> Ground:
    """The engines and a namespace of the test's own, with short leases."""
    quick = settings.model_copy(update={"lease_seconds": 3.0, "batch_seconds": 0.3})
    return Ground(engines, quick, tmp_path)


def test_short_campaign(ground: Ground) -> None:
    """Six faults at random instants, there and back: nothing lost, nothing doubled, all go on.

    FAULTS 6, 7, 13, 16, 17, 21 and 26, in whatever order and company the seed brings them.
    """
    kinds = tuple((kind, 1) for kind in KINDS)
    wanted = Wanted(6, seed=4, seconds=200, scale=0.15, kinds=kinds, pause=1.0, each_way=3)
    figures = Campaign(ground, wanted).run()
    assert figures.well, str(figures)
    assert len(figures.faults) >= 4, str(figures)
    assert figures.recovered == figures.faults, str(figures)
    assert figures.ways == Counter(forward=1, back=1)
    assert min(figures.faults_on.values()) > 0, str(figures)
    assert set(figures.batches) == set(DATABASES)
    for name, most in OPEN_IN_CAMPAIGN.items():
        assert figures.batches_again[name] <= most * len(figures.faults), str(figures)


def test_batches_that_are_done_again_are_counted(tmp_path: Path) -> None:
    """Begun at the same place, or at one before; another operation or range is another matter."""
    walk = [(0, None), (200, 200), (400, 400), (200, 200), (400, 400), (600, 600), (600, 600)]
    lines = [["postgresql:1.0.0#1", done, repr(cursor), n] for n, (done, cursor) in enumerate(walk)]
    lines[4:4] = [[f"elasticsearch:1.0.0#1 {low}-{low + 9}", 0, "None", low] for low in (0, 10, 0)]
    notes = tmp_path / "batches"
    assert read(notes) == []
    notes.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = [(each.database, each.pid) for each in again(read(notes))]
    expected = [("postgresql", pid) for pid in (1, 2, 5)] + [("elasticsearch", 0)]
    assert sorted(found) == sorted(expected)


def test_comparison_sees_what_is_lost_and_doubled(ground: Ground) -> None:
    """One effect more, and one less, in each database: the comparison counts them."""
    generation = Generation(ground, 1, scale=0.01)
    generation.make()
    before = generation.compare()
    assert before.lost > 0
    assert before.doubled == 0
    mixed = ground.mongodb.get_default_database()["mixed_1"]
    mixed.update_many({}, {"$inc": {"n": 2}})
    mixed.update_one({}, {"$inc": {"n": 1}})
    with ground.postgresql() as connection:
        rows = connection.execute("UPDATE whole_1 SET n = 1").rowcount
        connection.execute("UPDATE whole_1 SET n = 2 WHERE id = 1")
    copy = f"{ground.namespace}_1_v1"
    for _ in range(2):
        text = "the text of document 0"
        ground.elasticsearch.index(index=copy, id="0", document={"n": 0, "text": text})
    after = generation.compare()
    assert after.doubled == 3
    assert after.lost == before.lost - rows - 2 * mixed.count_documents({}) - 1
