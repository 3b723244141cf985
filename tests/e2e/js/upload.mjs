// Uploads one file with tus-js-client and tells on standard output what it did, one JSON object a line.
//
// node upload.mjs '{"client": "tus-js-client", "endpoint": ..., "file": ..., "metadata": {...}, ...}'

import { createReadStream, existsSync, writeFileSync } from 'node:fs'

const wish = JSON.parse(process.argv[2])
const tell = (event, facts) => process.stdout.write(`${JSON.stringify({ event, ...facts })}\n`)

const loaded = await import(wish.client)
const tus = loaded.Upload ? loaded : loaded.default

// 5.x has the storage in a module of its own, 4.x among its exports.
async function urlStorage(path) {
  if (!existsSync(path)) writeFileSync(path, '{}')
  const Storage =
    tus.FileUrlStorage ?? (await import(`${wish.client}/node/FileUrlStorage`)).FileUrlStorage
  return new Storage(path)
}

const WATCHED = ['Upload-Offset', 'Location', 'Tidemill-Upload', 'Tidemill-Batch', 'Tidemill-Job']
const headersOf = (response) =>
  Object.fromEntries(
    WATCHED.map((name) => [name, response.getHeader(name)]).filter(([, value]) => value != null),
  )

const options = {
  endpoint: wish.endpoint,
  metadata: wish.metadata ?? {},
  headers: wish.headers ?? {},
  retryDelays: wish.retryDelays ?? [0, 100, 200, 400, 800, 1600, 3200],
  removeFingerprintOnSuccess: true,
  onBeforeRequest: (request) =>
    tell('request', { method: request.getMethod(), offset: request.getHeader('Upload-Offset') ?? null }),
  onAfterResponse: (request, response) =>
    tell('response', {
      method: request.getMethod(),
      status: response.getStatus(),
      headers: headersOf(response),
    }),
  onProgress: (sent, total) => tell('progress', { sent, total }),
  onSuccess: (payload) => {
    tell('success', { url: upload.url, headers: payload?.lastResponse ? headersOf(payload.lastResponse) : {} })
  },
  onError: (error) => {
    tell('error', { message: String(error.message) })
    process.exitCode = 1
  },
}
for (const name of ['chunkSize', 'uploadUrl', 'uploadDataDuringCreation', 'uploadLengthDeferred']) {
  if (wish[name] != null) options[name] = wish[name]
}
if (wish.urlStorage) options.urlStorage = await urlStorage(wish.urlStorage)

const upload = new tus.Upload(createReadStream(wish.file), options)
if (wish.urlStorage) {
  const previous = await upload.findPreviousUploads()
  tell('previous', { count: previous.length })
  if (previous.length > 0) upload.resumeFromPreviousUpload(previous[0])
}
upload.start()
