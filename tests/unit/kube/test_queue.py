"""The work queue, in fake time."""

import asyncio
from collections import Counter

import pytest

from holdfast.kube.queue import Backoff, ShutDown, TokenBucket, WorkQueue

pytestmark = pytest.mark.looptime


def queue(**arguments: object) -> WorkQueue[str]:
    return WorkQueue(chance=lambda: 0.0, **arguments)  # type: ignore[arg-type]


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_key_added_twice_is_one_item() -> None:
    q = queue()
    q.add("a")
    q.add("a")
    assert await q.get() == "a"
    assert len(q) == 1  # with its worker
    q.done("a")
    assert len(q) == 0


async def test_keys_come_in_the_order_in_which_they_were_added() -> None:
    q = queue()
    for key in "abc":
        q.add(key)
    assert [await q.get() for _ in range(3)] == ["a", "b", "c"]


async def test_a_key_that_is_with_a_worker_is_given_to_no_other_one() -> None:
    q = queue()
    q.add("a")
    await q.get()
    q.add("a")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(q.get(), 10)


async def test_a_key_added_while_it_is_processed_comes_back_once_it_is_done() -> None:
    q = queue()
    q.add("a")
    key = await q.get()
    q.add("a")
    q.add("a")
    q.done(key)
    assert await q.get() == "a"
    q.done("a")
    assert len(q) == 0


async def test_a_key_not_added_again_does_not_come_back() -> None:
    q = queue()
    q.add("a")
    q.done(await q.get())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(q.get(), 1000)


async def test_no_key_is_ever_with_two_workers_and_none_is_lost() -> None:
    q = queue()
    at_work: Counter[str] = Counter()
    seen: Counter[str] = Counter()

    async def worker() -> None:
        while True:
            try:
                key = await q.get()
            except ShutDown:
                return
            at_work[key] += 1
            assert at_work[key] == 1
            await asyncio.sleep(0.3)
            seen[key] += 1
            at_work[key] -= 1
            q.done(key)

    workers = [asyncio.create_task(worker()) for _ in range(4)]
    for _ in range(50):
        for key in "abcdefgh":
            q.add(key)
        await asyncio.sleep(0.1)
    await asyncio.sleep(10)
    q.shut_down()
    await asyncio.gather(*workers)
    assert set(seen) == set("abcdefgh")
    assert max(seen.values()) <= 5 / 0.3 + 2


async def test_a_delayed_key_comes_at_its_time() -> None:
    q = queue()
    q.add_after("a", 30)
    assert await q.get() == "a"
    assert now() == 30


async def test_the_earliest_of_several_delays_wins() -> None:
    q = queue()
    q.add_after("a", 30)
    q.add_after("a", 10)
    q.add_after("a", 20)
    await q.get()
    assert now() == 10
    q.done("a")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(q.get(), 100)


async def test_taking_a_key_cancels_its_timer() -> None:
    q = queue()
    q.add_after("a", 30)
    q.add("a")
    q.done(await q.get())
    assert q.scheduled == 0


async def test_a_delay_asked_for_while_the_key_is_processed_is_kept() -> None:
    q = queue()
    q.add("a")
    await q.get()
    q.add_after("a", 5)
    q.done("a")
    await q.get()
    assert now() == 5


async def test_a_delay_that_ends_while_the_key_is_processed_brings_it_back_afterwards() -> None:
    q = queue()
    q.add("a")
    await q.get()
    q.add_after("a", 5)
    await asyncio.sleep(20)
    q.done("a")
    assert await q.get() == "a"
    assert now() == 20


async def test_retries_of_a_key_wait_twice_as_long_each_time_up_to_the_cap_and_never_end() -> None:
    q = queue(backoff=Backoff(first=1, cap=60))
    waits = []
    for _ in range(200):
        waits.append(q.retry("a"))
        await q.get()
        q.done("a")
    assert waits[:7] == [1, 2, 4, 8, 16, 32, 60]
    assert set(waits[7:]) == {60}


async def test_a_success_resets_the_backoff() -> None:
    q = queue(backoff=Backoff(first=1))
    for _ in range(3):
        q.retry("a")
    q.forget("a")
    assert q.failures("a") == 0
    assert q.retry("a") == 1


async def test_backoff_is_per_key() -> None:
    q = queue(backoff=Backoff(first=1))
    for _ in range(5):
        q.retry("a")
    assert q.retry("b") == 1


async def test_a_retry_obeys_the_wait_that_the_server_asked_for() -> None:
    q = queue(backoff=Backoff(first=1))
    assert q.retry("a", at_least=17) == 17


def test_jitter_takes_off_at_most_half() -> None:
    backoff = Backoff(first=1, cap=60)
    assert backoff.delay(3, chance=0.0) == 8
    assert backoff.delay(3, chance=0.5) == 6
    assert 4 <= backoff.delay(3, chance=0.999) < 4.1
    assert backoff.delay(10**6, chance=0.0) == 60


def test_a_bucket_lets_a_burst_through_and_then_its_rate() -> None:
    bucket = TokenBucket(rate=10, burst=3)
    assert [round(bucket.reserve(100.0), 6) for _ in range(6)] == [0, 0, 0, 0.1, 0.2, 0.3]
    assert bucket.reserve(200.0) == 0


async def test_a_thousand_failures_at_once_come_back_at_the_rate_of_the_bucket() -> None:
    q = queue(backoff=Backoff(first=0.1), bucket=TokenBucket(rate=100, burst=100))
    for number in range(1000):
        q.retry(str(number))
    for _ in range(1000):
        q.done(await q.get())
    assert now() == pytest.approx(9.0)


async def test_shutting_down_frees_every_worker_and_forgets_what_waits() -> None:
    q = queue()
    workers = [asyncio.create_task(q.get()) for _ in range(3)]
    await asyncio.sleep(0)
    q.add_after("b", 10)
    q.shut_down()
    q.add("a")
    results = await asyncio.gather(*workers, return_exceptions=True)
    assert [type(result) for result in results] == [ShutDown] * 3
    assert len(q) == 0
    assert q.scheduled == 0
    with pytest.raises(ShutDown):
        await q.get()


async def test_a_key_is_not_lost_with_the_worker_that_was_woken_for_it_and_cancelled() -> None:
    q = queue()
    first = asyncio.create_task(q.get())
    second = asyncio.create_task(q.get())
    await asyncio.sleep(0)
    q.add("a")
    first.cancel()
    assert await asyncio.wait_for(second, 1) == "a"
