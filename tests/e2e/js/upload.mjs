// Uploads one file with tus-js-client and tells on standard output what it did, one JSON object a line.
//
// node upload.mjs '{"client": "tus-js-client", "endpoint": ..., "file": ..., "metadata": {...}, ...}'

import { run } from './clients.mjs'

const tell = (event, facts) => {
  if (event === 'error') process.exitCode = 1
  process.stdout.write(`${JSON.stringify({ event, ...facts })}\n`)
}

await run(JSON.parse(process.argv[2]), tell)
