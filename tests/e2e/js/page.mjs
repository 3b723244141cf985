// The page of the browser tests: a file input, both versions of tus-js-client, Uppy, and `told`, what they heard.

import Uppy from '@uppy/core'
import Dashboard from '@uppy/dashboard'
import GoldenRetriever from '@uppy/golden-retriever'
import UppyTus from '@uppy/tus'
import * as tus from 'tus-js-client'
import * as tusFive from 'tus-js-client-5'
import { FetchHttpStack } from 'tus-js-client-5/browser/FetchHttpStack'

const told = []
const tell = (event, facts) => told.push({ event, ...facts })
const finishing = (response) => ({
  upload: response.getHeader('Tidemill-Upload'),
  batch: response.getHeader('Tidemill-Batch'),
  jobs: response.getHeader('Tidemill-Job'),
})
const watching = {
  onAfterResponse: (request, response) =>
    tell('response', { method: request.getMethod(), status: response.getStatus(), ...finishing(response) }),
}
const chosen = () => [...document.querySelector('#files').files]

async function openSession(server, body, headers = {}) {
  const opened = await fetch(`${server}/api/v1/upload`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', ...headers },
    body: JSON.stringify(body),
  })
  return (await opened.json()).session_id
}

// More: slice: [from, to], only a piece of the file; fetch, by fetch() instead of XMLHttpRequest; alone, whatever is
// stored; again, start again when it gives up without an answer (5.0.0-pre2 does so as soon as XMLHttpRequest fails).
const uploadBy = (library) => async (options, more = {}) => {
  const [file] = chosen()
  const upload = new library.Upload(more.slice ? file.slice(...more.slice) : file, {
    metadata: { filename: file.name, filetype: file.type },
    removeFingerprintOnSuccess: true,
    ...watching,
    ...(more.fetch ? { httpStack: new FetchHttpStack() } : {}),
    onSuccess: (payload) =>
      tell('success', { url: upload.url, last: payload?.lastResponse ? finishing(payload.lastResponse) : null }),
    onError: (error) => {
      const status = error.originalResponse?.getStatus() ?? 0
      const isLost = more.again && status === 0
      tell(isLost ? 'lost' : 'error', { message: error.message, status })
      if (isLost) setTimeout(() => upload.start(), 500)
    },
    ...options,
  })
  window.upload = upload
  if (more.alone) return upload.start()
  const previous = await upload.findPreviousUploads()
  tell('previous', { count: previous.length })
  if (previous.length > 0) upload.resumeFromPreviousUpload(previous[0])
  upload.start()
}

function makeUppy(options, meta, more) {
  const uppy = new Uppy({ meta, ...more }).use(UppyTus, { removeFingerprintOnSuccess: true, ...watching, ...options })
  window.uppy = uppy
  uppy.on('upload-success', (file, response) =>
    tell('success', {
      url: response.uploadURL,
      name: file.name,
      last: {
        upload: response.body.xhr.getResponseHeader('Tidemill-Upload'),
        batch: response.body.xhr.getResponseHeader('Tidemill-Batch'),
        jobs: response.body.xhr.getResponseHeader('Tidemill-Job'),
      },
    }),
  )
  uppy.on('upload-error', (file, error, response) =>
    tell(more.may_fail ? 'failed' : 'error', {
      name: file.name,
      message: error.message,
      status: response?.status ?? 0,
    }),
  )
  uppy.on('restored', () => tell('restored', { files: uppy.getFiles().length }))
  return uppy
}

async function uploadByUppy(options, meta = {}, more = {}) {
  const uppy = makeUppy(options, meta, more)
  for (const file of chosen()) uppy.addFile({ name: file.name, type: file.type, data: file, source: 'input' })
  uppy.upload().then((result) => tell('complete', { failed: result?.failed?.length ?? 0 }))
}

// Files are chosen in it, and all else is done with its buttons.
function openDashboard(options, more = {}) {
  const uppy = makeUppy(options, {}, { id: 'dashboard', ...more })
  uppy.use(Dashboard, { inline: true, target: '#dashboard', disableThumbnailGenerator: true })
  if (more.retriever) uppy.use(GoldenRetriever)
  uppy.on('complete', (result) => tell('complete', { failed: result?.failed?.length ?? 0 }))
}

const uploadByTus = uploadBy(tus)
const uploadByTusFive = (options, more) => uploadBy(tusFive)(options, { again: true, ...more })
Object.assign(window, { told, openSession, uploadByTus, uploadByTusFive, uploadByUppy, openDashboard })
