// What the bench's drivers of Node.js libraries have in common: how they are told what to do, and how
// they count. One process is one worker; the bench says when all of them begin.

import { createInterface } from "node:readline";

/** What the bench wants: `{url, mode, ...}`. */
export const wanted = JSON.parse(process.argv[2]);

let handled = 0;
let waiter = null;

/** The job: it does nothing but be counted. */
export function count(jobs = 1) {
  handled += jobs;
  if (waiter !== null) {
    const wake = waiter;
    waiter = null;
    wake(process.hrtime.bigint());
  }
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);

/** Works off a backlog: `start` gives what stops the worker after what it has in hand. */
export async function work(start) {
  const go = new Promise((resolve) => createInterface({ input: process.stdin }).once("line", resolve));
  say({ ready: true });
  await go;
  const stop = await start();
  await sleep(wanted.warm_seconds * 1000);
  const [before, begun] = [handled, process.hrtime.bigint()];
  await sleep(wanted.seconds * 1000);
  const [count, took] = [handled - before, Number(process.hrtime.bigint() - begun) / 1e9];
  await stop();
  say({ count, seconds: took, handled });
  process.exit(0);
}

/** Adds jobs one by one to an idle worker, and says how long each took until its handler began. */
export async function wake(start, add) {
  const stop = await start();
  const milliseconds = [];
  for (let sample = 0; sample < wanted.samples + wanted.unmeasured; sample += 1) {
    await sleep(wanted.pause_ms * (0.5 + Math.random()));
    const begun = process.hrtime.bigint();
    const woken = new Promise((resolve) => (waiter = resolve));
    await add();
    const took = Number((await woken) - begun) / 1e6;
    if (sample >= wanted.unmeasured) milliseconds.push(took);
  }
  await stop();
  say({ milliseconds });
  process.exit(0);
}

/** Calls `add` with portions of a number of jobs. */
export async function fill(add) {
  for (let left = wanted.count; left > 0; left -= 10_000) await add(Math.min(left, 10_000));
  process.exit(0);
}
