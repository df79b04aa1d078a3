/** Captive portals: who is taken for one, and what then passes. */
import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { test } from 'node:test'
import { askForPage, portalOf } from '../../../src/anchoring/portal.ts'

const ANCHOR = '192.0.2.2'

test('a portal is who answers for the anchor with the way elsewhere, or says so itself', () => {
  const portal = (status: number, location?: string) => portalOf(ANCHOR, status, location)?.href
  assert.equal(portal(302, 'http://10.0.0.1/login?to=x'), 'http://10.0.0.1/login?to=x')
  assert.equal(portal(307, 'https://portal.example.net/'), 'https://portal.example.net/')
  assert.equal(portal(511), `http://${ANCHOR}/`)
  assert.equal(portal(200), undefined)
  assert.equal(portal(301, `https://${ANCHOR}/`), undefined, 'a web server beside the anchor')
  assert.equal(portal(302, '/login'), undefined)
  assert.equal(portal(302, 'javascript:alert(1)'), undefined)
  assert.equal(portal(302, 'http://[bad'), undefined)
  assert.equal(portal(302), undefined)
})

test('whoever is asked may answer anything, or nothing', async () => {
  let location: string | undefined = 'http://10.0.0.1/login'
  const server = createServer((_, response) => {
    if (location === undefined) response.socket!.end('rubbish')
    else response.writeHead(302, { location }).end('x'.repeat(1 << 20))
  })
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  const { port } = server.address() as AddressInfo
  const ask = () => askForPage('127.0.0.1', '127.0.0.1', port)
  assert.equal((await ask())?.href, 'http://10.0.0.1/login')
  location = `http://10.0.0.1/${'y'.repeat(20_000)}`
  assert.equal(await ask(), undefined, 'headers without end')
  location = undefined
  assert.equal(await ask(), undefined)
  await new Promise((done) => server.close(done))
  assert.equal(await ask(), undefined, 'nobody there')
})
