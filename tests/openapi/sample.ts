// What a user of the generated client writes. It is compiled, never run: every line here is a
// claim about the types that the document gives.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema";

type Session = components["schemas"]["Session"];
type Problem = components["schemas"]["Problem"];

const client = createClient<paths>({ baseUrl: "http://127.0.0.1:8080" });

function explain(problem: Problem): string {
  const code: components["schemas"]["ProblemCode"] = problem.code;
  if (code === "pool_not_found") return "make the pool first";
  return problem.errors.map((error) => `${error.pointer} ${error.message}`).join("; ");
}

export async function start(): Promise<Session> {
  const { data, error } = await client.POST("/v1/sessions", {
    params: { header: { "Idempotency-Key": "once" } },
    body: { pool: "local", spec: { command: ["sleep", "600"] }, labels: { team: "blue" } },
  });
  if (error) throw new Error(explain(error));
  return data;
}

export async function work(agent: string, incarnation: number): Promise<string[]> {
  const { data, error } = await client.POST("/v1/agents/{agent}/claim", {
    params: { path: { agent } },
    body: { incarnation, max_sessions: 5, wait_seconds: 30 },
  });
  if (error) throw new Error(explain(error));
  return data.assignments
    .filter((assignment) => assignment.action === "start")
    .map((assignment) => {
      // Always there, null when empty: neither may be undefined.
      const agentId: string | null = assignment.session.assigned_agent_id;
      const port: number | undefined = assignment.session.endpoint?.port;
      return `${assignment.session.id} ${agentId} ${port}`;
    });
}

export async function page(): Promise<string | null> {
  const { data, error } = await client.GET("/v1/sessions", {
    params: { query: { desired_state: "running", label: ["team:blue"], limit: 10 } },
  });
  if (error) throw new Error(explain(error));
  const sessions: Session[] = data.items;
  // @ts-expect-error not one of the words
  const wrong: Session["state"] = "Running";
  return sessions.length > 0 && !wrong ? null : data.next_cursor;
}
