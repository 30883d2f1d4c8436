// Drives pg-boss: a queue whose handler does nothing.

import { PgBoss } from "pg-boss";
import { count, fill, wake, wanted, work } from "./common.mjs";

const QUEUE = "nothing";
const { concurrency, batch } = wanted.settings;

// One process looks after the queue; statistics and schedules are of no use here.
const boss = new PgBoss({
  connectionString: wanted.url,
  max: (concurrency ?? 1) + 2,
  schedule: false,
  monitorVacuum: false,
  useListenNotify: true,
});
boss.on("error", (error) => process.stderr.write(`${error.stack}\n`));

async function start() {
  const options = {
    localConcurrency: concurrency,
    batchSize: batch,
    pollingIntervalSeconds: 0.5,
    notifyPollingIntervalSeconds: 0.5,
    burstWhenBatchFull: true,
  };
  await boss.work(QUEUE, options, async (jobs) => count(jobs.length));
  return () => boss.stop({ graceful: true, timeout: 30_000 });
}

await boss.start();
if (wanted.mode === "fill" || wanted.mode === "wake") await boss.createQueue(QUEUE, { notify: true });
switch (wanted.mode) {
  case "fill":
    await fill((jobs) => boss.insert(QUEUE, Array.from({ length: jobs }, () => ({ data: {} }))));
    break;
  case "work":
    await work(start);
    break;
  case "wake":
    await wake(start, () => boss.send(QUEUE, {}));
    break;
}
