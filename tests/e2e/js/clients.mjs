// One upload by tus-js-client, of either version, as a wish of JSON says; `tell(event, facts)` hears of every step.
//
// A wish: {client, endpoint, file, input?, options?, metadata?, headers?, retryDelays?, urlStorage?, abort?, ...}
//   input        how the file is handed over: path (a ReadStream of node:fs, the default), stream, buffer, blob,
//                file, web-stream
//   options      handed to tus-js-client as they are
//   own          names of options for which something of ours is given: fingerprint, urlStorage, fileReader, httpStack
//   list         tell which options there are, and upload nothing
//   urlStorage   a file in which upload URLs are kept; what is found there is resumed
//   abort        {after: bytes sent, terminate?: bool, again?: bool}
//   onShouldRetry  "always" or "never"

import { createReadStream, existsSync, openAsBlob, readFileSync, writeFileSync } from 'node:fs'
import { Readable } from 'node:stream'

import { ownOptions } from './own.mjs'

const WATCHED = [
  'Location', 'Retry-After', 'Tidemill-Batch', 'Tidemill-Job', 'Tidemill-Upload', 'Upload-Length', 'Upload-Offset',
  'X-Request-ID',
]
const PLAIN = ['chunkSize', 'uploadUrl', 'uploadDataDuringCreation', 'uploadLengthDeferred']

const headersOf = (response) =>
  Object.fromEntries(
    WATCHED.map((name) => [name, response.getHeader(name)]).filter(([, value]) => value != null),
  )

export async function load(client) {
  const loaded = await import(client)
  return loaded.Upload ? loaded : loaded.default
}

// 5.x has the storage in a module of its own, 4.x among its exports.
async function openUrlStorage(client, tus, path) {
  if (!existsSync(path)) writeFileSync(path, '{}')
  const Storage = tus.FileUrlStorage ?? (await import(`${client}/node/FileUrlStorage`)).FileUrlStorage
  return new Storage(path)
}

async function openInput(kind, path) {
  switch (kind ?? 'path') {
    case 'path':
      return createReadStream(path)
    case 'stream':
      return Readable.from(pieces(readFileSync(path)))
    case 'buffer':
      return readFileSync(path)
    case 'blob':
      return openAsBlob(path)
    case 'file':
      return new File([await openAsBlob(path)], 'clip.mp4', { type: 'video/mp4', lastModified: 1 })
    case 'web-stream':
      return (await openAsBlob(path)).stream()
    default:
      throw new Error(`no such input: ${kind}`)
  }
}

function* pieces(content, size = 50_000) {
  for (let start = 0; start < content.length; start += size) yield content.subarray(start, start + size)
}

function optionsOf(wish, tell) {
  const options = {
    endpoint: wish.endpoint,
    metadata: wish.metadata ?? {},
    headers: wish.headers ?? {},
    retryDelays: wish.retryDelays ?? [0, 100, 200, 400, 800, 1600, 3200, 3200, 3200, 3200],
    removeFingerprintOnSuccess: true,
    onBeforeRequest: (request) =>
      tell('request', {
        method: request.getMethod(),
        offset: request.getHeader('Upload-Offset') ?? null,
        concat: request.getHeader('Upload-Concat') ?? null,
        id: request.getHeader('X-Request-ID') ?? null,
      }),
    onAfterResponse: (request, response) =>
      tell('response', {
        method: request.getMethod(),
        concat: request.getHeader('Upload-Concat') ?? null,
        status: response.getStatus(),
        headers: headersOf(response),
      }),
  }
  for (const name of PLAIN) if (wish[name] != null) options[name] = wish[name]
  if (wish.onShouldRetry) {
    options.onShouldRetry = (error, attempt) => {
      tell('asked', { status: error.originalResponse?.getStatus() ?? 0, attempt })
      return wish.onShouldRetry === 'always'
    }
  }
  for (const name of wish.own ?? []) options[name] = ownOptions[name](tell)
  // JSON knows no Infinity; left out, it is what tus-js-client takes.
  return Object.assign(options, wish.options ?? {})
}

export async function run(wish, tell) {
  const tus = await load(wish.client)
  if (wish.list) {
    tell('options', { names: Object.keys(tus.defaultOptions) })
    return
  }
  if (wish.terminate) {
    await tus.Upload.terminate(wish.terminate, optionsOf(wish, tell))
    tell('terminated', { url: wish.terminate })
    return
  }
  const options = optionsOf(wish, tell)
  if (wish.urlStorage) options.urlStorage = await openUrlStorage(wish.client, tus, wish.urlStorage)
  const input = await openInput(wish.input, wish.file)
  await new Promise((resolve, reject) => {
    let abort = wish.abort
    const stop = async () => {
      await upload.abort(abort.terminate ?? false)
      tell('aborted', { url: upload.url })
      if (!abort.again) return resolve()
      // A hand needs as long; 4.x would go on twice if a response were just being read.
      setTimeout(() => upload.start(), 250)
    }
    const given = {
      ...options,
      onProgress: (sent, total) => {
        tell('progress', { sent, total })
        if (abort && !abort.begun && sent >= abort.after) {
          abort = { ...abort, begun: true }
          // Not from within: abort() is for those who press a button.
          setTimeout(() => stop().catch(reject), 0)
        }
      },
      onChunkComplete: (size, accepted, total) => tell('chunk', { size, accepted, total }),
      onUploadUrlAvailable: () => tell('url', { url: upload.url }),
      onSuccess: (payload) => {
        const headers = payload?.lastResponse ? headersOf(payload.lastResponse) : {}
        tell('success', { url: upload.url, headers })
        resolve()
      },
      onError: (error) => {
        const response = error.originalResponse
        tell('error', {
          message: String(error.message),
          status: response?.getStatus() ?? 0,
          body: response?.getBody() ?? null,
        })
        resolve()
      },
    }
    tell('options', { names: Object.keys(given) })
    const upload = new tus.Upload(input, given)
    resumeAndStart(upload, wish, tell).catch(reject)
  })
}

async function resumeAndStart(upload, wish, tell) {
  if (wish.urlStorage) {
    const previous = await upload.findPreviousUploads()
    tell('previous', { count: previous.length })
    if (previous.length > 0) upload.resumeFromPreviousUpload(previous[0])
  }
  upload.start()
}
