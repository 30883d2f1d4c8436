"""Drives pgqueuer: an entry point that does nothing, on uvloop and asyncpg."""

import asyncio
import json
import random
import sys
import time
from datetime import timedelta

import asyncpg
import uvloop
from pgqueuer.db import AsyncpgDriver
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries

WANTED = json.loads(sys.argv[1])
handled = 0
waiter = None


def say(what):
    print(json.dumps(what), flush=True)


async def connect():
    return AsyncpgDriver(await asyncpg.connect(WANTED["url"]))


async def start():
    """Starts a worker; gives what stops it after what it has in hand."""
    manager = QueueManager(Queries(await connect()))

    @manager.entrypoint("nothing")
    async def nothing(job):
        global handled, waiter
        handled += 1
        if waiter is not None and not waiter.done():
            waiter.set_result(time.perf_counter())

    running = asyncio.create_task(
        manager.run(
            batch_size=WANTED["settings"]["batch"],
            dequeue_timeout=timedelta(seconds=30),
            heartbeat_timeout=timedelta(seconds=60),
        )
    )

    async def stop():
        manager.shutdown.set()
        await running

    return stop


async def work():
    say({"ready": True})
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    stop = await start()
    await asyncio.sleep(WANTED["warm_seconds"])
    before, begun = handled, time.perf_counter()
    await asyncio.sleep(WANTED["seconds"])
    count, took = handled - before, time.perf_counter() - begun
    await stop()
    say({"count": count, "seconds": took, "handled": handled})


async def wake():
    global waiter
    queries = await prepared()
    stop = await start()
    milliseconds = []
    for sample in range(WANTED["samples"] + WANTED["unmeasured"]):
        await asyncio.sleep(WANTED["pause_ms"] / 1000 * random.uniform(0.5, 1.5))
        waiter = asyncio.get_running_loop().create_future()
        begun = time.perf_counter()
        await queries.enqueue("nothing", b"{}")
        took = await waiter - begun
        if sample >= WANTED["unmeasured"]:
            milliseconds.append(took * 1000)
    await stop()
    say({"milliseconds": milliseconds})


async def prepared():
    """Its tables, made where they are missing."""
    queries = Queries(await connect())
    if not await queries.has_table(queries.qbe.settings.queue_table):
        await queries.install()
    return queries


async def fill():
    queries = await prepared()
    left = WANTED["count"]
    while left > 0:
        jobs = min(left, 10_000)
        await queries.enqueue(["nothing"] * jobs, [b"{}"] * jobs, [0] * jobs)
        left -= jobs


uvloop.run({"work": work, "wake": wake, "fill": fill}[WANTED["mode"]]())
