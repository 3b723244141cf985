// What a page may bring of its own: a fingerprint, a storage of addresses, a reader of files, a way to send.
// Each tells when it is used.

import { closeSync, openSync, readSync, statSync } from 'node:fs'
import { Readable } from 'node:stream'

export const ownOptions = {
  fingerprint: () => async (file, options) => `own-${options.metadata.filename}`,
  urlStorage: (tell) => new Storage(tell),
  fileReader: (tell) => new Reader(tell),
  httpStack: (tell) => new Stack(tell),
}

// Forgets everything with its process.
class Storage {
  constructor(tell) {
    this.tell = tell
    this.kept = new Map()
  }

  async findAllUploads() {
    return [...this.kept.values()]
  }

  async findUploadsByFingerprint(fingerprint) {
    return [...this.kept.values()].filter((upload) => upload.fingerprint === fingerprint)
  }

  async addUpload(fingerprint, upload) {
    const urlStorageKey = `${fingerprint}-${this.kept.size}`
    this.kept.set(urlStorageKey, { ...upload, fingerprint, urlStorageKey })
    this.tell('kept', { fingerprint, count: this.kept.size })
    return urlStorageKey
  }

  async removeUpload(urlStorageKey) {
    this.kept.delete(urlStorageKey)
    this.tell('kept', { count: this.kept.size })
  }
}

// Reads each slice when it is asked for, into memory.
class Reader {
  constructor(tell) {
    this.tell = tell
  }

  async openFile(input) {
    const { size } = statSync(input.path)
    const slice = async (start, end) => {
      const value = Buffer.alloc(Math.min(end, size) - start)
      const file = openSync(input.path)
      try {
        readSync(file, value, 0, value.length, start)
      } finally {
        closeSync(file)
      }
      this.tell('read', { start, size: value.length })
      return { value: Object.assign(value, { size: value.length }), size: value.length, done: end >= size }
    }
    return { size, slice, close: () => input.destroy?.() }
  }
}

// By fetch(), which sends streams in chunks and without their length.
class Stack {
  constructor(tell) {
    this.tell = tell
  }

  getName() {
    return 'own'
  }

  createRequest(method, url) {
    this.tell('sent', { method })
    return new Request(method, url)
  }
}

class Request {
  constructor(method, url) {
    Object.assign(this, { method, url, headers: {}, stopping: new AbortController(), progress: () => {} })
  }

  getMethod() {
    return this.method
  }

  getURL() {
    return this.url
  }

  setHeader(name, value) {
    this.headers[name] = value
  }

  getHeader(name) {
    return this.headers[name]
  }

  setProgressHandler(handler) {
    this.progress = handler
  }

  async send(body) {
    const streaming = body instanceof Readable ? { duplex: 'half' } : {}
    const { method, headers } = this
    const given = { method, headers, body: body ?? undefined, signal: this.stopping.signal, ...streaming }
    const response = await fetch(this.url, given)
    const text = await response.text()
    if (body?.size) this.progress(body.size)
    return {
      getStatus: () => response.status,
      getHeader: (name) => response.headers.get(name) ?? undefined,
      getBody: () => text,
      getUnderlyingObject: () => response,
    }
  }

  async abort() {
    this.stopping.abort()
  }

  getUnderlyingObject() {
    return this
  }
}
