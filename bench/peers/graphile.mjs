// Drives graphile-worker: a task that does nothing.

import { Logger, makeWorkerUtils, run } from "graphile-worker";
import { count, fill, wake, wanted, work } from "./common.mjs";

const silent = new Logger(() => () => {});
const connection = { connectionString: wanted.url, logger: silent };

async function start() {
  const { concurrency, local_queue, complete_delay_ms } = wanted.settings;
  const worker = { getQueueNameBatchDelay: 50 };
  if (local_queue > 0) worker.localQueue = { size: local_queue };
  if (complete_delay_ms >= 0) worker.completeJobBatchDelay = complete_delay_ms;
  const runner = await run({
    ...connection,
    concurrency,
    // One more, for what listens.
    maxPoolSize: concurrency + 2,
    noHandleSignals: true,
    taskList: { nothing: async () => count() },
    preset: { worker },
  });
  return () => runner.stop();
}

const utils = await makeWorkerUtils(connection);
switch (wanted.mode) {
  case "fill":
    await utils.migrate();
    await fill((jobs) =>
      utils.withPgClient((client) =>
        client.query(
          `SELECT count(*) FROM graphile_worker.add_jobs(ARRAY(
             SELECT json_populate_record(null::graphile_worker.job_spec, '{"identifier": "nothing"}')
             FROM generate_series(1, $1::int)))`,
          [jobs],
        ),
      ),
    );
    break;
  case "work":
    await work(start);
    break;
  case "wake":
    await utils.migrate();
    await wake(start, () => utils.addJob("nothing", {}));
    break;
}
