/** IHMP's sockets when addresses come and go faster than they can be bound. */
import assert from 'node:assert/strict'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { test } from 'node:test'
import { IhmpLinks } from '../../../src/translation/links.ts'

test('an address that could not be bound goes before it is tried again', async () => {
  const strange = '192.0.2.77' // no address of this machine
  let failed: (text: string) => void = () => {}
  const said = new Promise<string>((resolve) => {
    failed = resolve
  })
  const links = new IhmpLinks({
    port: 0,
    netns: undefined,
    message: () => {},
    log: (_, text) => failed(text),
  })
  links.set(new Map([[strange, 'lo']]))
  assert.match(await said, /EADDRNOTAVAIL/)
  links.set(new Map())
  links.send(new Uint8Array(1), { local: strange, foreign: '192.0.2.1' }, 1)
  links.close()
})

test('a port that another program has is said once, with its mend, and taken when it is free', async () => {
  const other = createSocket('udp4').bind({ port: 0, address: '127.0.0.1', exclusive: true })
  await once(other, 'listening')
  const { port } = other.address()
  const warnings: string[] = []
  let tries = 0
  let arrived: (bytes: Uint8Array) => void = () => {}
  const message = new Promise<Uint8Array>((resolve) => {
    arrived = resolve
  })
  const links = new IhmpLinks({
    port,
    netns: undefined,
    message: (bytes) => arrived(bytes),
    log: (level, text) => {
      if (level === 'warn') warnings.push(text)
      else if (++tries === 2) other.close()
    },
  })
  links.set(new Map([['127.0.0.1', 'lo']]))
  const sender = createSocket('udp4')
  const again = setInterval(() => sender.send('x', port, '127.0.0.1'), 50)
  assert.deepEqual([...(await message)], [0x78])
  clearInterval(again)
  sender.close()
  links.close()
  assert.equal(warnings.length, 1)
  assert.match(warnings[0]!, /another program has UDP port \d+ at 127\.0\.0\.1.*\[dime\] port/)
})
