"""The broker's own redelivery, the second net below the rescue timer, on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, current_app
from kombu import Connection

from dharma_tasks import dispatch, transport
from dharma_tasks.celery_app import app
from dharma_tasks.messages import survey_message
from dharma_tasks.redis_client import connect_redis
from dharma_tasks.settings import Settings

DAY = 24 * 3600


@pytest.fixture
def broker(settings: Settings) -> Iterator[Any]:
    """A way to the broker with the application's own settings, but for a time that is over."""
    transport.install()
    options = dict(app.conf.broker_transport_options)
    options |= {"global_keyprefix": f"{settings.namespace}:", "visibility_timeout": -1}
    with Connection(settings.redis_url.get_secret_value(), transport_options=options) as made:
        yield made


def test_a_message_that_nobody_acknowledged_comes_back(broker: Any, settings: Settings) -> None:
    """After the visibility time the sweep puts it into its queue, and leaves nothing behind."""
    redis: Any = connect_redis(settings)
    ours = settings.namespace
    with broker.SimpleQueue("mongodb") as queue:
        queue.put("work")
        queue.get(timeout=5)
        assert redis.llen(f"{ours}:mongodb") == 0
        assert redis.hlen(f"{ours}:unacked") == 1
        channel = queue.channel
        channel.qos.restore_visible(
            num=channel.unacked_restore_limit, interval=channel.unacked_restore_throttle
        )
        assert redis.llen(f"{ours}:mongodb") == 1
        assert redis.hlen(f"{ours}:unacked") == 0
        queue.get(timeout=5).ack()
    assert redis.hlen(f"{ours}:unacked") == 0


def test_the_net_is_a_second_one() -> None:
    """It is far above what the rescue timer needs, and looked at far more often than it is long."""
    options = app.conf.broker_transport_options
    assert 600 < options["visibility_timeout"] <= DAY
    sweep = options["unacked_restore_interval"] * options["unacked_restore_throttle"]
    assert sweep < options["visibility_timeout"] / 10
    assert app.conf.task_acks_late
    assert app.conf.task_reject_on_worker_lost
    assert app.conf.worker_prefetch_multiplier == 1


def test_a_program_sends_beside_its_own_application(settings: Settings) -> None:
    """To the workers' queue, without becoming the application of a program that has one."""
    mine = Celery("mine")
    dispatch.sender(settings)([[survey_message("run", "mongodb")]])
    assert current_app._get_current_object() is mine
    redis: Any = connect_redis(settings)
    assert redis.llen(f"{settings.namespace}:mongodb") == 1
