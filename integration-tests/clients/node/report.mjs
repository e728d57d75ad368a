// Runs what a program names as features and prints what each saw, as one JSON line. Knows no client.
import { readFileSync } from "node:fs";

export const asked = JSON.parse(process.argv[2]);

/** The kinds of what was raised, the status that it carries, and its text. */
export async function refusal(call) {
  try {
    await call();
  } catch (error) {
    const types = [];
    for (let kind = error.constructor; kind?.name; kind = Object.getPrototypeOf(kind)) types.push(kind.name);
    const status = error.status ?? error.statusCode ?? error.httpResponse?.status ?? null;
    return { types, status, message: `${error.message} ${JSON.stringify(error.httpResponse?.body ?? null)}` };
  }
  return { types: [], status: null, message: "nothing was raised" };
}

/** What an asynchronous stream brings, in a list. */
export async function all(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

/** Runs all features, one after the other, and prints the last line. */
export async function tell(name, features) {
  const seen = {};
  for (const [feature, see] of Object.entries(features)) {
    try {
      seen[feature] = { saw: await see() };
    } catch (error) {
      seen[feature] = { broke: `${error.stack}`.slice(0, 3000) };
    }
  }
  const { version } = JSON.parse(readFileSync(`node_modules/${name}/package.json`));
  console.log(JSON.stringify({ version, seen }));
}
