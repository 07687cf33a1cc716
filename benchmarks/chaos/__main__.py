"""`make chaos KILLS=100 SEED=1 MINUTES=45 LOAD_MINUTES=0 SUBMITTERS=50 WORKERS=20`."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pydantic import SecretStr

from benchmarks.chaos.campaign import KINDS, Campaign, Wanted, evidence
from benchmarks.chaos.crowd import crowd
from benchmarks.chaos.endurance import endurance
from benchmarks.chaos.ground import Ground
from benchmarks.chaos.load import under_load
from dharma_tasks.local import LocalEngines
from dharma_tasks.settings import Settings


def main() -> int:
    """Run it on engines of its own; 1 where anything was lost, doubled, or went wrong."""
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="dharma-chaos-"))
    engines = LocalEngines(folder / "engines")
    status = 1
    try:
        print(f"seed {options.seed}; logs in {folder / 'logs'}", flush=True)
        engines.up()
        status = _with(Ground(engines, _settings(engines, "chaos"), folder), options, _campaign)
        if options.load_minutes and status == 0:
            quiet = Ground(engines, _settings(engines, "load"), folder / "load")
            status = _with(quiet, options, _load)
        if options.submitters and status == 0:
            many = Ground(engines, _settings(engines, "crowd"), folder / "crowd")
            status = _with(many, options, _crowd)
        if options.workers and status == 0:
            long = Ground(engines, _settings(engines, "endurance"), folder / "endurance")
            status = _with(long, options, _endurance)
    finally:
        engines.delete()
        if status == 0 and not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"seed {options.seed}; the logs are kept in {folder / 'logs'}", flush=True)
    return status


def _with(
    ground: Ground,
    options: argparse.Namespace,
    part: Callable[[Ground, argparse.Namespace], bool],
) -> int:
    well = False
    try:
        well = part(ground, options)
    finally:
        if not well:
            evidence(ground)
        ground.close()
    return 0 if well else 1


def _campaign(ground: Ground, options: argparse.Namespace) -> bool:
    wanted = Wanted(options.kills, options.seed, options.minutes * 60)
    if options.kinds:
        wanted = replace(wanted, kinds=tuple((kind, 1) for kind in options.kinds.split(",")))
    figures = Campaign(ground, replace(wanted, together=options.together)).run()
    print(f"\n{figures}", flush=True)
    return figures.well


def _load(ground: Ground, options: argparse.Namespace) -> bool:
    found = under_load(ground, options.load_minutes * 60)
    print(f"\n{found}", flush=True)
    return not (found.taken_over or ground.findings)


def _crowd(ground: Ground, options: argparse.Namespace) -> bool:
    found = crowd(ground, options.submitters)
    print(f"\n{found}", flush=True)
    return not ground.findings


def _endurance(ground: Ground, options: argparse.Namespace) -> bool:
    found = endurance(ground, options.workers)
    print(f"\n{found}", flush=True)
    return not ground.findings


def _settings(engines: LocalEngines, namespace: str) -> Settings:
    """The defaults, but for smaller batches: there is less data than in a real project."""
    found = engines.environment()
    return Settings(
        _env_file=None,
        redis_url=SecretStr(found["DHARMA_REDIS_URL"]),
        mongodb_url=SecretStr(found["DHARMA_MONGODB_URL"]),
        postgresql_url=SecretStr(found["DHARMA_POSTGRESQL_URL"]),
        elasticsearch_url=SecretStr(found["DHARMA_ELASTICSEARCH_URL"]),
        namespace=namespace,
        batch_seconds=0.3,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="faults to make")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))  # noqa: S311
    parser.add_argument("--minutes", type=float, default=45, help="no new fault after these")
    parser.add_argument(
        "--load-minutes", type=float, default=0, help="and so long under full load, without faults"
    )
    parser.add_argument(
        "--submitters", type=int, default=0, help="and so many submit one folder at once"
    )
    parser.add_argument(
        "--workers", type=int, default=0, help="and so many work on one run of many batches"
    )
    parser.add_argument("--kinds", help=f"only these, with commas: {', '.join(KINDS)}")
    parser.add_argument(
        "--together", type=float, default=0.25, help="how often one comes before all is well again"
    )
    parser.add_argument("--keep", action="store_true", help="keep the logs of a good one too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
