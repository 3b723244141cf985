// @tus/server with its file store, as its documentation shows it.
// usage: node tus_server.mjs FOLDER PORT [fsync]
import { open } from 'node:fs/promises'
import path from 'node:path'
import { FileStore } from '@tus/file-store'
import { Server } from '@tus/server'

const [directory, port, policy] = process.argv.slice(2)

// The store itself never syncs. For the row with fsync it does so once per body, as Tidemill does.
class SyncingStore extends FileStore {
  async write(readable, id, offset) {
    const end = await super.write(readable, id, offset)
    const file = await open(path.join(directory, id), 'r+')
    await file.datasync()
    await file.close()
    return end
  }
}

const Store = policy === 'fsync' ? SyncingStore : FileStore
const server = new Server({ path: '/files', datastore: new Store({ directory }) })
server.listen({ host: '127.0.0.1', port: Number(port) })
