// Runs wishes that come as lines of JSON, each with its `run`, all at once; tells of each with its `run`, at last "end".

import { createInterface } from 'node:readline'

import { run } from './clients.mjs'

for await (const line of createInterface({ input: process.stdin })) {
  const wish = JSON.parse(line)
  const tell = (event, facts) =>
    process.stdout.write(`${JSON.stringify({ run: wish.run, event, ...facts })}\n`)
  run(wish, tell)
    .catch((error) => tell('error', { message: String(error.message ?? error), status: 0, body: null }))
    .finally(() => tell('end', {}))
}
