// The page of the browser tests: a file input, tus-js-client and Uppy, and `told`, what they heard.

import Uppy from '@uppy/core'
import UppyTus from '@uppy/tus'
import * as tus from 'tus-js-client'

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

async function uploadByTus(options) {
  const [file] = chosen()
  const upload = new tus.Upload(file, {
    metadata: { filename: file.name, filetype: file.type },
    removeFingerprintOnSuccess: true,
    ...watching,
    onSuccess: (payload) =>
      tell('success', { url: upload.url, last: payload?.lastResponse ? finishing(payload.lastResponse) : null }),
    onError: (error) =>
      tell('error', { message: error.message, status: error.originalResponse?.getStatus() ?? 0 }),
    ...options,
  })
  const previous = await upload.findPreviousUploads()
  tell('previous', { count: previous.length })
  if (previous.length > 0) upload.resumeFromPreviousUpload(previous[0])
  window.upload = upload
  upload.start()
}

async function uploadByUppy(options, meta = {}) {
  const uppy = new Uppy({ meta }).use(UppyTus, { removeFingerprintOnSuccess: true, ...watching, ...options })
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
    tell('error', { name: file.name, message: error.message, status: response?.status ?? 0 }),
  )
  for (const file of chosen()) uppy.addFile({ name: file.name, type: file.type, data: file, source: 'input' })
  uppy.upload().then((result) => tell('complete', { failed: result.failed.length }))
}

Object.assign(window, { told, tus, openSession, uploadByTus, uploadByUppy })
