// A real Chromium, driven by lines of JSON: {call, do, ...} in, {call, value} or {call, error} out.
//
// node browser.mjs EXECUTABLE PROFILE_FOLDER
//
// The page comes from an address of its own on 127.0.0.1, so that the service is another origin.

import { createServer } from 'node:http'
import { createInterface } from 'node:readline'

import { buildSync } from 'esbuild'
import { chromium } from 'playwright-core'

const [executablePath, profile] = process.argv.slice(2)
const ARGUMENTS = [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-proxy-server',
]
const HTML = '<!doctype html><meta charset="utf-8"><title>Uploads</title><input type="file" id="files" multiple><div id="dashboard"></div><script src="/page.js"></script>'

const built = buildSync({
  entryPoints: ['page.mjs'],
  bundle: true,
  format: 'iife',
  platform: 'browser',
  write: false,
  logLevel: 'error',
})
const script = built.outputFiles[0].text
const site = createServer((request, response) => {
  const isScript = request.url === '/page.js'
  response.setHeader('Content-Type', isScript ? 'text/javascript; charset=utf-8' : 'text/html; charset=utf-8')
  response.end(isScript ? script : HTML)
})
await new Promise((resolve) => site.listen(0, '127.0.0.1', resolve))
const address = `http://127.0.0.1:${site.address().port}/`

const context = await chromium.launchPersistentContext(profile, {
  executablePath,
  headless: true,
  args: ARGUMENTS,
  chromiumSandbox: false,
})
context.setDefaultTimeout(30_000)
let page = context.pages()[0] ?? (await context.newPage())
let crashes = []

const deeds = {
  // A new page without anything that was stored.
  fresh: async () => {
    const before = page
    page = await context.newPage()
    await before.close()
    crashes = []
    page.on('pageerror', (error) => crashes.push(String(error)))
    await page.goto(address)
    await page.evaluate(() => localStorage.clear())
    return address
  },
  reload: async () => {
    await page.reload()
  },
  choose: async ({ paths, input }) => page.locator(input).first().setInputFiles(paths),
  click: async ({ what }) => page.locator(what).first().click(),
  evaluate: async ({ script }) => page.evaluate(script),
  crashes: async () => crashes,
}

for await (const line of createInterface({ input: process.stdin })) {
  const { call, do: deed, ...facts } = JSON.parse(line)
  const answer = await deeds[deed](facts).then(
    (value) => ({ call, value: value ?? null }),
    (error) => ({ call, error: String(error.message ?? error) }),
  )
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
await context.close()
site.close()
