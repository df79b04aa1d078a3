/** IHMP's sockets when addresses come and go faster than they can be bound. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { IhmpLinks } from '../../../src/translation/links.ts'

test('an address that could not be bound goes before it is tried again', async () => {
  const strange = '192.0.2.77' // no address of this machine
  let failed: (text: string) => void = () => {}
  const said = new Promise<string>((resolve) => {
    failed = resolve
  })
  const links = new IhmpLinks({ port: 0, netns: undefined, message: () => {}, log: (text) => failed(text) })
  links.set(new Map([[strange, 'lo']]))
  assert.match(await said, /EADDRNOTAVAIL/)
  links.set(new Map())
  links.send(new Uint8Array(1), { local: strange, foreign: '192.0.2.1' }, 1)
  links.close()
})
